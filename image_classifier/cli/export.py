"""Exports a model in formats that other programs read."""

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from image_classifier.cli.outputs import written_aside
from image_classifier.data.preprocessing import Preprocessing
from image_classifier.errors import UsersError
from image_classifier.nets.classifier import Classifier, Head

Target = Literal["onnx", "labels"]
SUFFIXES: dict[Target, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "labels": (".txt", ".labels", ".names"),
}
COMPARED_IMAGES = 10  # ONNX's reference implementation takes about a second for each
TOLERANCE = 1e-4  # of a probability; other programs add numbers in another order


@dataclass(frozen=True)
class Compared:
    """The largest difference of a probability between the exported module and the model, on this many images."""

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


def export(classifier: Classifier, target: Target, file: Path, images: Sequence[Path] = ()) -> Compared | None:
    """Writes the file; raises UsersError if the exported model gives other answers than the model.

    An ONNX module is compared on some of these images, on random pixels if there are none; raises ImageError if one
    can't be read.
    """
    with written_aside(file) as part:
        if target == "onnx":
            return _write_onnx(classifier, part, images)
        part.write_text("".join(f"{name}\n" for name in classifier.classes), encoding="utf-8")
    return None


def _write_onnx(classifier: Classifier, file: Path, images: Sequence[Path]) -> Compared:
    """Writes the module with torch's exporter, and compares what ONNX's reference implementation makes of it.

    These packages are large and few people need them, so they aren't installed by default.
    """
    try:
        reference = importlib.import_module("onnx.reference")
        importlib.import_module("onnxscript")
    except ImportError as error:
        raise UsersError(f"ONNX needs more packages ({error}): run `pip install onnx onnxscript`") from error
    preprocessing = classifier.backbone.preprocessing
    side = preprocessing.crop_size
    generator = torch.Generator().manual_seed(0)
    example, other = (torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=generator) for n in (2, 3))
    some = images[:: max(1, len(images) // COMPARED_IMAGES)][:COMPARED_IMAGES]
    if some:
        other = torch.stack([preprocessing(path) for path in some])
    portable = Portable(classifier).eval()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # torch's exporter warns about its own internals
        torch.onnx.export(
            portable,
            (example,),
            file,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("n", min=1)}},
            external_data=False,
            verbose=False,
        )
        [answer] = reference.ReferenceEvaluator(str(file)).run(None, {"images": other.numpy()})
        difference = float((torch.from_numpy(answer) - portable(other)).abs().max())
    if difference > TOLERANCE:
        raise UsersError(f"nothing written: the exported model's probabilities differ by {difference:.1e}")
    return Compared(len(some), difference)
