"""Annotation events of a project: how many are not learned yet, and the annotated tasks as they leave them.

A training that reads all annotated tasks from Label Studio keeps them here; events then bring them up to date, so that
the next correction needs no reading at all. Who doubts them has them forgotten, and the next training reads again.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from label_studio_format.events import Change, Json, apply
from my_backend import files
from my_backend.files import Damaged

COUNT_FILE = "unlearned.json"
TASKS_FILE = "annotated.json"
EVENTS_FOLDER = "events"
MAX_EVENTS = 1000  # beyond which reading everything is as quick
MAX_EVENT_BYTES = 20_000_000  # likewise; a training has all of them in memory


@dataclass(frozen=True)
class _Kept:
    """The annotated tasks as they were read, None while they are, and how many events had come before."""

    count: int
    tasks: list[Json] | None


_COUNTS = TypeAdapter(tuple[int, int])
_KEPT = TypeAdapter(_Kept)
_EVENT = TypeAdapter(list[Change])


class Changes:
    """One project's, in its folder; any number of processes and threads may use it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = folder / COUNT_FILE
        self._tasks = folder / TASKS_FILE
        self._events = folder / EVENTS_FOLDER

    # --- counting -----------------------------------------------------------

    def unlearned(self) -> int:
        """How many annotations were made, changed or deleted since the project was last learned."""
        changed, learned = self._counts()
        return changed - learned

    def count(self) -> int:
        """How many annotations were ever made, changed or deleted."""
        return self._counts()[0]

    def add(self, changes: Sequence[Change]) -> int:
        """Returns how many are not learned now."""
        with self._changing() as (changed, learned):
            if self._tasks.exists():
                # Before they are counted: whoever sees the number finds the events.
                self._keep_events(changes, changed + len(changes))
            self._keep_counts(changed + len(changes), learned)
        return changed + len(changes) - learned

    def learned(self, count: int) -> None:
        """A job has learned what had changed when `count` said so; another one may have learned more."""
        with self._changing() as (now, learned):
            self._keep_counts(now, max(learned, min(count, now)))

    def _counts(self) -> tuple[int, int]:
        counts = files.examine(self._count, files.json_of(_COUNTS))
        if counts is not None and not isinstance(counts, Damaged):
            return counts
        # What is kept says how many there were at least. Whether all of them were learned is not known: one more has
        # the project learned again.
        known = self._highest_number_kept()
        if counts is None and known == 0:
            return 0, 0  # nothing has come yet
        if counts is None:
            files.note_missing(self._count)
        return known + 1, known

    def _highest_number_kept(self) -> int:
        kept = files.read_record(self._tasks, _KEPT)
        return max([kept.count if kept else 0, *(number for number, _ in self._event_files())])

    def _keep_counts(self, changed: int, learned: int) -> None:
        files.write_json(self._count, (changed, learned), durable=False)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[tuple[int, int]]:
        with files.locked(self._folder / ".unlearned"):
            yield self._counts()

    # --- annotated tasks ----------------------------------------------------

    def begin_reading(self) -> int:
        """From here on events are kept; returns their number so far, for `keep_tasks`."""
        with self._changing() as (changed, _):
            files.write_json(self._tasks, {"count": changed, "tasks": None}, durable=False)
        return changed

    def keep_tasks(self, tasks: Sequence[Json], count: int) -> None:
        """Keeps the annotated tasks that were read after `begin_reading` gave this count."""
        with self._changing():
            kept = files.read_record(self._tasks, _KEPT)
            if kept is None or kept.count > count:
                return  # doubted meanwhile, or another job has begun to read later: its events are all that is kept
            files.write_json(self._tasks, {"count": count, "tasks": tasks}, durable=False)
            for number, path in self._event_files():
                if number <= count:
                    path.unlink(missing_ok=True)

    def tasks(self) -> list[Json] | None:
        """The annotated tasks as the events leave them; None where Label Studio has to be asked."""
        with self._changing():
            kept = files.read_record(self._tasks, _KEPT)
            if kept is None or kept.tasks is None:
                return None
            events = [files.read_record(path, _EVENT) for number, path in self._event_files() if number > kept.count]
        changes: list[Change] = []
        for event in events:
            if event is None:
                return None
            changes += event
        try:
            return apply(kept.tasks, changes)
        except (KeyError, TypeError, AttributeError):  # the tasks are not as Label Studio writes them
            return None

    def doubt(self) -> None:
        """An event came that could not be kept: the next training reads everything, and there is one to come."""
        with self._changing() as (changed, learned):
            self._forget()
            self._keep_counts(changed + 1, learned)

    def forget_tasks(self) -> None:
        """Has the next training read everything from Label Studio."""
        with self._changing():
            self._forget()

    def _forget(self) -> None:
        self._tasks.unlink(missing_ok=True)
        for _, path in self._event_files():
            path.unlink(missing_ok=True)

    def _keep_events(self, changes: Sequence[Change], number: int) -> None:
        path = self._events / f"{number:012}.json"
        files.write_json(path, [asdict(change) for change in changes], durable=False)
        kept = self._event_files()
        if len(kept) > MAX_EVENTS or sum(path.stat().st_size for _, path in kept) > MAX_EVENT_BYTES:
            self._forget()

    def _event_files(self) -> list[tuple[int, Path]]:
        return sorted((int(path.stem), path) for path in self._events.glob("*.json") if path.stem.isdecimal())
