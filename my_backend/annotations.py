"""Which choice a task's annotations stand for."""

from dataclasses import dataclass
from typing import Any, Literal

from my_backend.wire import ImageChoices, Json

Outcome = Literal["used", "skipped", "empty", "unknown choice", "tie", "not annotated"]


@dataclass(frozen=True)
class Label:
    """What a task's annotations say: a choice, or the reason why they say none."""

    outcome: Outcome
    choice: str = ""


def label_of(task: Json, tag: ImageChoices) -> Label:
    """The choice of a task's annotations.

    A ground truth decides; otherwise each annotator's newest annotation is a vote, and the majority wins. A tie is
    no label. Skipped (cancelled) and empty annotations are no votes; choices that the labeling config no longer has
    are none either.
    """
    annotations = [a for a in task.get("annotations") or task.get("completions") or [] if isinstance(a, dict)]
    if not annotations:
        return Label("not annotated")
    submitted = [a for a in annotations if not (a.get("was_cancelled") or a.get("skipped"))]
    if not submitted:
        return Label("skipped")
    chosen = [a for a in submitted if a.get("ground_truth")] or list(_newest_by_annotator(submitted))
    votes = [choice for a in chosen if (choice := _choice_of(a, tag))]
    if not votes:
        return Label("empty")
    known = [choice for choice in votes if choice in tag.choices]
    if not known:
        return Label("unknown choice")
    counts = sorted(((known.count(choice), choice) for choice in set(known)), reverse=True)
    if len(counts) > 1 and counts[0][0] == counts[1][0]:
        return Label("tie")
    return Label("used", counts[0][1])


def _newest_by_annotator(annotations: list[Json]) -> list[Json]:
    newest: dict[str, Json] = {}
    for annotation in sorted(annotations, key=lambda a: (str(a.get("updated_at") or ""), _number(a.get("id")))):
        newest[_annotator(annotation)] = annotation
    return list(newest.values())


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0


def _annotator(annotation: Json) -> str:
    by = annotation.get("completed_by")
    return str(by.get("id") if isinstance(by, dict) else by)


def _choice_of(annotation: Json, tag: ImageChoices) -> str:
    """The annotation's choice for this tag; "" where it has none. Results of other tags stand beside it."""
    for region in annotation.get("result") or []:
        if not isinstance(region, dict) or region.get("type") != "choices":
            continue
        value = region.get("value")
        choices = value.get("choices") if isinstance(value, dict) else None
        if region.get("from_name") == tag.from_name and isinstance(choices, list) and choices:
            return str(choices[0])
    return ""
