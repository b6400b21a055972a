"""Exports a model in formats that other programs read."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from image_classifier.files import written_aside
from image_classifier.nets.classifier import Classifier
from image_classifier.nets.onnx_module import EXAMPLE, Compared, write_onnx

Target = Literal["onnx", "example", "labels"]
SUFFIXES: dict[Target, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "example": (".py",),
    "labels": (".txt", ".labels", ".names"),
}


def export(classifier: Classifier, target: Target, file: Path, images: Sequence[Path] = ()) -> Compared | None:
    """Writes the file; an ONNX module is compared on some of these images, with the errors of `write_onnx`."""
    with written_aside(file) as part:
        if target == "onnx":
            return write_onnx(classifier, part, images)
        if target == "example":
            shutil.copyfile(EXAMPLE, part)
        else:
            part.write_text("".join(f"{name}\n" for name in classifier.classes), encoding="utf-8")
    return None
