"""A model as an ONNX module, which other programs read."""

import importlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from image_classifier.data.folders import shown
from image_classifier.data.preprocessing import ImageError, Preprocessing
from image_classifier.errors import UsersError
from image_classifier.nets.classifier import Classifier, Head
from image_classifier.nets.weights_packages import install

EXAMPLE = Path(__file__).with_name("onnx_example.py")  # a script for people who have only the module
PACKAGES = ("onnx", "onnxscript")  # they are large, and few people need them
COMPARED_AT_ONCE = 3  # it also keeps every layer's output for them; must differ from the number of example images
COMPARED_IMAGES = 10  # ONNX's reference implementation takes about a second for each
TOLERANCE = 1e-4  # of a probability; other programs add numbers in another order


@dataclass(frozen=True)
class Compared:
    """The largest difference in probability between the exported module and the model, on this many images."""

    images: int  # 0: on random pixels
    difference: float


class Portable(nn.Module):
    """The whole model: uint8 RGB images [n, 3, side, side] → probabilities [n, classes], in the order of the labels."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self._backbone = classifier.backbone.module
        self._preprocessing: Preprocessing = classifier.backbone.preprocessing
        self._head: Head = classifier.head

    def forward(self, pixels: Tensor) -> Tensor:
        logits = self._head(self._backbone(self._preprocessing.normalize(pixels)))
        return logits.sigmoid() if self._head.multiple else logits.softmax(1)


def missing_packages() -> str:
    """Which of ONNX's packages aren't installed, and how to install them; "" if all are."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return f"an ONNX file needs packages that aren't installed ({', '.join(missing)}): run {install(*missing)}"


def write_onnx(classifier: Classifier, file: Path, images: Sequence[Path] = ()) -> Compared:
    """Writes the module with torch's exporter, and compares its probabilities with the model's.

    Its metadata has the record that EXAMPLE reads: the classes, and how to preprocess an image.

    ONNX's reference implementation runs it on some of these images, or on random pixels if there are none. Raises
    ImageError if an image can't be read, and UsersError if the probabilities differ or a package is missing.
    """
    if missing := missing_packages():
        raise UsersError(missing)
    reference = importlib.import_module("onnx.reference")
    logging.getLogger("onnx_ir").setLevel(logging.WARNING)  # it logs each of its steps
    preprocessing = classifier.backbone.preprocessing
    side = preprocessing.crop_size
    generator = torch.Generator().manual_seed(0)
    example, other = (torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=generator) for n in (2, 3))
    some = images[:: max(1, len(images) // COMPARED_IMAGES)][:COMPARED_IMAGES]
    if some:
        other = torch.stack([_pixels(path, preprocessing) for path in some])
    portable = Portable(classifier).eval()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # torch's exporter warns about its own internals
        program = torch.onnx.export(
            portable,
            (example,),
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("n", min=1)}},
            verbose=False,
        )
        assert program is not None
        read = {name: getattr(preprocessing, name) for name in ("resize_size", "crop_size", "interpolation")}
        program.model.metadata_props["record"] = json.dumps({"classes": classifier.classes, "preprocessing": read})
        program.save(file, external_data=False)
        module = reference.ReferenceEvaluator(str(file))
        answers = [module.run(None, {"images": piece.numpy()})[0] for piece in torch.split(other, COMPARED_AT_ONCE)]
        difference = float((torch.from_numpy(np.concatenate(answers)) - portable(other)).abs().max())
    if not difference <= TOLERANCE:  # also if it is NaN
        raise UsersError(
            f"the exported model's probabilities differ from the original's by {difference:.1e}, so the export was "
            "discarded"
        )
    return Compared(len(some), difference)


def _pixels(path: Path, preprocessing: Preprocessing) -> Tensor:
    try:
        return preprocessing(path)
    except ImageError as error:
        raise type(error)(f"{shown(path)}: {error}") from error
