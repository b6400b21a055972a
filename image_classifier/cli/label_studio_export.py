"""Reads Label Studio's JSON export: tasks with choices for an image."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from image_classifier.data.dataset import Sample, classes_of
from image_classifier.data.folders import NAME_NOT_UTF8, Finding, is_utf8, read_files, shown
from image_classifier.data.image_file import ImageFile
from image_classifier.data.text_files import read_text
from image_classifier.errors import UsersError
from image_classifier.files import real
from image_classifier.progress import Progress, ignore
from label_studio_format.annotations import Label, Outcome, annotations_of, label_of
from label_studio_format.export_file import NoExport, stored_name, tasks_of, used_tags
from label_studio_format.labeling_config import RESULT_TYPES, ImageChoices, Json

SHOWN = 200  # characters of a URL in a message
_WITHOUT_LABEL: dict[Outcome, str] = {
    "not annotated": "not annotated",
    "skipped": "skipped",
    "rejected": "rejected by a reviewer",
    "tie": "its annotators disagree, and no choice has a majority",
}


def read_export(file: Path, images: Path, choices: str, progress: Progress = ignore) -> tuple[list[Sample], list[str]]:
    """The samples, and why the other tasks are left out. `choices` names the tag, if there are several.

    A task's label is the one that the backend learns (`label_of`). If the tag allows several choices, labels are sets
    of them. Raises UsersError if the file isn't such an export.
    """
    text = read_text(file)
    _refuse_other_kinds(file, text)
    try:
        tag = _choose_tag(file, used_tags(tasks_of(text)), choices)
        tasks = [_summary(task, number, tag, images) for number, task in enumerate(tasks_of(text), start=1)]
    except NoExport as error:
        raise UsersError(f"{shown(file)} {error}") from None
    labeled: list[tuple[_Summary, Path]] = []
    left_out: list[str] = []
    for task in tasks:
        if task.without_label:
            left_out.append(f"{task.name}: {task.without_label}")
        elif not all(map(is_utf8, task.label.choices)):
            left_out.append(f"{task.name}: its choice {shown(min(task.label.choices))} isn't valid Unicode: rename it")
        elif not isinstance(task.image, Path):
            left_out.append(f"{task.name}: {task.image.problem}")
        else:
            labeled.append((task, task.image))
    samples = []
    for (task, path), found in zip(labeled, read_files([path for _, path in labeled], progress), strict=True):
        if isinstance(found, Finding):
            left_out.append(f"{task.name}: {found}")
        else:
            samples.append(_sample(found, path, task.label, multiple=tag.multiple))
    samples = _without_contradictions(samples, left_out)
    if not samples:
        why = f" (for example, {left_out[0]})" if left_out else ""
        raise UsersError(f"{shown(file)} has no image with a choice{why}")
    return samples, left_out


def _sample(file: ImageFile, path: Path, label: Label, *, multiple: bool) -> Sample:
    return Sample(
        file,
        label.choices if multiple else min(label.choices),
        str(path.absolute()),
        source=label.source,
        ground_truth=label.ground_truth,
    )


class _Left:
    """The reason why a task is left out."""

    def __init__(self, problem: str) -> None:
        self.problem = problem


@dataclass(frozen=True)
class _Summary:
    """The parts of a task that are needed, so that an export's regions and images don't stay in memory."""

    name: str
    image: Path | _Left
    label: Label
    without_label: str  # the reason, if it has none


def _summary(task: Json, number: int, tag: ImageChoices, images: Path) -> _Summary:
    label = label_of(task, tag)
    without = "" if label.outcome == "used" else _WITHOUT_LABEL.get(label.outcome) or _without_choice(task, label, tag)
    return _Summary(f"task {task.get('id', number)}", _image(task, images), label, without)


def _without_choice(task: Json, label: Label, tag: ImageChoices) -> str:
    """What it is annotated with instead."""
    if label.other_tags:
        others = ", ".join(map(shown, sorted(label.other_tags)))
        return f"annotated with {others}, not with the tag {shown(tag.from_name)}: set CHOICES to the tag to train on"
    results = [one for annotation in annotations_of(task) for one in _list(annotation.get("result"))]
    kinds = {str(one["type"]).capitalize() for one in results if isinstance(one, dict) and one.get("type")}
    others = ", ".join(sorted(kinds - RESULT_TYPES.keys()))
    return (
        f"annotated with {others}, but only Choices and Taxonomy can be used"
        if others
        else "annotated without a choice"
    )


def _choose_tag(file: Path, tags: Mapping[str, ImageChoices], choices: str) -> ImageChoices:
    """The tag of that name, else the only one; raises UsersError if there are several."""
    if not choices and len(tags) > 1:
        named = ", ".join(map(shown, sorted(tags)))
        raise UsersError(f"{shown(file)} has choices for several tags ({named}): set CHOICES to the one to train on")
    name = choices or next(iter(tags), "")
    return tags.get(name) or ImageChoices(name, to_name="", field="", offered=())


def _refuse_other_kinds(file: Path, text: str) -> None:
    start = text.lstrip()[:1]
    if start in ("[", "{"):
        return
    first = text.lstrip().partition("\n")[0]
    if not start:
        said = "is empty"
    elif "\t" in first or "," in first:
        said = f"is a table ({'TSV' if chr(9) in first else 'CSV'})"
    else:
        said = "isn't JSON"
    raise UsersError(f"{shown(file)} {said}: export the project as JSON, or pass a folder")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _image(task: Json, images: Path) -> Path | _Left:
    """The file of the task's image, looked for below `images`."""
    texts = {name: value for name, value in task["data"].items() if isinstance(value, str)}
    value = texts.get("image") or (next(iter(texts.values())) if len(texts) == 1 else None)
    if value is None:
        return _Left("its data has no `image`")
    if value[:5].lower() == "data:":
        return _Left(f"its image is embedded in the task ({_cut(value)}): save it as a file and refer to the file")
    try:
        stored = stored_name(value)
    except ValueError as error:
        return _Left(f"{_cut(value)} isn't a URL ({error})")
    root = real(images)
    # Label Studio on Windows writes \\ between folders.
    stems = (value, stored, unquote(stored))
    names = dict.fromkeys(name for stem in stems for name in (stem, stem.replace("\\", "/")))
    names[PurePosixPath(list(names)[-1]).name] = None
    for name in names:
        candidate = root / name.lstrip("/")
        try:
            if real(candidate).is_relative_to(root) and candidate.is_file():
                return candidate if is_utf8(name) else _Left(f"{_cut(value)}: {NAME_NOT_UTF8}")
        except ValueError:
            continue  # not a valid file name
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                return _Left(f"{_cut(value)} can't be read ({error.strerror})")
    return _Left(f"{_cut(value)} is not in {shown(images)}: pass the folder of the images with --images")


def _cut(value: str) -> str:
    """The beginning of a value that may be a whole image in base64."""
    return shown(value if len(value) <= SHOWN else f"{value[:SHOWN]}…")


def _without_contradictions(samples: list[Sample], left_out: list[str]) -> list[Sample]:
    """Each image once, without images that have different labels."""
    labels: dict[str, set[frozenset[str]]] = {}
    for sample in samples:
        labels.setdefault(sample.image.digest, set()).add(classes_of(sample.label))
    for sample in samples:
        if len(labels[sample.image.digest]) > 1:
            said = sorted(" + ".join(sorted(names)) for names in labels[sample.image.digest])
            left_out.append(f"{sample.name}: the same image is labeled {' and '.join(said)}")
    unique = {sample.image.digest: sample for sample in samples if len(labels[sample.image.digest]) == 1}
    return list(unique.values())
