"""Reads which choices a task's annotations stand for, and whether a person has looked at the image."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from label_studio_format.labeling_config import RESULT_TYPES, ImageChoices, Json

Outcome = Literal["used", "skipped", "rejected", "empty", "other tag", "unknown choice", "tie", "not annotated"]

# Who has looked at the image: a person who opened it, a person who saw it in a grid with others, or nobody.
Source = Literal["person", "group", "unseen"]

# A region whose `meta.text` has a string that starts with one of these was labeled on a page of this backend: together
# with others in a grid, or alone by a person who looked at it. The rest of the string names the run that wrote it.
GROUP_MARK = "image-classifier:group"
SINGLE_MARK = "image-classifier:single"
# The same for a model's answer that was accepted without review; until someone opens and saves the annotation.
ACCEPTED_MARK = "image-classifier:accepted"


@dataclass(frozen=True)
class Label:
    """A task's label as names of choices, or the reason why it has none.

    It has one name, or any number including none if the config allows several choices. `unknown` are selected values
    that aren't choices, spelled as in the annotations. `other_tags` are the names of the tags that were used if
    this one wasn't. `ground_truth` tells whether ground truths have decided.
    """

    outcome: Outcome
    choices: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    other_tags: frozenset[str] = frozenset()
    source: Source = "person"
    ground_truth: bool = False


def label_of(task: Json, tag: ImageChoices) -> Label:
    """The label that results from a task's annotations.

    A ground truth decides. Otherwise each annotator's newest annotation is a vote, and the majority wins; if several
    choices are allowed, this applies to each choice. A tie gives no label. These are no votes: skipped (cancelled)
    annotations, annotations that a reviewer rejected, annotations that nobody has looked at if a person has made
    another one, and choices and tags that the labeling config no longer has. An empty annotation is a vote only if
    several choices are allowed. Data in an unexpected format is ignored.
    """
    annotations = annotations_of(task)
    if not annotations:
        return Label("not annotated")
    submitted = [a for a in annotations if not (a.get("was_cancelled") or a.get("skipped"))]
    if not submitted:
        return Label("skipped")
    approved = [a for a in submitted if not _is_rejected(a)]
    if not approved:
        return Label("rejected")
    seen = [a for a in approved if source_of(a) != "unseen"] or approved
    truths = [a for a in seen if a.get("ground_truth")]
    chosen = truths or _newest_by_annotator(seen)
    ticked = [_ticked(annotation, tag) for annotation in chosen]
    other_tags = [_used_instead(annotation, tag) for annotation in chosen]
    if not any(ticked) and (all(other_tags) or not tag.multiple):
        others = frozenset().union(*other_tags)
        return Label("other tag", other_tags=others) if others else Label("empty")
    data = task.get("data")
    task_tag = tag.for_task(data if isinstance(data, dict) else {})
    known = [list(filter(None, map(task_tag.name_of, choices))) for choices in ticked]
    unknown = frozenset(_spelled(called) for choices in ticked for called in choices if not task_tag.name_of(called))
    votes = [
        names
        for names, choices, others in zip(known, ticked, other_tags, strict=True)
        if names or (tag.multiple and not choices and not others)
    ]
    if not votes:
        return Label("unknown choice", unknown=unknown)
    label = _majority_of_each(votes) if tag.multiple else _majority([names[-1] for names in votes])
    # One person who opened the image is enough to judge by.
    source = min(map(source_of, chosen), key=get_args(Source).index)
    return replace(label, unknown=unknown, source=source, ground_truth=bool(truths))


def source_of(annotation: Json) -> Source:
    """Who has looked at the image, according to what Label Studio 1.23 stores.

    *Create Annotations From Predictions* leaves `lead_time` empty, the editor fills it in. An annotation that was
    imported or created over the API counts as a person's, unless it was copied from a prediction.
    """
    notes = notes_of(annotation)
    if any(note.startswith(GROUP_MARK) for note in notes):
        return "group"
    if any(note.startswith(SINGLE_MARK) for note in notes):
        return "person"
    # Label Studio forgets the prediction once it is deleted, or if the annotation is imported into another project.
    copied = annotation.get("parent_prediction") is not None or any(map(_is_copied, _regions(annotation)))
    marked = any(note.startswith(ACCEPTED_MARK) for note in notes)
    accepted = (marked or copied) and annotation.get("lead_time") is None
    return "unseen" if accepted or annotation.get("bulk_created") else "person"


def _is_copied(region: Json) -> bool:
    """Whether a region was copied from a prediction: it has a score, but not the origin that the editor adds."""
    return region.get("score") is not None and region.get("origin") is None


def notes_of(annotation: Json) -> list[str]:
    """The notes of an annotation's regions."""
    return [note for region in _regions(annotation) for note in _notes(region)]


def _regions(annotation: Json) -> list[Json]:
    return [region for region in _list(annotation.get("result")) if isinstance(region, dict)]


def _notes(region: Json) -> list[str]:
    """A region's notes: Label Studio stores a list; a single text is accepted, too."""
    meta = region.get("meta")
    text = meta.get("text") if isinstance(meta, dict) else None
    return [one for one in ([text] if isinstance(text, str) else _list(text)) if isinstance(one, str)]


def annotations_of(task: Json) -> list[Json]:
    """A task's annotations; Label Studio before 1.0 called them completions."""
    return [a for a in _list(task.get("annotations") or task.get("completions")) if isinstance(a, dict)]


def choices_regions(annotation: Json) -> Iterator[tuple[str, list[Any]]]:
    """Yields the name of each Choices or Taxonomy tag in the result with the selected choices, as spelled there."""
    for region in _regions(annotation):
        if region.get("type") not in RESULT_TYPES.values():
            continue
        if isinstance(name := region.get("from_name"), str):
            yield name, selected_in(region)


def selected_in(region: Json) -> list[Any]:
    """The selected choices of a region as they are spelled there: a name, or the path to a nested choice."""
    value = region.get("value")
    selected = (
        next((value[key] for key in RESULT_TYPES.values() if value.get(key)), None) if isinstance(value, dict) else None
    )
    return [selected] if isinstance(selected, str) else _list(selected)


def _is_rejected(annotation: Json) -> bool:
    """Whether the last review (Label Studio Enterprise) rejected it; a later change of the annotation cancels that."""
    action = annotation.get("last_action")
    if action in ("rejected", "accepted", "fixed_and_accepted", "updated"):
        return bool(action == "rejected")
    reviews = [review for review in _list(annotation.get("reviews")) if isinstance(review, dict)]
    return bool(reviews) and sorted(reviews, key=_made)[-1].get("accepted") is False


def _made(review: Json) -> tuple[str, int]:
    number = review.get("id")
    return str(review.get("created_at") or ""), number if isinstance(number, int) else 0


def _spelled(called: Any) -> str:
    return "/".join(map(str, called)) if isinstance(called, list) else str(called)


def _newest_by_annotator(annotations: list[Json]) -> list[Json]:
    newest: dict[str, Json] = {}
    for annotation in sorted(annotations, key=_age):
        newest[_annotator(annotation)] = annotation
    return list(newest.values())


def _age(annotation: Json) -> tuple[str, int]:
    number = annotation.get("id")
    time = annotation.get("updated_at") or annotation.get("created_at") or ""
    return str(time), number if isinstance(number, int) else 0


def _annotator(annotation: Json) -> str:
    by = annotation.get("completed_by")
    return str(by.get("id", by) if isinstance(by, dict) else by)


def _ticked(annotation: Json, tag: ImageChoices) -> list[Any]:
    """The selected choices of this tag as the annotation spells them; it may also have results of other tags."""
    return next((ticked for name, ticked in choices_regions(annotation) if name == tag.from_name), [])


def _used_instead(annotation: Json, tag: ImageChoices) -> frozenset[str]:
    """The names of the tags that the annotation has choices of instead of this one.

    If several choices are allowed, an annotation that has only choices of the labeling config's other tags has none of
    this one. So only tags that the labeling config doesn't have count, and only without a result of this tag.
    """
    regions = list(choices_regions(annotation))
    used = frozenset(name for name, choices in regions if choices)
    if not tag.multiple:
        return used
    return frozenset() if any(name == tag.from_name for name, _ in regions) else used - tag.other_tags


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _majority(votes: list[str]) -> Label:
    (first, count), *others = Counter(votes).most_common(2)
    if others and others[0][1] == count:
        return Label("tie")
    return Label("used", frozenset([first]))


def _majority_of_each(votes: list[list[str]]) -> Label:
    counts = Counter(name for names in votes for name in set(names))
    if any(2 * count == len(votes) for count in counts.values()):
        return Label("tie")
    return Label("used", frozenset(name for name, count in counts.items() if 2 * count > len(votes)))
