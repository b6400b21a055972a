from collections.abc import Sequence
from dataclasses import replace

import pytest

from image_classifier.data.dataset import Sample, held_out
from image_classifier.embedding.lane import InferenceLane
from image_classifier.evaluation.comparison import Comparison, compare
from image_classifier.nets.classifier import Backbone, Classifier, Head, load_backbone
from image_classifier.training.classifier_head import embed, learn_head
from image_classifier.training.hyperparameters import Hyperparameters


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("none", 32)


@pytest.fixture(scope="module")
def samples(colors: list[Sample]) -> list[Sample]:
    return colors


def learn(
    lane: InferenceLane,
    backbone: Backbone,
    samples: Sequence[Sample],
    classes: tuple[str, ...] = ("red", "green", "blue"),
) -> Classifier:
    embedded = embed(lane, backbone, samples, lambda record: None)
    return learn_head(backbone, embedded, classes, Hyperparameters(epochs=8), lambda record: None)


def test_a_scrambled_head_is_clearly_worse(lane: InferenceLane, backbone: Backbone, samples: list[Sample]) -> None:
    good = learn(lane, backbone, samples)
    head = good.evaluation_head
    scrambled = replace(good, evaluation_head=Head(head.weight.roll(1, 0), head.bias.roll(1, 0)))

    worse = compare(lane, good, scrambled, samples)
    assert worse is not None
    assert worse.clearly_worse
    assert not worse.better
    same = compare(lane, good, good, samples)
    assert same is not None
    assert not same.clearly_worse


def test_labels_that_nobody_has_looked_at_do_not_pass_a_version(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample]
) -> None:
    """One that has learned the answers of the live version is compared on the labels that people gave."""
    some = [replace(sample, source="unseen") if row >= 45 else sample for row, sample in enumerate(samples)]
    good = learn(lane, backbone, some)

    found = compare(lane, good, good, some)

    assert found is not None
    assert found.images == sum(held_out(some)[:45]) < sum(held_out(some))


def test_near_duplicates_of_what_the_live_version_learned_do_not_count(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample]
) -> None:
    good = learn(lane, backbone, samples)
    out = held_out(samples)
    moved = out.index(True)
    learned = next(sample for sample, is_out in zip(samples, out, strict=True) if not is_out)
    grouped = [replace(samples[moved], group=samples[moved].image.digest), *samples]
    # An image that the live version learned turns out to be like a held-out one.
    now = [replace(s, group=samples[moved].image.digest) if s is learned else s for s in grouped]

    assert (before := compare(lane, good, good, grouped, samples)) is not None
    assert (after := compare(lane, good, good, now, samples)) is not None
    assert (before.images, after.images) == (sum(out) + 1, sum(out) - 1)


def test_classes_known_to_both_are_compared_by_name_on_held_out_images(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample]
) -> None:
    all_three = learn(lane, backbone, samples)
    some = [sample for sample in samples if sample.label != "green"]
    other = learn(lane, backbone, some, ("blue", "red"))
    out = [sample for sample, is_out in zip(samples, held_out(samples), strict=True) if is_out]
    for before, after in ((all_three, other), (other, all_three)):
        found = compare(lane, before, after, samples)
        assert found
        assert found.images == sum(sample.label != "green" for sample in out) < len(out)
        assert min(found.before, found.after) > 0.9


def test_nothing_is_compared_without_held_out_images_or_the_same_question(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample]
) -> None:
    one = learn(lane, backbone, samples)
    several = replace(one, head=replace(one.head, thresholds=(0.5,) * 3))
    assert compare(lane, one, one, samples[:4]) is None
    assert compare(lane, one, several, samples) is None


@pytest.mark.parametrize(
    ("before", "after", "error", "clearly_worse"),
    [
        (0.9, 0.85, 0.01, True),
        (0.9, 0.85, 0.03, False),  # within two standard errors
        (0.9, 0.89, 0.0, False),  # within 0.02
        (0.8, 0.9, 0.0, False),
        (1.0, 0.0, 0.0, True),
    ],
)
def test_clearly_worse_is_more_than_chance_and_more_than_little(
    before: float, after: float, error: float, clearly_worse: bool
) -> None:
    assert Comparison(100, 100, before, after, error, 0.0, 0.0).clearly_worse is clearly_worse


@pytest.mark.parametrize(
    ("images", "before", "after", "gain", "better"),
    [
        (100, 0.8, 0.85, 0.02, True),
        (100, 0.8, 0.8, 0.02, True),
        (100, 0.8, 0.85, 0.016, False),  # by chance in more than 1 of 20 cases
        (100, 0.8, 0.79, 0.02, False),  # fewer images are right
        (100, 0.8, 0.85, -0.02, False),
        (19, 0.8, 0.85, 0.02, False),  # too few to tell
        (20, 0.8, 0.85, 0.02, True),
    ],
)
def test_better_is_more_than_chance(images: int, before: float, after: float, gain: float, better: bool) -> None:
    assert Comparison(100, images, before, after, 0.01, gain, 0.01).better is better


@pytest.mark.parametrize("several", [False, True])
def test_classifier_that_is_surer_of_the_right_answers_is_better(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample], several: bool
) -> None:
    many = [replace(sample, part="val" if row % 2 else "train") for row, sample in enumerate(samples)]
    if several:
        many = [replace(sample, label=frozenset({str(sample.label)})) for sample in many]
    good = learn(lane, backbone, many)
    unsure = replace(good, evaluation_head=replace(good.evaluation_head, temperature=good.head.temperature * 20))

    found, back = compare(lane, unsure, good, many), compare(lane, good, unsure, many)

    assert found
    assert back
    assert (found.images, back.better) == (45, False)
    assert found.gain == pytest.approx(-back.gain)
    assert found.gain > 0.1 > found.gain_error > 0
    assert several or (found.before == found.after and found.better)


def test_one_group_of_near_duplicates_decides_nothing() -> None:
    assert not Comparison(20, 1, 0.5, 0.5, 0.0, 0.1, 0.0).better
    assert not Comparison(20, 1, 1.0, 0.5, 0.0, 0.0, 0.0).clearly_worse
    assert Comparison(20, 20, 0.5, 0.5, 0.0, 0.1, 0.0).better
