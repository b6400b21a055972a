"""The figures of a classifier, against scikit-learn's and a plain calculation."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torch.utils._python_dispatch import TorchDispatchMode

from image_classifier.evaluation.metrics import (
    brier_score,
    brier_scores,
    evaluate,
    fit_temperature,
    hits,
    loss_of,
    predicted_targets,
)


class _Sizes(TorchDispatchMode):
    """Notes the size in bytes of the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self.largest = max(self.largest, found.nbytes)
        return found


def guesses(seed: int, images: int, classes: int, sharpness: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits that lean towards the targets."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator) + torch.eye(classes)[targets]
    return sharpness * logits, targets


@pytest.mark.parametrize(("images", "classes"), [(200, 5), (30, 2), (7, 12), (1, 3)])
def test_the_figures_are_scikit_learns(images: int, classes: int) -> None:
    logits, targets = guesses(images, images, classes)
    names = [f"class {number}" for number in range(classes)]
    predicted = logits.argmax(1)
    found = evaluate(logits, targets, names)
    labels = list(range(classes))
    assert found.images == images
    assert found.accuracy == pytest.approx(accuracy_score(targets, predicted))
    assert found.confusion == confusion_matrix(targets, predicted, labels=labels).tolist()
    expected = precision_recall_fscore_support(targets, predicted, labels=labels, zero_division=0)
    ours = [(f.precision, f.recall, f.f1, f.images) for f in found.per_class.values()]
    assert list(found.per_class) == names
    assert np.array(ours) == pytest.approx(np.array(expected).T)
    shown = sorted(set(targets.tolist()))
    assert found.macro_f1 == pytest.approx(f1_score(targets, predicted, labels=shown, average="macro", zero_division=0))


def test_class_is_measured_only_by_images_whose_head_could_have_predicted_it() -> None:
    logits, targets = guesses(1, 200, 3)
    known = torch.ones(200, 3, dtype=torch.bool)
    known[:, 2] = targets != 2
    found = evaluate(logits, targets, ["a", "b", "c"], known=known)
    plain = evaluate(logits, targets, ["a", "b", "c"])
    assert [found.per_class[name].images for name in "abc"] == [*torch.bincount(targets).tolist()[:2], 0]
    assert found.macro_f1 == pytest.approx((plain.per_class["a"].f1 + plain.per_class["b"].f1) / 2)
    assert (found.accuracy, found.confusion) == (plain.accuracy, plain.confusion)


def several(seed: int, images: int, classes: int) -> tuple[Tensor, Tensor]:
    """Logits that lean towards targets of which several, or none, are right."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(2, (images, classes), generator=generator).float()
    return 3 * (torch.randn(images, classes, generator=generator) + targets - 0.5), targets


@pytest.mark.parametrize(("images", "classes"), [(200, 5), (7, 12), (20, 1)])
def test_where_several_may_be_right_the_figures_are_scikit_learns_too(images: int, classes: int) -> None:
    logits, targets = several(images, images, classes)
    thresholds = np.linspace(0.3, 0.7, classes)
    names = [f"class {number}" for number in range(classes)]
    predicted = (logits.sigmoid().numpy() >= thresholds).astype(int)
    found = evaluate(logits, targets, names, tuple(thresholds))
    truth = targets.numpy().astype(int)
    assert found.accuracy == pytest.approx((predicted == truth).all(1).mean())
    labels = list(range(classes))
    if classes > 1:
        expected = precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
    else:
        expected = [
            [figure] for figure in precision_recall_fscore_support(truth[:, 0], predicted[:, 0], average="binary")[:3]
        ]
        expected.append([truth.sum()])
    ours = [(f.precision, f.recall, f.f1, f.images) for f in found.per_class.values()]
    assert np.array(ours) == pytest.approx(np.array(expected).T)
    assert found.confusion == []
    assert json.loads(json.dumps(found.record())) == found.record()


@pytest.mark.parametrize(("images", "classes"), [(200, 5), (30, 2), (1, 3)])
def test_the_accuracy_has_scipys_wilson_interval(images: int, classes: int) -> None:
    logits, targets = guesses(images, images, classes)
    found = evaluate(logits, targets, "abcde"[:classes])
    right = int((logits.argmax(1) == targets).sum())
    expected = binomtest(right, images).proportion_ci(method="wilson")
    assert (found.accuracy_low, found.accuracy_high) == pytest.approx(tuple(expected), abs=1e-6)


@pytest.mark.parametrize("make", [guesses, several])
def test_near_duplicates_have_one_vote_in_all_figures(make: Any) -> None:
    """However many an image has: here the first has none, the last 49."""
    logits, targets = make(0, 50, 3)
    times = torch.arange(1, 51)
    thresholds = (0.5,) * 3 if targets.is_floating_point() else ()
    votes = [str(number) for number in range(50)]

    once = evaluate(logits, targets, "abc", thresholds, votes)
    often = evaluate(
        logits.repeat_interleave(times, 0),
        targets.repeat_interleave(times, 0),
        "abc",
        thresholds,
        [vote for vote, count in zip(votes, times.tolist(), strict=True) for _ in range(count)],
    )

    assert (often.images, often.groups) == (int(times.sum()), 50)
    assert once == evaluate(logits, targets, "abc", thresholds)
    for name in ("accuracy", "accuracy_low", "accuracy_high", "macro_f1", "calibration_error"):
        assert getattr(often, name) == pytest.approx(getattr(once, name)), name
    for name, figures in often.per_class.items():
        expected = once.per_class[name]
        assert (figures.precision, figures.recall) == pytest.approx((expected.precision, expected.recall))


def test_near_duplicates_have_one_vote_in_the_temperature() -> None:
    logits, targets = guesses(2, 60, 3, sharpness=9.0)
    times = torch.where(hits(logits, targets), 20, 1)  # otherwise these would say that it may be surer
    votes = [str(row) for row in torch.arange(60).repeat_interleave(times).tolist()]

    often = logits.repeat_interleave(times, 0), targets.repeat_interleave(times)

    assert fit_temperature(*often, votes) == fit_temperature(logits, targets) > 1.5 * fit_temperature(*often)


@pytest.mark.parametrize("doubt", [0.0, 0.1])
def test_brier_scores_are_the_squared_differences_without_a_tensor_larger_than_the_logits(doubt: float) -> None:
    """`fit_temperature` computes them 105 times for all images: a one-hot tensor made that eight times as slow."""
    logits, targets = guesses(2, 200, 50)
    wanted = one_hot(targets, 50) * (1 - doubt) + doubt / 50
    expected = (logits.softmax(1) - wanted).square().sum(1)
    before = logits.clone()

    with _Sizes() as sizes:
        found = brier_scores(logits, targets, doubt)

    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert logits.equal(before)
    assert sizes.largest == logits.nbytes


def test_near_duplicates_have_one_vote_in_the_brier_score() -> None:
    logits, targets = torch.tensor([[9.0, -9.0]] * 4), torch.tensor([0, 1, 1, 1])
    assert brier_score(logits, targets, ["a", "b", "c", "d"]) == pytest.approx(1.5, abs=0.01)
    assert brier_score(logits, targets, ["a", "b", "b", "b"]) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("wrong", [True, False])
def test_the_interval_stays_from_0_to_1_if_all_are_wrong_or_right(wrong: bool) -> None:
    found = evaluate(50 * torch.eye(4), torch.arange(4).roll(int(wrong)), "abcd")
    assert 0 <= found.accuracy_low <= found.accuracy <= found.accuracy_high <= 1
    assert found.accuracy_high - found.accuracy_low > 0.4


def test_an_image_is_right_where_all_its_classes_are() -> None:
    logits = torch.tensor([[2.0, -2.0], [2.0, 2.0], [-2.0, -2.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert hits(logits, targets, (0.5, 0.5)).tolist() == [True, False, True]
    assert hits(logits, targets, (0.5, 0.95)).tolist() == [True, True, True]
    assert predicted_targets(logits, (0.5, 0.95)).tolist() == targets.tolist()
    assert hits(logits, torch.tensor([0, 1, 1])).tolist() == [True, False, False]


@pytest.mark.parametrize("make", [guesses, several])
def test_the_loss_does_not_hang_on_the_number_of_images(make: Any) -> None:
    logits, targets = make(1, 50, 3)
    assert float(loss_of(logits.repeat(2, 1), torch.cat([targets, targets]))) == pytest.approx(
        float(loss_of(logits, targets))
    )
    assert loss_of(logits, targets) > loss_of(logits - 3 * torch.sign(0.5 - targets_as_rows(targets)), targets)


def targets_as_rows(targets: Tensor) -> Tensor:
    return targets if targets.is_floating_point() else torch.eye(3)[targets]


def test_calibration_error_is_the_mean_gap_of_probability_and_accuracy() -> None:
    logits, targets = guesses(1, 500, 3)
    confidence, predicted = logits.softmax(1).max(1)
    hits = (predicted == targets).numpy()
    bins = np.minimum((confidence.numpy() * 10).astype(int), 9)
    expected = sum(
        (bins == b).mean() * abs(confidence.numpy()[bins == b].mean() - hits[bins == b].mean()) for b in set(bins)
    )
    assert evaluate(logits, targets, "abc").calibration_error == pytest.approx(expected, abs=1e-6)


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not() -> None:
    logits = 50 * torch.eye(4)
    assert evaluate(logits, torch.arange(4), "abcd").calibration_error == pytest.approx(0)
    assert evaluate(logits, torch.arange(4).roll(1), "abcd").calibration_error == pytest.approx(1)


def test_the_record_is_json() -> None:
    logits, targets = guesses(2, 40, 3)
    record = evaluate(logits, targets, ["a", "b", "é"]).record()
    assert json.loads(json.dumps(record)) == record


def test_no_images_have_no_figures() -> None:
    with pytest.raises(ValueError, match="no images"):
        evaluate(torch.empty(0, 2), torch.empty(0, dtype=torch.long), "ab")


@pytest.mark.parametrize("too_sure", [0.2, 1.0, 4.0, 10.0])
def test_the_temperature_is_found_and_makes_the_labels_likelier(too_sure: float) -> None:
    generator = torch.Generator().manual_seed(3)
    honest = 2 * torch.randn(4000, 4, generator=generator)
    targets = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    temperature = fit_temperature(too_sure * honest, targets)
    assert temperature == pytest.approx(too_sure, rel=0.1)
    before, after = cross_entropy(too_sure * honest, targets), cross_entropy(too_sure * honest / temperature, targets)
    assert after < before if too_sure != 1 else after <= before + 1e-6
    names = "abcd"
    calibrated = evaluate(too_sure * honest / temperature, targets, names).calibration_error
    assert calibrated < 0.03
    assert too_sure == 1 or calibrated < evaluate(too_sure * honest, targets, names).calibration_error


def test_the_temperature_stays_bounded_for_few_images() -> None:
    right, wrong = 9 * torch.eye(2), 9 * torch.eye(2).flip(0)
    for logits in (right, wrong):
        assert 0.049 < fit_temperature(logits, torch.arange(2)) < 20.1
    assert fit_temperature(right, torch.arange(2)) <= fit_temperature(wrong, torch.arange(2))


def test_the_usual_temperature_counts_less_the_more_images_there_are() -> None:
    generator = torch.Generator().manual_seed(3)
    honest = 2 * torch.randn(2000, 4, generator=generator)
    targets = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]

    found = [fit_temperature(honest[:count], targets[:count], usual=5.0) for count in (0, 10, 100, 2000)]

    assert found[0] == pytest.approx(5, rel=0.05)
    assert found[1] > 0.75 * found[0], "ten images say little"
    assert found[1] > 1.2 * found[2] > 1.2 * found[3]
    assert found[3] == pytest.approx(1, rel=0.1)


def test_wrong_labels_hardly_change_the_temperature() -> None:
    """The likelihood would let a few of them decide, since the model is sure that they are wrong."""
    generator = torch.Generator().manual_seed(3)
    honest = 4 * torch.randn(2000, 4, generator=generator)
    targets = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    right = fit_temperature(honest, targets)
    targets[:100] = (targets[:100] + 1) % 4
    assert right <= fit_temperature(honest, targets) < 1.25 * right


def test_the_temperature_of_several_makes_the_labels_likelier_too() -> None:
    generator = torch.Generator().manual_seed(3)
    honest = 2 * torch.randn(2000, 3, generator=generator)
    targets = torch.bernoulli(honest.sigmoid(), generator=generator)
    assert fit_temperature(4 * honest, targets) == pytest.approx(4, rel=0.1)
