"""Annotation events of a project: how many are not learned yet, and the annotated tasks as they leave them.

A training that reads all annotated tasks from Label Studio keeps them here; events then bring them up to date, so that
the next correction needs no reading at all. Who doubts them has them forgotten, and the next training reads again.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from my_backend import files
from my_backend.protocol.events import Change, Json, apply

COUNT_FILE = "unlearned.json"
TASKS_FILE = "annotated.json"
EVENTS_FOLDER = "events"
MAX_EVENTS = 1000  # beyond which reading everything is as quick
MAX_EVENT_BYTES = 20_000_000  # likewise; a training has all of them in memory


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
        changed, learned = files.read_json(self._count) or (0, 0)
        return changed, learned

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
            kept = files.read_json(self._tasks)
            if kept is None or kept["count"] > count:
                return  # doubted meanwhile, or another job has begun to read later: its events are all that is kept
            files.write_json(self._tasks, {"count": count, "tasks": tasks}, durable=False)
            for number, path in self._event_files():
                if number <= count:
                    path.unlink(missing_ok=True)

    def tasks(self) -> list[Json] | None:
        """The annotated tasks as the events leave them; None where Label Studio has to be asked."""
        with self._changing():
            kept = files.read_json(self._tasks)
            if kept is None or kept["tasks"] is None:
                return None
            records = [files.read_json(path) for number, path in self._event_files() if number > kept["count"]]
        if None in records:
            return None
        return apply(kept["tasks"], [Change(**change) for record in records for change in record])

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
        return sorted((int(path.stem), path) for path in self._events.glob("[0-9]*.json"))
