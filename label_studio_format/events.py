"""Annotation events, and what they do to the annotated tasks that are known; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """An annotation that was made or changed, with its task as far as the event tells; or one that was deleted."""

    annotation: Json
    task: Json | None = None
    deleted: bool = False


def apply(tasks: Sequence[Json], changes: Sequence[Change]) -> list[Json] | None:
    """The annotated tasks after these changes; None where the changes do not tell all that is needed."""
    described = {task["id"]: task for task in tasks}
    annotations: dict[Any, dict[Any, Json]] = {
        number: {annotation.get("id"): annotation for annotation in task.get("annotations") or []}
        for number, task in described.items()
    }
    for change in changes:
        number = change.annotation.get("id")
        told = change.task or {}
        place = told.get("id", change.annotation.get("task"))
        if change.deleted and isinstance(number, int):
            for others in annotations.values():
                others.pop(number, None)
            continue
        if not (isinstance(number, int) and isinstance(place, int) and (place in described or "data" in told)):
            return None
        described[place] = {**described.get(place, {}), **told}
        known = annotations.setdefault(place, {})
        # An event may come after a reading that knows more.
        if number not in known or _time(change.annotation) >= _time(known[number]):
            known[number] = change.annotation
        if len(known) < _annotations_of(told):
            return None
    return [{**described[place], "annotations": list(known.values())} for place, known in annotations.items() if known]


def _time(annotation: Json) -> str:
    return str(annotation.get("updated_at") or "")


def _annotations_of(task: Json) -> int:
    """How many Label Studio says there are, skipped ones too."""
    counts = (task.get("total_annotations"), task.get("cancelled_annotations"))
    return sum(count for count in counts if isinstance(count, int))
