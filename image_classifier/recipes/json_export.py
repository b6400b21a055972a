"""Label Studio's JSON export: tasks with choices for an image, as a file that was saved from it."""

import errno
import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from image_classifier.dataset import Sample, classes_of
from image_classifier.recipes.errors import UsersError
from image_classifier.recipes.folders import Finding, read_files, shown

Task = dict[str, Any]

SHOWN = 200  # characters of a URL in a message


def read_export(file: Path, images: Path, choices: str) -> tuple[list[Sample], list[str]]:
    """The samples, and why the other tasks are left out. `choices` names the tag, where there are several.

    A task's last annotation that was not skipped decides. Where any has several choices, labels are sets of them.
    Raises UsersError for what is no such export.
    """
    tasks = _read(file)
    labelled: list[tuple[str, Path, frozenset[str]]] = []
    left_out: list[str] = []
    tag = choices or _only_tag(file, tasks)
    for number, task in enumerate(tasks, start=1):
        name = f"task {task.get('id', number)}"
        chosen = _chosen(task, tag)
        path = _image(task, images)
        if not chosen:
            left_out.append(f"{name}: not annotated")
        elif not isinstance(path, Path):
            left_out.append(f"{name}: {path.problem}")
        else:
            labelled.append((name, path, chosen))
    multiple = any(len(chosen) > 1 for _, _, chosen in labelled)
    samples = []
    for (name, path, chosen), found in zip(labelled, read_files([path for _, path, _ in labelled]), strict=True):
        if isinstance(found, Finding):
            left_out.append(f"{name}: {found}")
        else:
            samples.append(Sample(found, chosen if multiple else min(chosen), str(path.absolute())))
    if not samples:
        why = f"; the first: {left_out[0]}" if left_out else ""
        raise UsersError(f"{shown(file)} has no image with a choice{why}")
    return _without_contradictions(samples, left_out), left_out


class _Left:
    """Why a task is left out."""

    def __init__(self, problem: str) -> None:
        self.problem = problem


def _read(file: Path) -> list[Task]:
    try:
        tasks = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsersError(f"{shown(file)} is no JSON ({error}): give a folder, or a JSON export") from None
    if not isinstance(tasks, list) or not all(
        isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks
    ):
        raise UsersError(f"{shown(file)} is no list of tasks: export the project as JSON, not as JSON-MIN")
    return tasks


def _regions(task: Task) -> list[Task]:
    """The choices of the last annotation that was not skipped."""
    annotations = [a for a in task.get("annotations") or [] if isinstance(a, dict) and not a.get("was_cancelled")]
    last = max(annotations, key=lambda a: str(a.get("updated_at") or ""), default={})
    results = last.get("result") or []
    return [
        r for r in results if isinstance(r, dict) and r.get("type") == "choices" and isinstance(r.get("value"), dict)
    ]


def _only_tag(file: Path, tasks: list[Task]) -> str:
    tags = Counter(str(region.get("from_name")) for task in tasks for region in _regions(task))
    if len(tags) > 1:
        raise UsersError(f"{shown(file)} has choices for {', '.join(sorted(tags))}: set CHOICES to the one to learn")
    return next(iter(tags), "")


def _chosen(task: Task, tag: str) -> frozenset[str]:
    """The names of the task's choices; of a nested one, which is a path, the last part."""
    regions = (region for region in _regions(task) if region.get("from_name") == tag)
    choices = (choice for region in regions for choice in region["value"].get("choices") or [])
    return frozenset(str(choice[-1] if isinstance(choice, list) and choice else choice) for choice in choices)


def _image(task: Task, images: Path) -> Path | _Left:
    """The file of the task's image, looked for below `images`."""
    texts = {name: value for name, value in task["data"].items() if isinstance(value, str)}
    value = texts.get("image") or (next(iter(texts.values())) if len(texts) == 1 else None)
    if value is None:
        return _Left("its data has no `image`")
    if value[:5].lower() == "data:":
        return _Left(f"its image is in the task itself ({_cut(value)}): save it as a file, and name that in the task")
    try:
        url = urlsplit(value)
    except ValueError as error:
        return _Left(f"{_cut(value)} is no URL ({error})")
    stored = parse_qs(url.query).get("d", [unquote(url.path)])[0].lstrip("/")
    root = images.resolve()
    for candidate in (root / value.lstrip("/"), root / stored, root / Path(stored).name):
        try:
            if candidate.resolve().is_relative_to(root) and candidate.is_file():
                return candidate
        except (ValueError, RuntimeError):
            continue  # no file can have such a name; links in a circle
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                return _Left(f"{_cut(value)} cannot be read ({error.strerror})")
    return _Left(f"{_cut(value)} is not in {shown(images)}: say with --images where the images are")


def _cut(value: str) -> str:
    """The beginning of what may be a whole image in base64."""
    return shown(value if len(value) <= SHOWN else f"{value[:SHOWN]}…")


def _without_contradictions(samples: list[Sample], left_out: list[str]) -> list[Sample]:
    """Each image once; none that is labelled in two ways."""
    labels: dict[str, set[frozenset[str]]] = {}
    for sample in samples:
        labels.setdefault(sample.image.digest, set()).add(classes_of(sample.label))
    for sample in samples:
        if len(labels[sample.image.digest]) > 1:
            said = sorted(" + ".join(sorted(names)) for names in labels[sample.image.digest])
            left_out.append(f"{sample.name}: the same image is labelled {' and '.join(said)}")
    unique = {sample.image.digest: sample for sample in samples if len(labels[sample.image.digest]) == 1}
    return list(unique.values())
