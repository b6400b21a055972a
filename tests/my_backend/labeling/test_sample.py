"""What the labels of a plan's sample say, and what happens to those that nobody can count."""

from typing import Any

import numpy as np
import pytest

from label_studio_format.annotations import ACCEPTED_MARK, GROUP_MARK
from label_studio_format.labeling_config import Choice, ImageChoices
from my_backend.labeling.acceptance import Answers, PlannedImage
from my_backend.labeling.auto_accept import first_sample, make_plan
from my_backend.labeling.sample import Sample, Told, judge, reach, told_by

ALPHA = 0.05
TAG = ImageChoices("animal", "image", "image", (Choice(("Cat",)), Choice(("Dog",))))
RIGHT, WRONG = Told("labeled", "Cat"), Told("labeled", "Dog")


def planned(images: int, *, copies: int = 0) -> Answers:
    """Answers that all say Cat; image n has task n, and the first ones have a near-duplicate with task 1000 + n."""
    units = [PlannedImage([n, 1000 + n] if n < copies else [n], "0" * 64, "Cat", 0.99) for n in range(images)]
    plan = make_plan(np.full(images, 0.99), ALPHA, first_sample(images, ALPHA), 1)
    return Answers("v1", 1, units, plan.order.tolist(), plan.surest.tolist(), list(plan.looks))


@pytest.fixture
def answers() -> Answers:
    return planned(400)


def labeled(answers: Answers, count: int) -> dict[int, Told]:
    return dict.fromkeys(answers.order[:count], RIGHT)


def figures(sample: Sample) -> tuple[int, int, int, int]:
    return len(sample.wrong), sum(sample.wrong), len(sample.open), len(sample.free)


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
    assert sample.free == {number: [number] for number in sorted(answers.order[needed:])}
    assert (sample.decision.checked, sample.decision.wrong) == (needed, 0)
    assert reach(answers, labeled(answers, needed)) == answers.looks[1].labels


def test_model_that_is_often_wrong_is_said_to_be_hopeless(answers: Answers) -> None:
    half = {task: WRONG if place % 2 else RIGHT for place, task in enumerate(answers.order[:200])}
    sample = judge(answers, ALPHA, half)
    assert (sample.hopeless, sample.open, sample.free) == (True, [], {})
    assert not judge(answers, ALPHA, {}).hopeless


@pytest.mark.parametrize("lost", [Told("deleted"), Told("skipped")])
def test_deleted_or_skipped_sample_task_counts_as_wrong(answers: Answers, lost: Told) -> None:
    """Otherwise deleting or skipping hard images would make the model look better than it is."""
    told = labeled(answers, answers.looks[0].labels)
    for task in answers.order[5:15]:
        told[task] = lost
    sample = judge(answers, ALPHA, told)
    assert (sum(sample.wrong), sample.free) == (10, {})
    assert sample.lost == answers.order[5:15]


def test_sample_that_was_labeled_in_another_way_is_asked_for_again(answers: Answers) -> None:
    told = labeled(answers, answers.looks[0].labels)
    task = answers.order[3]
    told[task] = Told("other")
    sample = judge(answers, ALPHA, told)
    assert (len(sample.wrong), sample.free) == (3, {})
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
    assert sorted(sample.free) == sorted(answers.order[needed + 3 :])
    # One wrong answer in the sample may mean that there are several among the rest: too many for 20.
    told[answers.order[0]] = WRONG
    assert judge(answers, ALPHA, told).free
    assert not judge(answers, ALPHA, told | dict.fromkeys(most, RIGHT)).free


def test_near_duplicates_are_one_image() -> None:
    answers = planned(400, copies=400)
    needed = answers.looks[0].labels
    told = labeled(answers, needed)
    sample = judge(answers, ALPHA, told)
    assert sample.free == {number: [number, 1000 + number] for number in sorted(answers.order[needed:])}
    first, other = answers.order[needed], answers.order[needed + 1]
    sample = judge(answers, ALPHA, told | {1000 + first: RIGHT, other: Told("deleted")})
    assert first not in sample.free, "a person has labeled one of them: the other one needs a look"
    assert sample.free[other] == [1000 + other]
    # In the sample, the copy stands for an image that was deleted.
    told[answers.order[0]] = Told("deleted")
    assert judge(answers, ALPHA, told).open == [1000 + answers.order[0]]
    assert judge(answers, ALPHA, told | {1000 + answers.order[0]: RIGHT}).lost == []


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
