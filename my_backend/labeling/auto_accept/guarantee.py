"""Which predictions may be accepted without review, if at most a share α of them may be wrong.

The guarantee: with 95% confidence, at most α of the accepted predictions are wrong. It holds for every model, no matter
how good or bad its probabilities are, because it depends only on a random draw:

1. The model is fixed, and with it the prediction and its probability for every image without a label.
2. `make_plan` draws the order in which these images are to be labeled, and fixes after how many labels there will be a
   decision, and with which threshold it starts. Nobody has labeled any of them yet.
3. A person labels the first images of that order one by one. The model doesn't learn from these labels.
4. `decide` lowers the threshold step by step, for as long as the labels above it show that the guarantee holds.

Each step is an exact test. If some thresholds break the guarantee, it can be broken only if the first of these passes
its test, so several thresholds don't add up to more risk (fixed-sequence testing: Angelopoulos et
al., "Learn then Test", 2021). Several decisions do: they share the 5%.

Each image counts, whether or not it has near-duplicates: if a hundred frames of one scene are wrong, they are a hundred
wrong labels. The tests assume nothing about the images, only that they are drawn at random.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from statistics import fmean
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from my_backend.labeling.auto_accept.bounds import DELTA, bounds

Rows = NDArray[np.int64]

Percent = Literal[1, 2, 5]  # α, as a person chooses it
PERCENTS: tuple[int, ...] = get_args(Percent)

STEPS = 50  # thresholds
GROWTH = 1.5  # of the sample from one decision to the next
FIRST_SHARE = 0.8  # share of the risk for the first decision; the second gets this share of the rest, and so on
LARGEST_SAMPLE = 0.6  # of all images, before the first decision
DOUBT = (0.5, 1.0, 2.0)  # a model's estimate of its errors may be wrong by these factors


@dataclass(frozen=True)
class Step:
    """The images above one threshold, when a decision is made."""

    size: int  # images above the threshold
    checked: int  # how many of them are labeled
    allowed: int  # the most wrong predictions among all of them that keep the guarantee

    def passes(self, wrong: int, delta: float) -> bool:
        """Whether so few wrong predictions have a probability of at most `delta` if more are wrong than allowed."""
        return _tail(self.size, self.allowed + 1, self.checked, wrong) <= delta

    def most_wrong(self, delta: float) -> int:
        """The largest number of wrong predictions with which it passes; -1 if there is none."""
        return bisect_left(range(self.checked + 1), True, key=lambda wrong: not self.passes(wrong, delta)) - 1


@dataclass(frozen=True)
class Look:
    """One decision of a sequential test: after how many labels, with which part of the risk, and its steps.

    The steps are from few images to all.
    """

    labels: int
    delta: float
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Plan:
    """What is fixed before anyone labels the sample."""

    alpha: float
    order: Rows  # all images in the order in which they are to be labeled
    surest: Rows  # all images, the surest first
    looks: tuple[Look, ...]


@dataclass(frozen=True)
class Decision:
    """What the labels given so far allow."""

    accepted: Rows  # images whose predictions may be accepted, the surest first; empty if none may be yet
    more: int  # labels until the next decision that can accept anything, if no further prediction is wrong
    checked: int = 0  # labels of images that are as sure as the accepted ones
    wrong: int = 0  # how many of them showed the model to be wrong


@dataclass(frozen=True)
class Audit:
    """What random checks of the accepted predictions say about all of them."""

    low: float  # with 95% confidence, after every check, the share of wrong predictions is from here
    high: float  # to here
    contradicted: bool  # whether more predictions are wrong than the guarantee allows


def make_plan(probabilities: NDArray[np.float64], alpha: float, sample: int, seed: int) -> Plan:
    """The plan for images without labels, with these probabilities [n] of the model's predictions.

    The first decision comes after `sample` labels, or later if these can't show anything. Raises ValueError if `alpha`
    isn't between 0 and 1, or `sample` isn't positive.
    """
    if not 0 < alpha < 1 or sample < 1:
        raise ValueError(
            f"the error rate must be between 0 and 1 (not {alpha}), and the sample must be positive (not {sample})"
        )
    images = len(probabilities)
    order = np.random.default_rng(seed).permutation(images)
    surest = np.argsort(-probabilities, kind="stable")
    place = np.empty(images, np.int64)
    place[surest] = np.arange(images)
    sizes = np.unique(np.linspace(0, images, STEPS + 1).round().astype(np.int64))[1:]
    errors = np.cumsum(1 - probabilities[surest])[sizes - 1] / sizes
    looks: list[Look] = []
    share, start = FIRST_SHARE, 0
    while sample < images:
        checked = np.searchsorted(np.sort(place[order[:sample]]), sizes)
        steps = [
            Step(size, seen, _allowed(alpha, size - seen))
            for size, seen in zip(sizes.tolist(), checked.tolist(), strict=True)
        ]
        delta = DELTA * share
        if not looks:
            start = _start(steps, errors, delta)
        if steps[start].passes(0, delta):  # else the labels don't matter, and there is nothing to decide
            looks.append(Look(sample, delta, tuple(steps[start:])))
            share *= 1 - FIRST_SHARE
        sample = math.ceil(GROWTH * sample)
    return Plan(alpha, order, surest, tuple(looks))


def first_sample(images: int, alpha: float) -> int:
    """After how many labels the first decision makes sense: if it passes for all images in spite of one wrong answer.

    If there are too few images for that, none may be wrong; 0 if most of the images would have to be labeled anyway.
    """
    for wrong in (1, 0):
        for sample in range(1, math.floor(LARGEST_SAMPLE * images)):
            if Step(images, sample, _allowed(alpha, images - sample)).passes(wrong, DELTA * FIRST_SHARE):
                return sample
    return 0


def _allowed(alpha: float, images: int) -> int:
    """The most wrong predictions among so many accepted ones that keep the guarantee."""
    return math.floor(alpha * images + 1e-9)


def _start(steps: Sequence[Step], errors: NDArray[np.float64], delta: float) -> int:
    """The step that is most likely to pass if the model's estimate of its errors is about right.

    A step whose images are all in the sample always passes, but the next one hardly ever does.
    """
    chances = []
    for step, error in zip(steps, errors.tolist(), strict=True):
        if step.size == step.checked:
            chances.append(0.0)
            continue
        most = step.most_wrong(delta)
        rates = [min(1.0, factor * error) for factor in DOUBT]
        chances.append(fmean(_tail(step.size, round(step.size * rate), step.checked, most) for rate in rates))
    return int(np.argmax(chances))


def _tail(pool: int, wrong: int, checked: int, seen: int) -> float:
    """The probability that at most `seen` of `checked` predictions are wrong, if `wrong` of the whole pool are."""
    least, most = max(0, wrong + checked - pool), min(seen, wrong, checked)
    if seen >= min(wrong, checked):
        return 1.0
    every = _log_choose(pool, checked)
    return math.fsum(
        math.exp(_log_choose(wrong, k) + _log_choose(pool - wrong, checked - k) - every) for k in range(least, most + 1)
    )


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def decide(plan: Plan, wrong: Sequence[bool], gone: Sequence[int] = ()) -> Decision:
    """The decision after the first labels in the plan's order, from whether each showed the model to be wrong.

    Labels since the last decision that was planned don't count yet, and their images may be among the accepted ones.
    The images `gone` can no longer be accepted, since people have labeled or deleted them meanwhile, for reasons that
    have nothing to do with the sample. So fewer images are accepted, and of these fewer predictions may be wrong.
    """
    best = Decision(plan.surest[:0], len(plan.order) - len(wrong))
    lost = np.isin(plan.surest, gone)
    for look in plan.looks:
        sample = plan.order[: look.labels]
        mistaken = sample[np.flatnonzero(wrong[: look.labels])]
        above = np.isin(plan.surest, mistaken).cumsum()  # wrong predictions above each image and on it
        left = ~(lost | np.isin(plan.surest, sample))
        allowed = [_allowed(plan.alpha, int(left[: step.size].sum())) for step in look.steps]
        steps = [replace(step, allowed=most) for step, most in zip(look.steps, allowed, strict=True)]
        passed = [step.passes(int(above[step.size - 1]), look.delta) for step in steps]
        if look.labels > len(wrong):
            if passed[0]:
                return best if len(best.accepted) else replace(best, more=look.labels - len(wrong))
        elif passed[0]:
            last = [step for step, _ in takewhile(lambda each: each[1], zip(steps, passed, strict=True))][-1]
            accepted = plan.surest[: last.size][left[: last.size]]
            if len(accepted) > len(best.accepted):
                best = Decision(accepted, 0, last.checked, int(above[last.size - 1]))
    return best


def audit(alpha: float, accepted: int, checked: int, wrong: int) -> Audit:
    """What `checked` of the `accepted` predictions, drawn at random, say; this may be asked after every check.

    If the guarantee holds, the probability that the checks ever contradict it is at most 5%.
    """
    low, high = bounds(accepted, checked, wrong)
    return Audit(low / max(1, accepted), high / max(1, accepted), low > alpha * accepted)
