"""How good a classifier is: accuracy, metrics per class, confusion matrix, calibration."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

CALIBRATION_BINS = 10
Z95 = 1.959964  # standard deviations of a normal distribution that hold 95% of it
# If several classes may be right, each that is more likely than not is answered: thresholds that are fitted to a few
# images are worse on others, and flatter the figures.
THRESHOLD = 0.5
# A temperature's penalty: this times the squared logarithm of its ratio to the usual one. A few images must not decide.
UNUSUAL = 3.0


@dataclass(frozen=True)
class ClassFigures:
    """Precision, recall and F1 (0 to 1) of one class, and how many images of it they were measured on.

    If there are no such images, the three are 0 and mean nothing.
    """

    precision: float
    recall: float
    f1: float
    images: int


@dataclass(frozen=True)
class Bin:
    """Predictions of about the same probability: their number, mean probability, and the share that is right."""

    answers: int
    confidence: float
    right: float


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a classifier on images that it was not trained on. Near-duplicates have one vote together."""

    images: int
    groups: int  # of near-duplicates; images without any are groups of one
    accuracy: float  # share of images that are right, with all their classes
    accuracy_low: float  # in 95 of 100 cases the true accuracy is from here
    accuracy_high: float  # to here
    macro_f1: float  # mean of the classes' F1, of those that were measured
    calibration_error: float  # expected, 0 to 1: how far probabilities are from the share that is right
    per_class: dict[str, ClassFigures]
    confusion: list[list[int]]  # [true class][predicted class], in order; empty where several may be right
    calibration: list[Bin]  # in the order of their probability; empty ones are left out

    def record(self) -> dict[str, Any]:
        return asdict(self)


def predicted_targets(logits: Tensor, thresholds: Sequence[float] = ()) -> Tensor:
    """The predictions of calibrated logits [n, classes], in the form of the targets: class indices [n], or 0 and 1."""
    return (logits.sigmoid() >= torch.tensor(thresholds)).float() if thresholds else logits.argmax(1)


def hits(logits: Tensor, targets: Tensor, thresholds: Sequence[float] = ()) -> Tensor:
    """bool [n]: whether an image is right, with all its classes."""
    right = predicted_targets(logits, thresholds) == targets
    return right.all(1) if targets.is_floating_point() else right


def confidence_of_mistakes(logits: Tensor, targets: Tensor, thresholds: Sequence[float] = ()) -> Tensor:
    """[n]: for a wrong prediction, the probability of the wrong part; 0 for a right prediction."""
    answers = predicted_targets(logits, thresholds)
    if not targets.is_floating_point():
        return torch.where(answers == targets, 0.0, logits.softmax(1).max(1).values)
    probabilities = logits.sigmoid()
    said = torch.where(answers.bool(), probabilities, 1 - probabilities)
    return torch.where(answers == targets, 0.0, said).max(1).values


def evaluate(
    logits: Tensor,
    targets: Tensor,
    classes: Sequence[str],
    thresholds: Sequence[float] = (),
    votes: Sequence[str] = (),
    known: Tensor | None = None,
) -> Evaluation:
    """Metrics from calibrated logits [n, classes] and targets, class indices [n] or 0 and 1 [n, classes].

    Images with the same of `votes` [n] are near-duplicates and have one vote together; without `votes`, each has its
    own. `known` [n, classes] says whether an image's logits come from a head that has learned the class, by default
    always: a class isn't measured on images whose head couldn't have predicted it. Raises ValueError for no
    images.
    """
    if len(targets) == 0:
        raise ValueError("no images to evaluate on")
    size = len(classes)
    answers = predicted_targets(logits, thresholds)
    weights = vote_weights(votes) if votes else torch.ones(len(targets))
    if targets.is_floating_point():
        truth, predicted = targets.bool(), answers.bool()
        confusion: list[list[int]] = []
        probabilities = logits.sigmoid()
        bins, error = _calibration(
            probabilities.flatten(), truth.flatten(), weights[:, None].expand_as(truth).flatten()
        )
    else:
        truth, predicted = one_hot(targets, size).bool(), one_hot(answers, size).bool()
        confusion = torch.bincount(targets * size + answers, minlength=size * size).reshape(size, size).tolist()
        bins, error = _calibration(logits.softmax(1).max(1).values, answers == targets, weights)
    found, said, shown = ((weights[:, None] * one).sum(0).tolist() for one in (truth & predicted, predicted, truth))
    measured = truth if known is None else truth & known
    per_class = {
        name: _figures(*of_class)
        for name, *of_class in zip(classes, found, said, shown, measured.sum(0).tolist(), strict=True)
    }
    f1 = [figures.f1 for figures in per_class.values() if figures.images]
    groups = len(set(votes)) if votes else len(targets)
    accuracy = float((weights * hits(logits, targets, thresholds)).sum() / weights.sum())
    low, high = wilson_interval(accuracy, groups)
    return Evaluation(
        images=len(targets),
        groups=groups,
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        macro_f1=sum(f1) / len(f1) if f1 else 0.0,
        calibration_error=error,
        per_class=per_class,
        confusion=confusion,
        calibration=bins,
    )


def vote_weights(votes: Sequence[str]) -> Tensor:
    """How much each image counts [n], so that all with the same vote count as much as one without near-duplicates."""
    counts = Counter(votes)
    return torch.tensor([1 / counts[vote] for vote in votes])


def wilson_interval(share: float, images: int) -> tuple[float, float]:
    """The 95% interval of a share that was measured on so many independent images, by Wilson's score."""
    noise = Z95**2 / images
    center = (share + noise / 2) / (1 + noise)
    half = math.sqrt(noise * (share * (1 - share) + noise / 4)) / (1 + noise)
    return min(share, max(0.0, center - half)), max(share, min(1.0, center + half))  # despite rounding


def _figures(found: float, predicted: float, shown: float, images: int) -> ClassFigures:
    precision = found / predicted if predicted else 0.0
    recall = found / shown if shown else 0.0
    f1 = 2 * found / (predicted + shown) if predicted + shown else 0.0
    return ClassFigures(precision, recall, f1, images)


def _calibration(confidence: Tensor, correct: Tensor, weights: Tensor) -> tuple[list[Bin], float]:
    """The bins that aren't empty, and the mean distance between their probability and the share that is right."""
    numbers = (confidence * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    bins, error = [], 0.0
    for inside in (numbers == number for number in range(CALIBRATION_BINS)):
        if inside.any():
            share = weights[inside] / weights[inside].sum()
            sure, right = float(share @ confidence[inside]), float(share @ correct[inside].float())
            bins.append(Bin(int(inside.sum()), sure, right))
            error += abs(sure - right) * float(weights[inside].sum() / weights.sum())
    return bins, error


def fit_temperature(logits: Tensor, targets: Tensor, votes: Sequence[str] = (), usual: float | None = None) -> float:
    """The temperature, from 0.05 to 20, with the best Brier score on held-out images.

    As if one more image had been evaluated, and been wrong: a few images that are all right must not give certainty.
    Images with the same of `votes` [n] count as one. The fewer images there are, the closer the temperature is to the
    `usual` one, if that is given.
    """
    weights = vote_weights(votes) if votes else torch.ones(len(targets))
    doubt = 1 / (float(weights.sum()) + 1)
    temperatures = torch.logspace(-1.301, 1.301, 105)
    scores = torch.stack([brier_scores(logits / each, targets, doubt) @ weights for each in temperatures])
    if usual is not None:
        scores += UNUSUAL * (temperatures / usual).log().square()
    return float(temperatures[scores.argmin()])


def brier_score(logits: Tensor, targets: Tensor, votes: Sequence[str]) -> float:
    """The mean Brier score of the images (lower is better), with one vote for each group of near-duplicates."""
    weights = vote_weights(votes)
    return float(brier_scores(logits, targets) @ weights / weights.sum())


def brier_scores(logits: Tensor, targets: Tensor, doubt: float = 0.0) -> Tensor:
    """Each image's Brier score [n]: the squared differences between probabilities and label, summed over the classes.

    `targets` are class indices [n], or 0 and 1 [n, classes]. `doubt` is the share of each that is spread over all
    answers (label smoothing).
    """
    if targets.is_floating_point():
        return (logits.sigmoid() - targets * (1 - doubt) - doubt / 2).square().sum(1)
    differences = logits.softmax(1)  # changed in place: `fit_temperature` needs this 105 times for all images
    differences -= doubt / logits.shape[1]
    differences[torch.arange(len(targets)), targets] -= 1 - doubt
    return differences.square_().sum(1)


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy for class indices [n]; binary cross-entropy, summed over the classes, for 0 and 1 [n, classes]."""
    if targets.is_floating_point():
        return binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1).mean()
    return cross_entropy(logits, targets)
