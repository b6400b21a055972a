"""Annotation events of a project: how many no training run has learned yet, and the resulting annotated tasks.

A training run that reads all annotated tasks from Label Studio keeps them here. Events then update them, so the next
correction doesn't have to read them again; each event is applied once. If the tasks may be wrong, they are dropped, and
the next training run reads everything.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from label_studio_format.events import Change, apply, concerned_by
from my_backend import files
from my_backend.files import Damaged
from my_backend.projects import packed_tasks
from my_backend.projects.deleted import unless_deleted
from my_backend.projects.packed_tasks import PackedTasks, unpacked
from my_backend.projects.page_summaries import PageSummaries

COUNT_FILE = "unlearned.json"
TASKS_FILE = "annotated.json"
EVENTS_FOLDER = "events"
MAX_EVENTS = 1000  # with more, reading everything is just as fast
MAX_EVENT_BYTES = 20_000_000  # likewise; a training run holds all of them in memory


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


class AnnotationLog:
    """The annotation log of one project, in its folder; safe for any number of processes and threads.

    What changes it raises NotFound if the project was deleted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = folder / COUNT_FILE
        self._tasks = folder / TASKS_FILE
        self._events = folder / EVENTS_FOLDER
        self.summaries = PageSummaries(folder)

    # --- counting -----------------------------------------------------------

    def unlearned(self) -> int:
        """How many annotations were created, changed or deleted since the last training run."""
        changed, learned = self._counts()
        return changed - learned

    def count(self) -> int:
        """How many annotations were ever created, changed or deleted."""
        return self._counts()[0]

    def add(self, changes: Sequence[Change]) -> int:
        """Adds changes and returns how many are now unlearned."""
        with self._changing() as (changed, learned):
            if any(number > changed for number, _ in self._event_files()):
                self._forget()  # a process was killed before it counted its event, which Label Studio doesn't resend
            elif self._tasks.exists():
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
        # starts another training run.
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
        with self._changing() as (changed, learned):
            self._keep_counts(changed, learned)  # if its file is damaged, each reading would give another number
            files.write_json(self._tasks, asdict(_Kept(changed)), sync="data")
            self._remove_events()
        return changed

    def keep_tasks(self, tasks: PackedTasks, count: int) -> None:
        """Keeps the annotated tasks that were read after `begin_reading` returned this count."""
        with self._changing():
            kept = files.read_record(self._tasks, _KEPT)
            if kept is None or kept.count > count:
                return  # dropped meanwhile, or another job started to read later, and only events since then are kept
            self._keep(tasks, count)

    def tasks(self) -> PackedTasks | None:
        """The annotated tasks with all events applied; None if they must be read from Label Studio.

        The tasks replace the events on the disk, so that the next call applies only later ones.
        """
        with self._changing() as (changed, _):
            written = _state(self._tasks)
            kept = files.read_record(self._tasks, _KEPT)
            if kept is None or kept.pages is None:
                return None
            found = [(number, path) for number, path in self._event_files() if number > kept.count]
            events = [files.read_record(path, _EVENT) for _, path in found]
        changes: list[Change] = []
        for event in events:
            if event is None:
                return None
            changes += event
        # A server was killed before it counted an event, or files are missing or from different times.
        if kept.count + len(changes) != changed:
            return None
        try:
            updated = _updated(kept.pages, changes, self.summaries)
        except (KeyError, TypeError, AttributeError, ValueError):  # damaged, or not in Label Studio's format
            return None
        if updated is not None and found:
            with contextlib.suppress(OSError), self._changing():  # if the disk is full, the events stay
                if _state(self._tasks) == written:  # otherwise they were read again or dropped meanwhile
                    self._keep(updated, found[-1][0])
        return updated

    def _keep(self, tasks: PackedTasks, count: int) -> None:
        """Keeps the tasks after the first `count` changes, instead of the events."""
        files.write_json(self._tasks, {"count": count, "pages": tasks.pages}, sync="data")
        for number, path in self._event_files():
            if number <= count:
                path.unlink(missing_ok=True)

    def doubt(self) -> None:
        """Handles an event that couldn't be kept: requests a training run, which reads everything again."""
        with self._changing() as (changed, learned):
            self._forget()
            self._keep_counts(changed + 1, learned)

    def forget_tasks(self) -> None:
        """Makes the next training run read everything from Label Studio."""
        with self._changing():
            self._forget()

    def _forget(self) -> None:
        self._tasks.unlink(missing_ok=True)
        self._remove_events()

    def _keep_events(self, changes: Sequence[Change], number: int) -> None:
        path = self._events / f"{number:012}.json"
        files.write_json(path, [asdict(change) for change in changes], sync="data", make_folder=True)
        kept = self._event_files()
        if len(kept) > MAX_EVENTS or sum(path.stat().st_size for _, path in kept) > MAX_EVENT_BYTES:
            self._forget()

    def _remove_events(self) -> None:
        for _, path in self._event_files():
            path.unlink(missing_ok=True)

    def _event_files(self) -> list[tuple[int, Path]]:
        return sorted((int(path.stem), path) for path in self._events.glob("*.json") if path.stem.isdecimal())


def _state(path: Path) -> tuple[int, int] | None:
    """What differs after a file was replaced; None if there is none, or nothing that can be read."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _updated(pages: Sequence[str], changes: Sequence[Change], summaries: PageSummaries) -> PackedTasks | None:
    """The tasks of these pages after the changes, new ones at the end; None if the changes lack data."""
    is_concerned = concerned_by(changes)
    found = [summaries.of(page) for page in pages]
    if any(len(summary.tasks) < summary.count for summary in found):
        return None  # events couldn't find tasks without an id
    changing = {
        number: unpacked(pages[number])
        for number, summary in enumerate(found)
        if is_concerned.may_be_among(summary.tasks, summary.annotations)
    }
    changed = apply([task for tasks in changing.values() for task in tasks if is_concerned(task)], changes)
    if changed is None:
        return None
    left = {task["id"]: task for task in changed}
    for tasks in changing.values():
        current = [left.pop(task["id"], None) if is_concerned(task) else task for task in tasks]
        tasks[:] = [task for task in current if task is not None]
    last = len(pages) - 1
    if left and pages and found[last].count < packed_tasks.PAGE_TASKS:
        changing[last] = [*changing.get(last, unpacked(pages[last])), *left.values()]
        left = {}
    updated = PackedTasks()
    for number, page in enumerate(pages):
        if number in changing:
            updated.extend(changing[number])
        else:
            updated.add_page(page, found[number].count)
    updated.extend(left.values())
    return updated
