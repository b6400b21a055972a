from typing import Any

import pytest

from label_studio_format.events import Change, apply

Json = dict[str, Any]


def annotation(number: int, choice: str, at: str = "t1") -> Json:
    return {"id": number, "updated_at": at, "result": [choice]}


def task(number: int, *annotations: Json) -> Json:
    return {"id": number, "data": {"image": f"/{number}.png"}, "annotations": list(annotations)}


def told(number: int, **counts: int) -> Json:
    """A task as in an event."""
    return {"id": number, "data": {"image": f"/{number}.png"}, **counts}


CAT, DOG = annotation(11, "Cat"), annotation(12, "Dog")


def choices(tasks: list[Json] | None) -> dict[int, list[str]]:
    assert tasks is not None
    return {task["id"]: [one["result"][0] for one in task["annotations"]] for task in tasks}


def test_nothing_changes_without_changes() -> None:
    tasks = [task(1, CAT), task(2, DOG)]

    assert apply(tasks, []) == tasks


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([Change(annotation(12, "Dog"), told(2))], {1: ["Cat"], 2: ["Dog"]}),
        ([Change(annotation(11, "Dog", "t2"), told(1))], {1: ["Dog"]}),
        ([Change(annotation(11, "Dog", "t2"), told(1)), Change(annotation(11, "Bird", "t3"), told(1))], {1: ["Bird"]}),
        ([Change(annotation(13, "Dog"), told(1))], {1: ["Cat", "Dog"]}),
        ([Change({**annotation(11, "Dog"), "task": 1})], {1: ["Dog"]}),
        ([Change({"id": 11}, deleted=True)], {}),
        ([Change({"id": 99}, deleted=True)], {1: ["Cat"]}),
        ([Change({"id": 11}, deleted=True), Change(annotation(14, "Dog"), told(1))], {1: ["Dog"]}),
    ],
    ids=["new task", "changed", "changed twice", "second one", "known task", "deleted", "unknown deleted", "anew"],
)
def test_changes_do_what_happened_in_label_studio(changes: list[Change], expected: dict[int, list[str]]) -> None:
    assert choices(apply([task(1, CAT)], changes)) == expected


def test_event_that_comes_late_does_not_take_back_what_is_known() -> None:
    known = [task(1, annotation(11, "Dog", "t5"))]

    assert choices(apply(known, [Change(annotation(11, "Cat", "t4"), told(1))])) == {1: ["Dog"]}


@pytest.mark.parametrize("late", [annotation(12, "Dog"), annotation(11, "Dog", "t2")], ids=["created", "changed"])
def test_annotation_stays_deleted_if_an_earlier_event_of_it_comes_late(late: Json) -> None:
    known = [task(1, CAT), task(2, annotation(14, "Dog"))]
    changes = [Change({"id": late["id"]}, deleted=True), Change(late, told(1, total_annotations=2))]

    assert choices(apply(known, changes)) == ({1: ["Cat"], 2: ["Dog"]} if late["id"] == 12 else {2: ["Dog"]})


def test_what_an_event_says_of_its_task_is_taken_over() -> None:
    changed = apply([{**task(1, CAT), "meta": 5}], [Change(CAT, {"id": 1, "data": {"image": "/new.png"}})])

    assert changed is not None
    assert (changed[0]["data"], changed[0]["meta"]) == ({"image": "/new.png"}, 5)


def test_tasks_that_are_given_stay_as_they_are() -> None:
    tasks = [task(1, CAT)]

    apply(tasks, [Change(annotation(11, "Dog", "t2"), told(1)), Change({"id": 11}, deleted=True)])

    assert tasks == [task(1, CAT)]


@pytest.mark.parametrize(
    "change",
    [
        Change({}),
        Change({"id": 5}),
        Change(annotation(12, "Dog"), {"id": 2}),
        Change({**annotation(12, "Dog"), "task": 2}),
        Change({"id": [1], "updated_at": {}}, told(1)),
        Change(CAT, {"id": {}, "data": {}}),
        Change({}, deleted=True),
        Change(annotation(12, "Dog"), told(2, total_annotations=2)),
        Change(annotation(13, "Dog"), told(1, total_annotations=2, cancelled_annotations=1)),
    ],
)
def test_change_that_does_not_tell_all_is_not_guessed_at(change: Change) -> None:
    assert apply([task(1, CAT)], [change]) is None
