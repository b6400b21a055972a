"""A model in the forms that other programs read."""

import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from image_classifier.network import Classifier, Head
from image_classifier.preprocessing import Preprocessing
from image_classifier.recipes.errors import UsersError

Target = Literal["torchscript", "labels"]
TOLERANCE = 1e-5  # of a probability


class Portable(nn.Module):
    """The whole way: uint8 [n, 3, side, side] in RGB → probabilities [n, classes], in the order of the labels."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self._backbone = classifier.backbone.module
        self._preprocessing: Preprocessing = classifier.backbone.preprocessing
        self._head: Head = classifier.head

    def forward(self, pixels: Tensor) -> Tensor:
        logits = self._head(self._backbone(self._preprocessing.normalize(pixels)))
        return logits.sigmoid() if self._head.multiple else logits.softmax(1)


def export(classifier: Classifier, target: Target, file: Path) -> None:
    """Raises UsersError where what was written does not answer as the model does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if target == "labels":
        file.write_text("".join(f"{name}\n" for name in classifier.classes), encoding="utf-8")
        return
    side = classifier.backbone.preprocessing.crop_size
    generator = torch.Generator().manual_seed(0)
    example, other = (torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=generator) for n in (2, 3))
    portable = Portable(classifier).eval()
    with warnings.catch_warnings(), torch.inference_mode():
        # TorchScript is no longer developed, but it is what the programs that ask for it read.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch.jit.*")
        # Mean and deviation are meant as constants.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        torch.jit.save(torch.jit.trace(portable, example), file)  # type: ignore[no-untyped-call]
        loaded = torch.jit.load(file)  # type: ignore[no-untyped-call]
        difference = float((loaded(other) - portable(other)).abs().max())
    if difference > TOLERANCE:
        file.unlink()
        raise UsersError(f"the exported model's probabilities differ by {difference:.1e}: nothing was written")
