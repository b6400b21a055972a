"""Label Studio's JSON export: tasks with choices for an image, as a file that was saved from it."""

import base64
import errno
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from image_classifier.data.dataset import Sample, classes_of
from image_classifier.data.folders import Finding, is_utf8, read_files, shown
from image_classifier.data.text_files import read_text
from image_classifier.errors import UsersError

Task = dict[str, Any]

SHOWN = 200  # characters of a URL in a message
_BLANKS = re.compile(r"[ \t\r\n]*")


def read_export(file: Path, images: Path, choices: str) -> tuple[list[Sample], list[str]]:
    """The samples, and why the other tasks are left out. `choices` names the tag, where there are several.

    A task's last annotation that was neither skipped nor rejected decides. Where any has several choices, labels are
    sets of them. Raises UsersError for what is no such export.
    """
    tasks = [_summary(task, number, images) for number, task in enumerate(_tasks(file), start=1)]
    tag = choices or _only_tag(file, tasks)
    labelled: list[tuple[str, Path, frozenset[str]]] = []
    left_out: list[str] = []
    for task in tasks:
        chosen = task.choices.get(tag)
        if not chosen:
            left_out.append(f"{task.name}: {task.without_choice}")
        elif not all(map(is_utf8, chosen)):
            left_out.append(f"{task.name}: its choice {shown(min(chosen))} is no valid Unicode: rename it")
        elif not isinstance(task.image, Path):
            left_out.append(f"{task.name}: {task.image.problem}")
        else:
            labelled.append((task.name, task.image, chosen))
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


@dataclass(frozen=True)
class _Summary:
    """What is needed of a task, so that no whole export of regions and images is kept in memory."""

    name: str
    image: Path | _Left
    choices: dict[str, frozenset[str]]  # of each Choices tag
    without_choice: str  # the reason, if it has none


def _summary(task: Task, number: int, images: Path) -> _Summary:
    regions = _regions(task)
    choices: dict[str, frozenset[str]] = {}
    for region in regions:
        if region.get("type") == "choices":
            tag = str(region.get("from_name"))
            choices[tag] = choices.get(tag, frozenset()) | _chosen(region)
    others = sorted({str(region["type"]).capitalize() for region in regions if region.get("type")} - {"Choices"})
    without = f"annotated with {', '.join(others)}, and only Choices are learned" if others else "not annotated"
    return _Summary(f"task {task.get('id', number)}", _image(task, images), choices, without)


def _tasks(file: Path) -> Iterator[Task]:
    """The tasks of a list, of an answer of the API, of JSON lines, or the only one; raises UsersError."""
    text = read_text(file)
    _refuse_other_kinds(file, text)
    try:
        for record in _objects(text):
            inside = record.get("tasks") if isinstance(record, dict) else None
            for task in inside if isinstance(inside, list) else [record]:
                if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
                    raise UsersError(f"{shown(file)} has no tasks: {_other_json(task)}")
                yield task
    except json.JSONDecodeError as error:
        raise UsersError(f"{shown(file)} is no JSON: {_explain(error)}") from None
    except RecursionError:
        raise UsersError(f"{shown(file)} is nested too deep to be an export: export the project as JSON") from None
    except ValueError as error:
        raise error if isinstance(error, UsersError) else UsersError(f"{shown(file)} is no JSON: {error}") from None


def _objects(text: str) -> Iterator[Any]:
    """The elements of a list, or the values that follow each other, one decoded at a time."""
    decoder = json.JSONDecoder()
    at = _after_blanks(text, 0)
    if not text.startswith("[", at):
        while at < len(text):
            record, at = decoder.raw_decode(text, at)
            yield record
            at = _after_blanks(text, at)
        return
    at = _after_blanks(text, at + 1)
    while not text.startswith("]", at):
        record, at = decoder.raw_decode(text, at)
        yield record
        at = _after_blanks(text, at)
        if text.startswith(",", at):
            comma, at = at, _after_blanks(text, at + 1)
            if text.startswith("]", at):
                raise json.JSONDecodeError("there is a comma after the last task", text, comma)
        elif not text.startswith("]", at):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    if (end := _after_blanks(text, at + 1)) < len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def _after_blanks(text: str, at: int) -> int:
    return _BLANKS.match(text, at).end()  # type: ignore[union-attr]  # matches none, too


def _explain(error: json.JSONDecodeError) -> str:
    where = f"{error.msg} at line {error.lineno}, column {error.colno}"
    ended = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
    return f"{where}, where the file ends: it was cut short, export it again" if ended else f"{where}: correct it there"


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
        said = "is no JSON"
    raise UsersError(f"{shown(file)} {said}: export the project as JSON, or give a folder")


def _other_json(record: Any) -> str:
    """What a record is that is no task, with the remedy."""
    if isinstance(record, dict) and {"images", "annotations", "categories"} <= record.keys():
        return "COCO has boxes and no choices; export the project as JSON"
    return "a task has its image in `data`; export the project as JSON, not as JSON-MIN"


def _regions(task: Task) -> list[Task]:
    """What the last annotation that counts says. Label Studio before 1.0 called annotations completions."""
    given = _list(task.get("annotations")) or _list(task.get("completions"))
    annotations = [a for a in given if isinstance(a, dict) and not _is_dismissed(a)]
    if not annotations:
        return []
    # Of those that have no time, or the same, the one further down is later.
    last = max(enumerate(annotations), key=lambda pair: (_time(pair[1]), pair[0]))[1]
    return [r for r in _list(last.get("result")) if isinstance(r, dict) and isinstance(r.get("value"), dict)]


def _is_dismissed(annotation: Task) -> bool:
    """Whether its author skipped the task, or a reviewer rejected what it says."""
    if annotation.get("was_cancelled") or annotation.get("skipped"):
        return True
    if annotation.get("last_action"):
        return bool(annotation["last_action"] == "rejected")
    reviews = [review for review in _list(annotation.get("reviews")) if isinstance(review, dict)]
    return bool(reviews) and reviews[-1].get("accepted") is False


def _time(annotation: Task) -> str:
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _only_tag(file: Path, tasks: Sequence[_Summary]) -> str:
    tags = {tag for task in tasks for tag in task.choices}
    if len(tags) > 1:
        named = ", ".join(map(shown, sorted(tags)))
        raise UsersError(f"{shown(file)} has choices for {named}: set CHOICES to the one to learn")
    return next(iter(tags), "")


def _chosen(region: Task) -> frozenset[str]:
    """The names of the choices; of a nested one, which is a path, the last part."""
    choices = region["value"].get("choices")
    found = choices if isinstance(choices, list) else [choices] if isinstance(choices, str) else []
    return frozenset(str(choice[-1] if isinstance(choice, list) and choice else choice) for choice in found)


def _image(task: Task, images: Path) -> Path | _Left:
    """The file of the task's image, looked for below `images`."""
    texts = {name: value for name, value in task["data"].items() if isinstance(value, str)}
    value = texts.get("image") or (next(iter(texts.values())) if len(texts) == 1 else None)
    if value is None:
        return _Left("its data has no `image`")
    if value[:5].lower() == "data:":
        return _Left(f"its image is in the task itself ({_cut(value)}): save it as a file, and name that in the task")
    try:
        stored = _stored_name(value)
    except ValueError as error:
        return _Left(f"{_cut(value)} is no URL ({error})")
    root = images.resolve()
    # Label Studio on Windows writes \\ between folders.
    stems = (value, stored, unquote(stored))
    names = dict.fromkeys(name for stem in stems for name in (stem, stem.replace("\\", "/")))
    names[PurePosixPath(list(names)[-1]).name] = None
    for name in names:
        candidate = root / name.lstrip("/")
        try:
            if candidate.resolve().is_relative_to(root) and candidate.is_file():
                return candidate
        except (ValueError, RuntimeError):
            continue  # no file can have such a name; links in a circle
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                return _Left(f"{_cut(value)} cannot be read ({error.strerror})")
    return _Left(f"{_cut(value)} is not in {shown(images)}: say with --images where the images are")


def _stored_name(value: str) -> str:
    """The name in the storage that a URL of Label Studio's leads to; raises ValueError for what is no URL."""
    url = urlsplit(value)
    query = parse_qs(url.query)
    if "fileuri" in query:  # /tasks/1/resolve/?fileuri=…, as the API has it: the storage's own URL in base64
        text = query["fileuri"][0].replace(" ", "+")  # which is a blank in a query
        padded = text + "=" * (-len(text) % 4)
        return base64.urlsafe_b64decode(padded).decode().partition("://")[2].partition("/")[2]
    if url.path.rstrip("/").endswith("/local-files") and "d" in query:
        return query["d"][0]
    return unquote(url.path)


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
