"""Forecasts how accurate a classifier will be with more labels, from its learning curve so far."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_classifier.evaluation.metrics import Z95

Z90 = 1.644854  # standard deviations of a normal distribution that hold 90% of it
FEWEST_VOTES = 40  # the forecast's coverage wasn't measured with fewer
# The logit of the accuracy grows about linearly with the logarithm of the number of labels. How these were chosen, and
# how often the interval then held the truth, is in docs/project/learning.md.
SLOPE, SLOPE_SPREAD = 0.8, 0.4  # what is known of its growth before anything is measured: mean, standard deviation
FLATTENING = 0.8  # it grows more slowly beyond the labels than it did before
CHANCE = 1.5  # over √labels, the standard deviation of a point: other labels of the same number teach something else


@dataclass(frozen=True)
class Point:
    """The cross-validated accuracy (0 to 1) of heads that learned this number of labels."""

    labels: int
    accuracy: float


@dataclass(frozen=True)
class Expected:
    """The expected accuracy (0 to 1) on new images with `more` labels than now, and its 90% interval."""

    more: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """The learning curve so far, by the number of labels, and its forecast, by the number of further labels."""

    labels: int  # now
    curve: list[Point]
    now: float  # the accuracy on new images expected of the head that learned all labels
    expected: list[Expected]
    random_sample: bool = False  # whether it comes from images drawn at random, or from all labeled ones

    def record(self) -> dict[str, Any]:
        return asdict(self)


def with_all_labels(
    accuracy: float, low: float, high: float, learned: float, labels: int
) -> tuple[float, float, float]:
    """The accuracy to expect with all `labels`, and its 95% interval, from those with a share `learned` of the labels.

    All but `labels` are from 0 to 1. The given interval covers only the noise of the images on which the heads were
    evaluated. The returned one also covers how much the remaining labels help, and which images happened to be labeled.
    """
    if learned == 1:  # a first guess, which doesn't depend on labels
        return accuracy, low, high
    middle, low, high = (grown(one, learned) for one in (accuracy, low, high))
    slope, chance = SLOPE_SPREAD * FLATTENING * math.log(1 / learned), CHANCE / math.sqrt(labels)
    spread = Z95 * math.hypot(slope, chance) * middle * (1 - middle)  # by the derivative of the logit
    return (
        middle,
        max(0.0, middle - math.hypot(middle - low, spread)),
        min(1.0, middle + math.hypot(high - middle, spread)),
    )


def grown(share: float, learned: float) -> float:
    """The accuracy or mean F1 to expect with all labels, from those with a share `learned` of them; all from 0 to 1."""
    if not 0 < share < 1:
        return share
    odds = share / (1 - share) / learned ** (SLOPE * FLATTENING)
    return float(odds / (1 + odds))


def forecast(right: NDArray[np.float64], sizes: Sequence[float], labels: int, more: Sequence[int]) -> Forecast | None:
    """Continues a learning curve; None if there are too few votes to tell anything.

    `right` [votes, sizes] is the share (0 to 1) of heads trained on about `sizes` labels, ascending and without the
    image, that classify it correctly; near-duplicates are one vote. `labels` is the number of labels now, and `more`
    says for how many further ones an accuracy is wanted, ascending.

    A Bayesian linear regression. The points share their images, so their errors are correlated. The interval covers
    the noise of the accuracy measured now, the random choice of the next labels, and the slope's uncertainty, so it is
    wider for more labels.
    """
    if len(right) < FEWEST_VOTES:
        return None
    # As if two votes more were there, one right and one wrong: no accuracy is 0 or 1.
    seen = np.vstack([right, np.ones(len(sizes)), np.zeros(len(sizes))])
    mean = seen.mean(0)
    scale = mean * (1 - mean)  # the derivative of the logit is one over this
    noise = np.cov(seen.T, bias=True) / len(seen) / np.outer(scale, scale) + np.diag(CHANCE**2 / np.asarray(sizes))
    steps = np.log(np.asarray(sizes) / sizes[-1])
    design = np.stack([np.ones_like(steps), steps], 1)
    weighted = design.T @ np.linalg.inv(noise)
    known = np.diag([0, 1 / SLOPE_SPREAD**2])
    spread = np.linalg.inv(weighted @ design + known)
    level, slope = spread @ (weighted @ np.log(mean / (1 - mean)) + known @ [0, SLOPE])

    def at(further: int) -> Expected:
        reach = np.array([1, FLATTENING * np.log((labels + further) / sizes[-1])])
        middle, half = reach @ [level, max(slope, 0)], Z90 * np.sqrt(reach @ spread @ reach)
        return Expected(further, *(float(1 / (1 + np.exp(-logit))) for logit in (middle, middle - half, middle + half)))

    curve = [Point(round(size), float(share)) for size, share in zip(sizes, right.mean(0), strict=True)]
    return Forecast(labels, curve, at(0).accuracy, [at(further) for further in more])
