"""What the labels of a plan's sample say, and what happens to those that nobody can count."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from label_studio_format.annotations import ACCEPTED_MARK, GROUP_MARK
from label_studio_format.labeling_config import Choice, ImageChoices
from my_backend.labeling.auto_accept.guarantee import first_sample, make_plan
from my_backend.labeling.auto_accept.records import PlannedImage, PlannedPredictions
from my_backend.labeling.auto_accept.sample import PersonLabel, Sample, judge, person_label, reach

ALPHA = 0.05
TAG = ImageChoices("animal", "image", "image", (Choice(("Cat",)), Choice(("Dog",))))
RIGHT, WRONG = PersonLabel("labeled", "Cat"), PersonLabel("labeled", "Dog")


def planned(groups: Sequence[int], seed: int = 1) -> PlannedPredictions:
    """Predictions that all say Cat; image n has task n. Near-duplicates have the same group."""
    images = [PlannedImage(n, "0" * 64, "Cat", 0.99, group) for n, group in enumerate(groups)]
    plan = make_plan(np.full(len(images), 0.99), ALPHA, first_sample(len(images), ALPHA), seed)
    return PlannedPredictions("v1", seed, images, plan.order.tolist(), plan.surest.tolist(), list(plan.looks))


@pytest.fixture
def predictions() -> PlannedPredictions:
    return planned(range(400))


def labeled(predictions: PlannedPredictions, count: int) -> dict[int, PersonLabel]:
    return dict.fromkeys(predictions.order[:count], RIGHT)


def figures(sample: Sample) -> tuple[int, int, int, int]:
    return len(sample.wrong), sum(sample.wrong), len(sample.open), len(sample.accepted)


def test_labels_that_are_missing_are_asked_for_in_the_random_order(predictions: PlannedPredictions) -> None:
    needed = predictions.looks[0].labels
    nothing = judge(predictions, ALPHA, {})
    assert nothing.open == predictions.order[: len(nothing.open)]
    assert 0 < len(nothing.open) <= needed
    some = judge(predictions, ALPHA, labeled(predictions, 10) | {predictions.order[12]: RIGHT})
    assert figures(some) == (10, 0, len(nothing.open) - 11, 0)
    assert predictions.order[12] not in some.open
    assert reach(predictions, labeled(predictions, 10)) == needed


def test_enough_right_labels_let_the_rest_be_accepted(predictions: PlannedPredictions) -> None:
    needed = predictions.looks[0].labels
    sample = judge(predictions, ALPHA, labeled(predictions, needed))
    assert figures(sample) == (needed, 0, 0, 400 - needed)
    assert sorted(sample.accepted) == sorted(predictions.order[needed:])
    assert (sample.decision.checked, sample.decision.wrong) == (needed, 0)
    assert reach(predictions, labeled(predictions, needed)) == predictions.looks[1].labels


def test_model_that_is_often_wrong_is_said_to_be_hopeless(predictions: PlannedPredictions) -> None:
    half = {task: WRONG if place % 2 else RIGHT for place, task in enumerate(predictions.order[:200])}
    sample = judge(predictions, ALPHA, half)
    assert (sample.hopeless, sample.open, sample.accepted) == (True, [], [])
    assert not judge(predictions, ALPHA, {}).hopeless


@pytest.mark.parametrize("lost", [PersonLabel("deleted"), PersonLabel("skipped")])
def test_deleted_or_skipped_sample_task_counts_as_wrong(predictions: PlannedPredictions, lost: PersonLabel) -> None:
    """Otherwise deleting or skipping hard images would make the model look better than it is."""
    labels = labeled(predictions, predictions.looks[0].labels)
    for task in predictions.order[5:15]:
        labels[task] = lost
    sample = judge(predictions, ALPHA, labels)
    assert (sum(sample.wrong), sample.accepted) == (10, [])
    assert sample.lost == predictions.order[5:15]


def test_sample_that_was_labeled_in_another_way_is_asked_for_again(predictions: PlannedPredictions) -> None:
    labels = labeled(predictions, predictions.looks[0].labels)
    task = predictions.order[3]
    labels[task] = PersonLabel("other")
    sample = judge(predictions, ALPHA, labels)
    assert (len(sample.wrong), sample.accepted) == (3, [])
    assert (sample.again, task in sample.open) == ([task], True)


def test_tasks_gone_meanwhile_are_not_accepted_and_fewer_may_be_wrong(
    predictions: PlannedPredictions,
) -> None:
    needed = predictions.looks[0].labels
    labels = labeled(predictions, needed)
    some, most = predictions.order[needed : needed + 3], predictions.order[needed:-20]
    for task, state in zip(some, ("other", "labeled", "deleted"), strict=True):
        labels[task] = PersonLabel(state, "Cat")  # type: ignore[arg-type]
    sample = judge(predictions, ALPHA, labels)
    assert sorted(sample.accepted) == sorted(predictions.order[needed + 3 :])
    # One wrong answer in the sample may mean that there are several among the rest: too many for 20.
    labels[predictions.order[0]] = WRONG
    assert judge(predictions, ALPHA, labels).accepted
    assert not judge(predictions, ALPHA, labels | dict.fromkeys(most, RIGHT)).accepted


@pytest.mark.parametrize(
    ("state", "left"), [(WRONG, 0), (PersonLabel("skipped"), 0), (RIGHT, 1), (PersonLabel("deleted"), 1)]
)
def test_near_duplicates_of_an_image_with_a_wrong_prediction_are_not_accepted(state: PersonLabel, left: int) -> None:
    predictions = planned([n // 2 for n in range(1000)])
    labels = labeled(predictions, predictions.looks[0].labels)
    first = predictions.order[0]
    copy = first ^ 1
    assert copy not in labels
    labels[first] = state

    sample = judge(predictions, ALPHA, labels)

    assert len(sample.accepted) == 1000 - len(labels) - (1 - left)
    assert (copy in sample.accepted) is bool(left)


@pytest.mark.parametrize(("bursts_wrong", "others_wrong"), [(0.15, 0.01), (0.4, 0.005)])
def test_guarantee_holds_for_labels_if_bursts_are_more_often_wrong(bursts_wrong: float, others_wrong: float) -> None:
    """All images of a burst are wrong or none. When they counted as one image, 61 and 59 of 200 plans broke it."""
    groups = [*range(400), *(400 + n // 20 for n in range(400))]
    broken, plans = 0, 200
    for seed in range(plans):
        random = np.random.default_rng(seed)
        rates = np.where(np.arange(420) < 400, others_wrong, bursts_wrong)
        wrong = (random.random(420) < rates)[groups]
        predictions = planned(groups, seed)
        labels: dict[int, PersonLabel] = {}
        while (sample := judge(predictions, ALPHA, labels)).open:
            labels |= {task: WRONG if wrong[task] else RIGHT for task in sample.open}
        broken += bool(sample.accepted) and wrong[sample.accepted].mean() > ALPHA
    assert broken <= 0.08 * plans  # 5%, and two standard deviations


REGION = {"from_name": "animal", "to_name": "image", "type": "choices", "value": {"choices": ["Cat"]}}
ALONE = {"result": [REGION], "completed_by": 1, "lead_time": 2.0}


def marked(mark: str) -> dict[str, Any]:
    return {"result": [{**REGION, "meta": {"text": [f"{mark} r"]}}], "completed_by": 2, "lead_time": None}


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ([], PersonLabel("free")),
        ([ALONE], RIGHT),
        ([{**ALONE, "lead_time": None, "parent_prediction": 5}], PersonLabel("other")),  # accepted in bulk
        ([marked(GROUP_MARK)], PersonLabel("other")),
        ([marked(ACCEPTED_MARK)], PersonLabel("other")),
        ([{**ALONE, "bulk_created": True, "lead_time": None}], PersonLabel("other")),
        ([marked(GROUP_MARK), ALONE], RIGHT),
        ([{**ALONE, "was_cancelled": True}], PersonLabel("skipped")),
        ([{**ALONE, "was_cancelled": True}, {**ALONE, "completed_by": 2}], RIGHT),
        ([{**ALONE, "result": []}], PersonLabel("other")),
        (
            [ALONE, {**ALONE, "completed_by": 3, "result": [{**REGION, "value": {"choices": ["Dog"]}}]}],
            PersonLabel("other"),
        ),
        ([{**ALONE, "result": [{**REGION, "value": {"choices": ["Bird"]}}]}], PersonLabel("other")),
    ],
)
def test_only_labels_count_that_a_person_gave_to_the_image_alone(annotations: list[Any], expected: PersonLabel) -> None:
    assert person_label({"id": 1, "annotations": annotations}, TAG) == expected
