"""What is known of each page of annotated tasks, so that a correction doesn't have to read pages without changes.

A page never changes: its content is its key. So a summary is never out of date, and a lost file costs only time.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from label_studio_format.annotations import annotations_of, source_of
from label_studio_format.labeling_config import ImageChoices
from label_studio_format.labeling_history import HistoryOfTasks, Made
from my_backend import files
from my_backend.projects.deleted import unless_deleted
from my_backend.projects.packed_tasks import digest_of, unpacked

SUMMARIES_FILE = "annotated-pages.json"
_MODULUS = 1 << 256

Json = dict[str, Any]


@dataclass(frozen=True)
class PageSummary:
    """The number of tasks of a page, their ids and those of their annotations, and a digest of the annotations.

    `unseen` has the ids of the tasks whose annotations are all predictions that nobody has looked at (None in older
    files). `made` says how the annotations were made, by the name of the tag that is learned.
    """

    count: int
    tasks: list[int]
    annotations: list[int]
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    unseen: list[int] | None = None
    made: dict[str, Made] = field(default_factory=dict)


_SUMMARIES = TypeAdapter(dict[str, PageSummary])


class PageSummaries:
    """The summaries of a project's pages, in its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / SUMMARIES_FILE
        self._kept: dict[str, PageSummary] | None = None  # as the file has them
        self._new: dict[str, PageSummary] = {}

    def of(self, page: str, tag: ImageChoices | None = None) -> PageSummary:
        """The summary of a page; for a tag, also how its annotations were made. Raises ValueError for a damaged page.

        Raises KeyError, TypeError or AttributeError if it isn't in Label Studio's format.
        """
        if self._kept is None:
            kept = files.read_record(self._path, _SUMMARIES) or {}
            self._kept = {key: one for key, one in kept.items() if one.unseen is not None}
        key = digest_of(page)
        known = self._new.get(key) or self._kept.get(key)
        if known and (tag is None or tag.from_name in known.made):
            return known
        tasks = unpacked(page)
        found = known or _summary(tasks)
        if tag:
            found = replace(found, made={**found.made, tag.from_name: HistoryOfTasks(tag).made_in(tasks)})
        self._new[key] = found
        return found

    def tasks(self) -> Iterator[int]:
        """The tasks with annotations, as they were at the last training run."""
        kept = files.read_record(self._path, _SUMMARIES) or {}
        return chain.from_iterable(one.tasks for one in kept.values())

    def keep(self, pages: Iterable[str]) -> None:
        """Keeps the summaries of these pages only; raises NotFound if the project was deleted."""
        if not self._new:
            return
        known = {**(self._kept or {}), **self._new}
        kept = {key: known[key] for key in map(digest_of, pages) if key in known}
        with suppress(OSError), unless_deleted(self._folder):  # if the disk is full, they are made again
            # Not with `write_json`, which would take ten times as long for so many numbers.
            files.write(self._path, _SUMMARIES.dump_json(kept), sync="data")
        self._kept, self._new = kept, {}


def digest_of_annotations(summaries: Iterable[PageSummary]) -> str:
    """A digest of all annotations, whatever their order and their pages."""
    return f"{sum(int(summary.digest, 16) for summary in summaries) % _MODULUS:064x}"


def _summary(tasks: list[Json]) -> PageSummary:
    annotations = [(task, annotation) for task in tasks for annotation in task.get("annotations") or []]
    facts = (
        [task.get("id"), annotation.get("id"), annotation.get("updated_at"), annotation.get("result")]
        for task, annotation in annotations
    )
    # A sum of digests, unlike a digest of sorted ones, follows from the sums of pages.
    digests = (int.from_bytes(sha256(json.dumps(one).encode()).digest(), "big") for one in facts)
    return PageSummary(
        len(tasks),
        _numbers(task.get("id") for task in tasks),
        _numbers(annotation.get("id") for task in tasks for annotation in annotations_of(task)),
        f"{sum(digests) % _MODULUS:064x}",
        _numbers(task.get("id") for task in tasks if _is_unseen(task)),
    )


def _is_unseen(task: Json) -> bool:
    submitted = [annotation for annotation in annotations_of(task) if not annotation.get("was_cancelled")]
    return bool(submitted) and all(source_of(annotation) == "unseen" for annotation in submitted)


def _numbers(ids: Iterable[Any]) -> list[int]:
    return [one for one in ids if type(one) is int]
