"""Exports a model in formats that other programs read."""

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from image_classifier.cli.outputs import written_aside
from image_classifier.data.preprocessing import Preprocessing
from image_classifier.errors import UsersError
from image_classifier.nets.classifier import Classifier, Head

Target = Literal["onnx", "torchscript", "labels"]
SUFFIXES: dict[Target, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "torchscript": (".pt", ".pth", ".ts", ".torchscript"),
    "labels": (".txt", ".labels", ".names"),
}
TOLERANCE = 1e-4  # of a probability; other programs add numbers in another order


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


def export(classifier: Classifier, target: Target, file: Path) -> None:
    """Writes the file; raises UsersError if the exported model gives other answers than the model."""
    with written_aside(file) as part:
        if target == "labels":
            part.write_text("".join(f"{name}\n" for name in classifier.classes), encoding="utf-8")
        else:
            _write_module(classifier, target, part)


def _write_module(classifier: Classifier, target: Target, file: Path) -> None:
    side = classifier.backbone.preprocessing.crop_size
    generator = torch.Generator().manual_seed(0)
    example, other = (torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=generator) for n in (2, 3))
    portable = Portable(classifier).eval()
    write = _write_onnx if target == "onnx" else _write_torchscript
    with warnings.catch_warnings(), torch.inference_mode():
        if target == "onnx":
            warnings.simplefilter("ignore")  # torch's exporter warns about its own internals
        # TorchScript is no longer developed, but some programs still read it.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch.jit.*")
        # Mean and standard deviation are meant to be constants.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        answer = write(portable, example, file)
        difference = float((answer(other) - portable(other)).abs().max())
    if difference > TOLERANCE:
        raise UsersError(f"nothing written: the exported model's probabilities differ by {difference:.1e}")


def _write_torchscript(portable: Portable, example: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    """Writes the module; returns it as loaded from the file."""
    torch.jit.save(torch.jit.trace(portable, example), file)  # type: ignore[no-untyped-call]
    loaded: Callable[[Tensor], Tensor] = torch.jit.load(file)  # type: ignore[no-untyped-call]
    return loaded


def _write_onnx(portable: Portable, example: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    """Writes the module with torch's exporter; returns it as loaded by ONNX's reference implementation.

    These packages are large and few people need them, so they aren't installed by default.
    """
    try:
        reference = importlib.import_module("onnx.reference")
        importlib.import_module("onnxscript")
    except ImportError as error:
        raise UsersError(f"ONNX needs more packages ({error}): run `pip install onnx onnxscript`") from error
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
    evaluator = reference.ReferenceEvaluator(str(file))
    return lambda pixels: torch.from_numpy(evaluator.run(None, {"images": pixels.numpy()})[0])
