"""Label Studio's exports as files: their tasks, the Choices tags that were used, the files that images' URLs mean."""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from label_studio_format.annotations import annotations_of, choices_regions
from label_studio_format.labeling_config import DEEPEST, Choice, ImageChoices, Json

_BLANKS = re.compile(r"[ \t\r\n]*")


class NoExport(ValueError):
    """Why a text isn't an export, as a predicate: "isn't valid JSON: …"."""


def tasks_of(text: str) -> Iterator[Json]:
    """The tasks of a list, of an answer of the API, of JSON lines, or the only one; decoded one at a time.

    Raises NoExport.
    """
    try:
        for record in _objects(text):
            inside = record.get("tasks") if isinstance(record, dict) else None
            for task in inside if isinstance(inside, list) else [record]:
                if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
                    raise NoExport(f"has no tasks: {_other_json(task)}")
                yield task
    except json.JSONDecodeError as error:
        raise NoExport(f"isn't valid JSON: {_explain(error)}") from None
    except RecursionError:
        raise NoExport("is nested too deeply to be an export: export the project as JSON") from None
    except ValueError as error:
        raise error if isinstance(error, NoExport) else NoExport(f"isn't valid JSON: {error}") from None


def used_tags(tasks: Iterable[Json]) -> dict[str, ImageChoices]:
    """The Choices tags that annotations have results of, by name, as far as these tell: an export has no config.

    A tag offers whatever was ticked. It allows several choices if anyone has ticked several.
    """
    offered: dict[str, dict[Choice, None]] = {}
    multiple: set[str] = set()
    for task in tasks:
        for annotation in annotations_of(task):
            for name, ticked in choices_regions(annotation):
                paths = [path for one in ticked if (path := _path(one))]
                # Of nested choices, those above a ticked one are choices too, and may be ticked along with it.
                above = [Choice(path[:depth]) for path in paths for depth in range(1, len(path) + 1)]
                offered.setdefault(name, {}).update(dict.fromkeys(above))
                deepest = max(paths, key=len, default=())
                if any(path != deepest[: len(path)] for path in paths):
                    multiple.add(name)
    return {
        name: ImageChoices(
            name,
            to_name="",
            field="",
            offered=tuple(choices),
            multiple=name in multiple,
            other_tags=frozenset(offered) - {name},
        )
        for name, choices in offered.items()
    }


def stored_name(url: str) -> str:
    """The name in its storage that a URL of Label Studio's leads to; raises ValueError for what is no URL."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if "fileuri" in query:  # /tasks/1/resolve/?fileuri=…, as the API has it: the storage's own URL in base64
        text = query["fileuri"][0].replace(" ", "+")  # which is a blank in a query
        padded = text + "=" * (-len(text) % 4)
        return base64.urlsafe_b64decode(padded).decode().partition("://")[2].partition("/")[2]
    if parts.path.rstrip("/").endswith("/local-files") and "d" in query:
        return query["d"][0]
    return unquote(parts.path)


def _path(called: Any) -> tuple[str, ...]:
    """The names down to a choice, as an annotation has them; empty for what no labeling config can offer."""
    path = tuple(map(str, called if isinstance(called, list) else [called]))
    return path if len(path) <= DEEPEST and all(path) else ()


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
                raise json.JSONDecodeError("extra comma after the last task", text, comma)
        elif not text.startswith("]", at):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    if (end := _after_blanks(text, at + 1)) < len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def _after_blanks(text: str, at: int) -> int:
    return _BLANKS.match(text, at).end()  # type: ignore[union-attr]  # matches none, too


def _explain(error: json.JSONDecodeError) -> str:
    where = f"{error.msg} at line {error.lineno}, column {error.colno}"
    ended = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
    return f"{where}, the end of the file; it is truncated, so export it again" if ended else f"{where}; fix it there"


def _other_json(record: Any) -> str:
    """Says why a record isn't a task, and how to get tasks."""
    if isinstance(record, dict) and {"images", "annotations", "categories"} <= record.keys():
        return "COCO has boxes but no choices; export the project as JSON"
    return "tasks have their image in `data`; export the project as JSON, not as JSON-MIN"
