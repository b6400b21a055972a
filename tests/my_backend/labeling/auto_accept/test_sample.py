"""What the labels of a plan's sample say, and what happens to those that nobody can count."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from label_studio_format.annotations import ACCEPTED_MARK, GROUP_MARK
from label_studio_format.labeling_config import Choice, ImageChoices
from my_backend.labeling.auto_accept.guarantee import first_sample, make_plan
from my_backend.labeling.auto_accept.records import Answers, PlannedImage
from my_backend.labeling.auto_accept.sample import Sample, Told, judge, reach, told_by

ALPHA = 0.05
TAG = ImageChoices("animal", "image", "image", (Choice(("Cat",)), Choice(("Dog",))))
RIGHT, WRONG = Told("labeled", "Cat"), Told("labeled", "Dog")


def planned(groups: Sequence[int], seed: int = 1) -> Answers:
    """Answers that all say Cat; image n has task n. Near-duplicates have the same group."""
    images = [PlannedImage(n, "0" * 64, "Cat", 0.99, group) for n, group in enumerate(groups)]
    plan = make_plan(np.full(len(images), 0.99), ALPHA, first_sample(len(images), ALPHA), seed)
    return Answers("v1", seed, images, plan.order.tolist(), plan.surest.tolist(), list(plan.looks))


@pytest.fixture
def answers() -> Answers:
    return planned(range(400))


def labeled(answers: Answers, count: int) -> dict[int, Told]:
    return dict.fromkeys(answers.order[:count], RIGHT)


def figures(sample: Sample) -> tuple[int, int, int, int]:
    return len(sample.wrong), sum(sample.wrong), len(sample.open), len(sample.accepted)


def test_labels_that_are_missing_are_asked_for_in_the_random_order(answers: Answers) -> None:
    needed = answers.looks[0].labels
    nothing = judge(answers, ALPHA, {})
    assert nothing.open == answers.order[: len(nothing.open)]
    assert 0 < len(nothing.open) <= needed
    some = judge(answers, ALPHA, labeled(answers, 10) | {answers.order[12]: RIGHT})
    assert figures(some) == (10, 0, len(nothing.open) - 11, 0)
    assert answers.order[12] not in some.open
    assert reach(answers, labeled(answers, 10)) == needed


def test_enough_right_labels_let_the_rest_be_accepted(answers: Answers) -> None:
    needed = answers.looks[0].labels
    sample = judge(answers, ALPHA, labeled(answers, needed))
    assert figures(sample) == (needed, 0, 0, 400 - needed)
    assert sorted(sample.accepted) == sorted(answers.order[needed:])
    assert (sample.decision.checked, sample.decision.wrong) == (needed, 0)
    assert reach(answers, labeled(answers, needed)) == answers.looks[1].labels


def test_model_that_is_often_wrong_is_said_to_be_hopeless(answers: Answers) -> None:
    half = {task: WRONG if place % 2 else RIGHT for place, task in enumerate(answers.order[:200])}
    sample = judge(answers, ALPHA, half)
    assert (sample.hopeless, sample.open, sample.accepted) == (True, [], [])
    assert not judge(answers, ALPHA, {}).hopeless


@pytest.mark.parametrize("lost", [Told("deleted"), Told("skipped")])
def test_deleted_or_skipped_sample_task_counts_as_wrong(answers: Answers, lost: Told) -> None:
    """Otherwise deleting or skipping hard images would make the model look better than it is."""
    told = labeled(answers, answers.looks[0].labels)
    for task in answers.order[5:15]:
        told[task] = lost
    sample = judge(answers, ALPHA, told)
    assert (sum(sample.wrong), sample.accepted) == (10, [])
    assert sample.lost == answers.order[5:15]


def test_sample_that_was_labeled_in_another_way_is_asked_for_again(answers: Answers) -> None:
    told = labeled(answers, answers.looks[0].labels)
    task = answers.order[3]
    told[task] = Told("other")
    sample = judge(answers, ALPHA, told)
    assert (len(sample.wrong), sample.accepted) == (3, [])
    assert (sample.again, task in sample.open) == ([task], True)


def test_tasks_gone_meanwhile_are_not_accepted_and_fewer_may_be_wrong(
    answers: Answers,
) -> None:
    needed = answers.looks[0].labels
    told = labeled(answers, needed)
    some, most = answers.order[needed : needed + 3], answers.order[needed:-20]
    for task, state in zip(some, ("other", "labeled", "deleted"), strict=True):
        told[task] = Told(state, "Cat")  # type: ignore[arg-type]
    sample = judge(answers, ALPHA, told)
    assert sorted(sample.accepted) == sorted(answers.order[needed + 3 :])
    # One wrong answer in the sample may mean that there are several among the rest: too many for 20.
    told[answers.order[0]] = WRONG
    assert judge(answers, ALPHA, told).accepted
    assert not judge(answers, ALPHA, told | dict.fromkeys(most, RIGHT)).accepted


@pytest.mark.parametrize(("state", "left"), [(WRONG, 0), (Told("skipped"), 0), (RIGHT, 1), (Told("deleted"), 1)])
def test_near_duplicates_of_an_image_with_a_wrong_prediction_are_not_accepted(state: Told, left: int) -> None:
    answers = planned([n // 2 for n in range(1000)])
    told = labeled(answers, answers.looks[0].labels)
    first = answers.order[0]
    copy = first ^ 1
    assert copy not in told
    told[first] = state

    sample = judge(answers, ALPHA, told)

    assert len(sample.accepted) == 1000 - len(told) - (1 - left)
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
        answers = planned(groups, seed)
        told: dict[int, Told] = {}
        while (sample := judge(answers, ALPHA, told)).open:
            told |= {task: WRONG if wrong[task] else RIGHT for task in sample.open}
        broken += bool(sample.accepted) and wrong[sample.accepted].mean() > ALPHA
    assert broken <= 0.08 * plans  # 5%, and two standard deviations


REGION = {"from_name": "animal", "to_name": "image", "type": "choices", "value": {"choices": ["Cat"]}}
ALONE = {"result": [REGION], "completed_by": 1, "lead_time": 2.0}


def marked(mark: str) -> dict[str, Any]:
    return {"result": [{**REGION, "meta": {"text": [f"{mark} r"]}}], "completed_by": 2, "lead_time": None}


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ([], Told("free")),
        ([ALONE], RIGHT),
        ([{**ALONE, "lead_time": None, "parent_prediction": 5}], Told("other")),  # accepted in bulk
        ([marked(GROUP_MARK)], Told("other")),
        ([marked(ACCEPTED_MARK)], Told("other")),
        ([{**ALONE, "bulk_created": True, "lead_time": None}], Told("other")),
        ([marked(GROUP_MARK), ALONE], RIGHT),
        ([{**ALONE, "was_cancelled": True}], Told("skipped")),
        ([{**ALONE, "was_cancelled": True}, {**ALONE, "completed_by": 2}], RIGHT),
        ([{**ALONE, "result": []}], Told("other")),
        ([ALONE, {**ALONE, "completed_by": 3, "result": [{**REGION, "value": {"choices": ["Dog"]}}]}], Told("other")),
        ([{**ALONE, "result": [{**REGION, "value": {"choices": ["Bird"]}}]}], Told("other")),
    ],
)
def test_only_labels_count_that_a_person_gave_to_the_image_alone(annotations: list[Any], expected: Told) -> None:
    assert told_by({"id": 1, "annotations": annotations}, TAG) == expected
