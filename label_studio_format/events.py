"""Annotation events, and how they change the known annotated tasks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """An annotation that was created or changed, with its task if the event has it; or one that was deleted."""

    annotation: Json
    task: Json | None = None
    deleted: bool = False


def apply(tasks: Sequence[Json], changes: Sequence[Change]) -> list[Json] | None:
    """The annotated tasks after these changes; None if the changes are missing necessary data."""
    described = {task["id"]: task for task in tasks}
    annotations: dict[Any, dict[Any, Json]] = {
        number: {annotation.get("id"): annotation for annotation in task.get("annotations") or []}
        for number, task in described.items()
    }
    gone: set[int] = set()
    for change in changes:
        number = change.annotation.get("id")
        told = change.task or {}
        place = _place(change)
        if change.deleted and isinstance(number, int):
            gone.add(number)
            for others in annotations.values():
                others.pop(number, None)
            continue
        if not (isinstance(number, int) and isinstance(place, int) and (place in described or "data" in told)):
            return None
        described[place] = {**described.get(place, {}), **told}
        known = annotations.setdefault(place, {})
        if number in gone:
            continue  # the event of its deletion has overtaken this one
        # An event may arrive after a newer state was read.
        if number not in known or _time(change.annotation) >= _time(known[number]):
            known[number] = change.annotation
        if len(known) < _annotations_of(told):
            return None
    return [{**described[place], "annotations": list(known.values())} for place, known in annotations.items() if known]


@dataclass(frozen=True)
class Concerned:
    """A condition for known tasks: `apply` needs only those that meet it, and leaves the others as they are."""

    tasks: frozenset[int]
    deleted: frozenset[int]  # annotations

    def __call__(self, task: Json) -> bool:
        return task["id"] in self.tasks or any(one.get("id") in self.deleted for one in task.get("annotations") or [])

    def may_be_among(self, tasks: Iterable[int], annotations: Iterable[int]) -> bool:
        """Whether one of the tasks with these ids and annotations may meet it."""
        return not (self.tasks.isdisjoint(tasks) and self.deleted.isdisjoint(annotations))


def concerned_by(changes: Sequence[Change]) -> Concerned:
    """Which known tasks the changes concern."""
    places = [_place(change) for change in changes if not change.deleted]
    numbers = [change.annotation.get("id") for change in changes if change.deleted]
    return Concerned(
        frozenset(place for place in places if isinstance(place, int)),
        frozenset(number for number in numbers if isinstance(number, int)),
    )


def _place(change: Change) -> Any:
    """The id of the change's task, if the event has it."""
    return (change.task or {}).get("id", change.annotation.get("task"))


def _time(annotation: Json) -> str:
    return str(annotation.get("updated_at") or "")


def _annotations_of(task: Json) -> int:
    """How many annotations the task has according to Label Studio, including skipped ones."""
    counts = (task.get("total_annotations"), task.get("cancelled_annotations"))
    return sum(count for count in counts if isinstance(count, int))
