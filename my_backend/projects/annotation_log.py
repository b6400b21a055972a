"""Annotation events of a project: how many no training has learned yet, and the resulting annotated tasks.

A training that reads all annotated tasks from Label Studio keeps them here. Events then update them, so the next
correction doesn't have to read them again. If they may be wrong, they are dropped, and the next
training reads everything.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from label_studio_format.events import Change, Json, apply, concerned_by
from my_backend import files
from my_backend.files import Damaged
from my_backend.projects.deleted import unless_deleted
from my_backend.projects.packed_tasks import PackedTasks, unpacked

COUNT_FILE = "unlearned.json"
TASKS_FILE = "annotated.json"
EVENTS_FOLDER = "events"
MAX_EVENTS = 1000  # with more, reading everything is just as fast
MAX_EVENT_BYTES = 20_000_000  # likewise; a training holds all of them in memory


@dataclass(frozen=True)
class _Kept:
    """The annotated tasks, as pages of `PackedTasks`, and the number of events before they were read.

    There are no pages while they are being read, and in files of older releases.
    """

    count: int
    pages: list[str] | None = None


_COUNTS = TypeAdapter(tuple[int, int])
_KEPT = TypeAdapter(_Kept)
_EVENT = TypeAdapter(list[Change])


class Changes:
    """The annotation log of one project, in its folder; safe for any number of processes and threads.

    What changes it raises NotFound if the project was deleted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = folder / COUNT_FILE
        self._tasks = folder / TASKS_FILE
        self._events = folder / EVENTS_FOLDER

    # --- counting -----------------------------------------------------------

    def unlearned(self) -> int:
        """Returns how many annotations were created, changed or deleted since the last training."""
        changed, learned = self._counts()
        return changed - learned

    def count(self) -> int:
        """Returns how many annotations were ever created, changed or deleted."""
        return self._counts()[0]

    def add(self, changes: Sequence[Change]) -> int:
        """Adds changes and returns how many are now unlearned."""
        with self._changing() as (changed, learned):
            if self._tasks.exists():
                # Before counting them, so that the events exist for anyone who reads the count.
                self._keep_events(changes, changed + len(changes))
            self._keep_counts(changed + len(changes), learned)
        return changed + len(changes) - learned

    def learned(self, count: int) -> None:
        """Notes that a job has learned the first `count` changes; another job may have learned more."""
        with self._changing() as (now, learned):
            self._keep_counts(now, max(learned, min(count, now)))

    def _counts(self) -> tuple[int, int]:
        counts = files.examine(self._count, files.json_of(_COUNTS))
        if counts is not None and not isinstance(counts, Damaged):
            return counts
        # The kept files give a lower bound. Whether all of those were learned is unknown, so one more is counted, which
        # starts another training.
        known = self._highest_number_kept()
        if counts is None and known == 0:
            return 0, 0  # no event has come yet
        if counts is None:
            files.note_missing(self._count)
        return known + 1, known

    def _highest_number_kept(self) -> int:
        kept = files.read_record(self._tasks, _KEPT)
        return max([kept.count if kept else 0, *(number for number, _ in self._event_files())])

    def _keep_counts(self, changed: int, learned: int) -> None:
        files.write_json(self._count, (changed, learned), sync="data")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[tuple[int, int]]:
        with unless_deleted(self._folder), files.locked(self._folder / ".unlearned"):
            yield self._counts()

    # --- annotated tasks ----------------------------------------------------

    def begin_reading(self) -> int:
        """Starts to keep events; returns the number of changes so far, for `keep_tasks`."""
        with self._changing() as (changed, _):
            files.write_json(self._tasks, asdict(_Kept(changed)), sync="data")
        return changed

    def keep_tasks(self, tasks: PackedTasks, count: int) -> None:
        """Keeps the annotated tasks that were read after `begin_reading` returned this count."""
        with self._changing():
            kept = files.read_record(self._tasks, _KEPT)
            if kept is None or kept.count > count:
                return  # dropped meanwhile, or another job started to read later, and only events since then are kept
            files.write_json(self._tasks, {"count": count, "pages": tasks.pages}, sync="data")
            for number, path in self._event_files():
                if number <= count:
                    path.unlink(missing_ok=True)

    def tasks(self) -> PackedTasks | None:
        """Returns the annotated tasks with all events applied; None if they must be read from Label Studio."""
        with self._changing():
            kept = files.read_record(self._tasks, _KEPT)
            if kept is None or kept.pages is None:
                return None
            events = [files.read_record(path, _EVENT) for number, path in self._event_files() if number > kept.count]
        changes: list[Change] = []
        for event in events:
            if event is None:
                return None
            changes += event
        try:
            return _updated(kept.pages, changes)
        except (KeyError, TypeError, AttributeError, ValueError):  # damaged, or not in Label Studio's format
            return None

    def doubt(self) -> None:
        """Handles an event that couldn't be kept: requests a training, which reads everything again."""
        with self._changing() as (changed, learned):
            self._forget()
            self._keep_counts(changed + 1, learned)

    def forget_tasks(self) -> None:
        """Makes the next training read everything from Label Studio."""
        with self._changing():
            self._forget()

    def _forget(self) -> None:
        self._tasks.unlink(missing_ok=True)
        for _, path in self._event_files():
            path.unlink(missing_ok=True)

    def _keep_events(self, changes: Sequence[Change], number: int) -> None:
        path = self._events / f"{number:012}.json"
        files.write_json(path, [asdict(change) for change in changes], sync="data", make_folder=True)
        kept = self._event_files()
        if len(kept) > MAX_EVENTS or sum(path.stat().st_size for _, path in kept) > MAX_EVENT_BYTES:
            self._forget()

    def _event_files(self) -> list[tuple[int, Path]]:
        return sorted((int(path.stem), path) for path in self._events.glob("*.json") if path.stem.isdecimal())


def _updated(pages: Sequence[str], changes: Sequence[Change]) -> PackedTasks | None:
    """The tasks of these pages after the changes, changed ones at the end; None if the changes lack data."""
    is_concerned = concerned_by(changes)
    updated, concerned = PackedTasks(), list[Json]()
    for page in pages:
        tasks = unpacked(page)
        some = [task for task in tasks if is_concerned(task)]
        if some:
            concerned += some
            updated.extend(task for task in tasks if not is_concerned(task))
        else:
            updated.add_page(page, len(tasks))
    changed = apply(concerned, changes)
    if changed is None:
        return None
    updated.extend(changed)
    return updated
