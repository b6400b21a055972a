"""How good a classifier is: accuracy, per class, confusion, calibration."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

CALIBRATION_BINS = 10


@dataclass(frozen=True)
class ClassFigures:
    """Precision, recall and F1 (0 to 1) of one class, and how many images of it were looked at."""

    precision: float
    recall: float
    f1: float
    images: int


@dataclass(frozen=True)
class Evaluation:
    """The figures of a classifier on images that it was not trained on."""

    images: int
    accuracy: float
    calibration_error: float  # expected, 0 to 1: how far probabilities are from the share that is right
    per_class: dict[str, ClassFigures]
    confusion: list[list[int]]  # [true class][predicted class], in the order of the classes

    def record(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(logits: Tensor, targets: Tensor, classes: Sequence[str]) -> Evaluation:
    """Figures from calibrated logits [n, classes] and class indices [n]; raises ValueError for no images."""
    if len(targets) == 0:
        raise ValueError("no images to evaluate on")
    probabilities = logits.softmax(1)
    confidence, predicted = probabilities.max(1)
    size = len(classes)
    confusion = torch.bincount(targets * size + predicted, minlength=size * size).reshape(size, size)
    hits = confusion.diagonal()
    return Evaluation(
        images=len(targets),
        accuracy=int(hits.sum()) / len(targets),
        calibration_error=_calibration_error(confidence, predicted == targets),
        per_class={
            name: _figures(int(hits[i]), int(confusion[:, i].sum()), int(confusion[i].sum()))
            for i, name in enumerate(classes)
        },
        confusion=confusion.tolist(),
    )


def _figures(hits: int, predicted: int, images: int) -> ClassFigures:
    precision = hits / predicted if predicted else 0.0
    recall = hits / images if images else 0.0
    f1 = 2 * hits / (predicted + images) if predicted + images else 0.0
    return ClassFigures(precision, recall, f1, images)


def _calibration_error(confidence: Tensor, correct: Tensor) -> float:
    bins = (confidence * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    gaps = [
        abs(float(confidence[inside].mean() - correct[inside].float().mean())) * int(inside.sum())
        for inside in (bins == number for number in range(CALIBRATION_BINS))
        if inside.any()
    ]
    return sum(gaps) / len(confidence)


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature, from 0.05 to 20, under which the logits of held-out images are most likely."""
    temperatures = torch.logspace(-1.301, 1.301, 105)
    losses = torch.stack([cross_entropy(logits / t, targets) for t in temperatures])
    return float(temperatures[losses.argmin()])
