"""The forecast of the accuracy with more labels, by its properties."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from image_classifier.evaluation.forecast import FEWEST_VOTES, Expected, forecast, with_all_labels
from image_classifier.evaluation.metrics import wilson_interval

FURTHER = (50, 100, 200, 1000)


def votes(count: int, *accuracies: float, seed: int = 0) -> NDArray[np.float64]:
    """Images of different difficulty: the more labels, the more of them are right."""
    difficulty = np.random.default_rng(seed).permutation((np.arange(count) + 0.5) / count)
    return np.stack([(difficulty < share).astype(float) for share in accuracies], 1)


def expected(right: NDArray[np.float64], more: tuple[int, ...] = FURTHER) -> list[Expected]:
    labels = len(right)
    found = forecast(right, [0.2 * labels, 0.4 * labels, 0.8 * labels], labels, more)
    assert found is not None
    return found.expected


def logit_width(one: Expected) -> float:
    return math.log(one.high / (1 - one.high)) - math.log(one.low / (1 - one.low))


def test_accuracy_grows_and_interval_widens_with_further_labels() -> None:
    found = expected(votes(200, 0.5, 0.6, 0.7))

    assert [one.more for one in found] == list(FURTHER)
    for near, far in pairwise(found):
        assert near.accuracy < far.accuracy
        assert logit_width(near) < logit_width(far)


def test_interval_is_narrower_if_more_images_were_evaluated() -> None:
    few, many = votes(100, 0.5, 0.6, 0.7), votes(1600, 0.5, 0.6, 0.7)
    shares = (0.2, 0.4, 0.8)

    found = [forecast(right, [100 * share for share in shares], 100, [100]) for right in (few, many)]

    widths = [one.expected[0].high - one.expected[0].low for one in found if one]
    assert widths[1] < 0.8 * widths[0]


def test_steeper_curve_promises_a_larger_gain() -> None:
    found = [forecast(votes(400, *shares), [80, 160, 320], 400, [100]) for shares in ((0.7, 0.7, 0.7), (0.5, 0.6, 0.7))]
    flat, steep = (one.expected[0].accuracy - one.now for one in found if one)
    assert 0 < 1.5 * flat < steep


def test_falling_curve_promises_no_fall() -> None:
    found = expected(votes(3000, 0.8, 0.6, 0.4))
    assert [one.accuracy for one in found] == pytest.approx([found[0].accuracy] * len(found))


@pytest.mark.parametrize("shares", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0), (1.0, 0.5, 0.0)])
@pytest.mark.parametrize("count", [FEWEST_VOTES, 5000])
def test_any_curve_gives_numbers_between_0_and_1(shares: tuple[float, ...], count: int) -> None:
    for one in expected(votes(count, *shares)):
        assert 0 < one.low < one.accuracy < one.high < 1


def test_few_votes_give_no_forecast() -> None:
    few = votes(FEWEST_VOTES - 1, 0.5, 0.6, 0.7)
    assert forecast(few, [8, 16, 31], 39, [100]) is None
    assert forecast(few[:0], [0.2, 0.4, 0.8], 1, [100]) is None


def test_interval_holds_what_a_known_curve_comes_to() -> None:
    """Curves drawn from what the forecast assumes: logits that are linear in the logarithm of the labels."""
    random, labels, held = np.random.default_rng(7), 200, 0

    def accuracy(level: float, slope: float, size: float) -> float:
        return float(1 / (1 + np.exp(-level - slope * np.log(size / 160))))

    for seed in range(200):
        level, slope = random.normal(0.8, 0.5), random.normal(0.5, 0.1)
        right = votes_of_chance([accuracy(level, slope, size) for size in (40, 80, 160)], labels, seed)
        found = forecast(right, [40, 80, 160], labels, [200])
        assert found
        held += found.expected[0].low <= accuracy(level, slope, 400) <= found.expected[0].high
    assert held >= 170


def votes_of_chance(accuracies: list[float], count: int, seed: int) -> NDArray[np.float64]:
    difficulty = np.random.default_rng([seed, count]).random(count)
    return np.stack([(difficulty < share).astype(float) for share in accuracies], 1)


def test_record_is_json_with_the_curve_so_far() -> None:
    found = forecast(votes(100, 0.5, 0.6, 0.7), [20, 40, 80], 100, [100, 200])
    assert found
    record = json.loads(json.dumps(found.record()))
    assert record["curve"] == [
        {"labels": n, "accuracy": pytest.approx(a)} for n, a in ((20, 0.5), (40, 0.6), (80, 0.7))
    ]
    assert [one["more"] for one in record["expected"]] == [100, 200]
    assert record == found.record(), "it is the same after it was saved"
    assert record["labels"] == 100
    assert record["now"] < record["expected"][0]["accuracy"]


# --- the accuracy with all labels -------------------------------------------


@pytest.mark.parametrize("labels", [30, 300, 3000])
def test_interval_with_all_labels_covers_more_than_the_noise_of_the_images(labels: int) -> None:
    low, high = wilson_interval(0.7, labels)

    accuracy, lower, higher = with_all_labels(0.7, low, high, 0.8, labels)

    assert 0.7 < accuracy < 0.73
    assert 1.15 * (high - low) < higher - lower < 2.1 * (high - low)
    assert lower < accuracy < higher


@pytest.mark.parametrize("accuracy", [0.0, 0.01, 0.99, 1.0])
def test_interval_with_all_labels_stays_between_0_and_1(accuracy: float) -> None:
    middle, low, high = with_all_labels(accuracy, *wilson_interval(accuracy, 10), 0.8, 10)
    assert 0 <= low <= middle <= high <= 1


def test_what_has_learned_all_labels_stays_the_same() -> None:
    assert with_all_labels(0.7, 0.6, 0.8, 1, 50) == (0.7, 0.6, 0.8)
