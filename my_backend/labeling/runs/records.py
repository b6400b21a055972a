"""Labeling runs: their records on disk, which outlive every process."""

import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Literal

from pydantic import TypeAdapter

from label_studio_format.annotations import ACCEPTED_MARK, GROUP_MARK, SINGLE_MARK
from my_backend import context, files
from my_backend.errors import Conflict, NotFound, TakenOver
from my_backend.files import Moment
from my_backend.projects.deleted import unless_deleted

FOLDER = "labeling"  # in a project's folder
CLAIM_FILE = ".claim"
CREATING_FILE = ".creating"
RECENT_FOLDER = ".recent"  # an empty file for each run that was changed a short time ago, or that isn't finished
STATE_FILE = "state.json"
PLAN_FILE = "plan.json"

SMALL = 100  # tasks that a finished run names; others are read from disk each time
KEPT_IN_VAIN = 20
# Each store looks at all runs again before a change that it hasn't seen could leave RECENT_FOLDER.
RECENT_SECONDS, LOOK_AT_ALL_SECONDS = 900.0, 300.0

Action = Literal["write", "undo"]
# How people saw the images: together with others in a group, each one alone, or not at all.
RunKind = Literal["group", "single", "accepted"]
RunStatus = Literal["queued", "started", "finished", "failed"]
# Why a task was left alone: it was deleted; it has an annotation that isn't the run's; someone has changed the run's.
Reason = Literal["deleted", "labeled", "changed"]

MARKS: dict[RunKind, str] = {"group": GROUP_MARK, "single": SINGLE_MARK, "accepted": ACCEPTED_MARK}

_RUN_ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{6}")


@dataclass(frozen=True)
class Labels:
    """The same choices for a group of tasks; several choices if the labeling config allows that."""

    choices: list[str]
    tasks: list[int]


@dataclass(frozen=True)
class Run:
    """A run's record, without its plan. `action` is what is being done, or was done last."""

    id: str
    project: str
    tasks: int
    kind: RunKind = "group"
    action: Action = "write"
    status: RunStatus = "queued"
    created: Moment = 0.0  # seconds since 1970, like the other times
    changed: Moment = 0.0  # the last progress
    own_token: bool = False  # a person gave a token, which only the process that got it knows
    attempts: int = 0  # of the current action
    runner: str = ""  # random for each attempt; only the one named here may write the record
    done: int = 0  # tasks that the current attempt has dealt with
    written: int = 0  # tasks that have the run's annotation, or had it before the last undo
    undone: int = 0  # of these, tasks that have lost it to the last undo
    # Tasks whose annotation an undo is removing, or was removing when it was interrupted.
    removing: list[int] = field(default_factory=list)
    withdrawn: list[int] = field(default_factory=list)  # tasks that were undone alone; [] if `undo` means all of them
    left_alone: dict[Reason, list[int]] = field(default_factory=dict)  # tasks
    began: bool = False  # an attempt had the right to write, so annotations may exist
    error: str = ""
    request_id: str = ""  # of the HTTP request that started it
    idempotency_key: str = ""  # from the caller, who may repeat the request with it

    @property
    def mark(self) -> str:
        """The text in Label Studio that says which annotations belong to the run, and how people saw the images.

        It outlives MODEL_DIR.
        """
        return f"{MARKS[self.kind]} {self.id}"

    @property
    def in_vain(self) -> bool:
        """Whether it failed before it changed anything."""
        return self.status == "failed" and not self.began

    @property
    def unfinished(self) -> bool:
        return self.status in ("queued", "started")


_RUN = TypeAdapter(Run)
_PLAN = TypeAdapter(list[Labels])


def new_run_id() -> str:
    """An id that no other run has."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{token_hex(3)}"


def _identity(path: Path) -> tuple[int, int] | None:
    """Changes whenever a file is replaced, even twice at the same time of its clock; None if it can't be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _is_small(run: Run) -> bool:
    """Whether the run takes little memory: most runs name few tasks that were left alone."""
    return len(run.withdrawn) + sum(map(len, run.left_alone.values())) <= SMALL


def _is_settled(run: Run) -> bool:
    """Whether all stores have seen how the run finished."""
    return run.status == "finished" and time.time() - run.changed > RECENT_SECONDS


def _by_age(run: Run) -> tuple[float, str]:
    return run.created, run.id


def _names(folder: Path) -> set[str]:
    """The names in a folder that don't begin with a dot; none if there is no such folder, or it can't be listed."""
    try:
        return {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return set()


@dataclass
class _Known:
    """What a store knows of a project's runs."""

    # By id: the identity of its state file, and the run.
    finished: dict[str, tuple[tuple[int, int], Run]] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)  # to read each time: not finished, failed, large or unreadable
    due: float = 0.0  # when to look at all runs again (monotonic)


class RunStore:
    """The runs of all projects: each is a folder with an immutable plan and a small state.

    There may be many thousands. So a store reads each finished run once, and then looks only at those that may have
    changed since.
    """

    def __init__(self, projects_folder: Path) -> None:
        self._root = projects_folder
        self._known: dict[Path, _Known] = {}  # by the folder of a project's runs
        self._reading = Lock()

    def create(
        self,
        project: str,
        labels: Sequence[Labels],
        kind: RunKind = "group",
        *,
        own_token: bool,
        run_id: str = "",
        idempotency_key: str = "",
    ) -> Run:
        """Stores a new run durably: the state comes last, so a run that exists has its plan. Raises NotFound."""
        now = time.time()
        run = Run(
            run_id or new_run_id(),
            project,
            sum(len(one.tasks) for one in labels),
            kind,
            created=now,
            changed=now,
            own_token=own_token,
            request_id=context.ids().get("request_id", ""),
            idempotency_key=idempotency_key,
        )
        folder = self._folder(run)
        with unless_deleted(self._root / project):
            files.create_folder(folder.parent)
            self._mark_recent(run)
            try:
                files.write_json(folder / PLAN_FILE, [asdict(one) for one in labels], make_folder=True)
                files.write_json(folder / STATE_FILE, asdict(run))
            except OSError:
                self._remove_rest(run)
                raise
        return run

    @contextmanager
    def creating(self, project: str) -> Iterator[None]:
        """A lock to hold from `with_key` to `create`: requests with the same key may come at the same time.

        Raises NotFound if the project was deleted.
        """
        folder = self._root / project / FOLDER
        with unless_deleted(self._root / project):
            files.create_folder(folder)
            with files.locked(folder / CREATING_FILE):
                yield

    def with_key(self, project: str, idempotency_key: str) -> Run | None:
        """The project's run with that key."""
        found = (run for run in self.of_project(project) if run.idempotency_key == idempotency_key)
        # The project may just have been deleted, with its runs, and connected again.
        return next((run for run in found if self.exists(project, run.id)), None)

    def plan(self, run: Run) -> list[Labels]:
        """Which tasks get which choices; raises Conflict if the file is damaged."""
        plan = files.read_record(self._folder(run) / PLAN_FILE, _PLAN)
        if plan is None:
            raise Conflict(f"can't read the plan of labeling run {run.id}: restore MODEL_DIR from a backup")
        return plan

    def get(self, run_id: str, project: str = "*") -> Run:
        """The run, of any project if none is named; raises NotFound."""
        run = next((files.read_record(path, _RUN) for path in self._state_files(run_id, project)), None)
        if run is None:
            raise NotFound(f"there is no labeling run {run_id[:100]}")
        return run

    def has_ended(self, run_id: str) -> bool:
        """Whether the run has finished or is gone. A run that can't be read at the moment hasn't ended."""
        found = [files.read_record(path, _RUN) for path in self._state_files(run_id)]
        return all(run is not None and run.status == "finished" for run in found)

    def _state_files(self, run_id: str, project: str = "*") -> Iterator[Path]:
        return self._root.glob(f"{project}/{FOLDER}/{run_id}/{STATE_FILE}") if _RUN_ID.fullmatch(run_id) else iter(())

    def exists(self, project: str, run_id: str) -> bool:
        """Whether there is such a run, even if it is damaged. Without a state, nothing of it was ever written."""
        return os.path.lexists(self._root / project / FOLDER / run_id / STATE_FILE)

    def of_project(self, project: str) -> list[Run]:
        """The project's runs, the newest first."""
        finished, others = self._read(self._root / project / FOLDER)
        return sorted([*finished, *others], key=_by_age, reverse=True)

    def open(self) -> list[Run]:
        """All runs that haven't finished, including failed ones, the oldest first."""
        folders = set(self._root.glob(f"*/{FOLDER}"))
        with self._reading:
            for gone in self._known.keys() - folders:
                del self._known[gone]
        return sorted((run for folder in folders for run in self._read(folder)[1]), key=_by_age)

    def _read(self, folder: Path) -> tuple[list[Run], list[Run]]:
        """A project's runs that can be read: those that have finished, and the others."""
        with self._reading:
            known = self._known.setdefault(folder, _Known())
            now = time.monotonic()
            if now >= known.due:
                to_read = _names(folder)
                known.finished = {run_id: one for run_id, one in known.finished.items() if run_id in to_read}
                known.due = now + LOOK_AT_ALL_SECONDS
            else:
                to_read = _names(folder / RECENT_FOLDER) | known.others
            read = {run_id: run for run_id in to_read if (run := self._read_one(folder, run_id, known))}
            known.others = to_read - known.finished.keys()
            finished = [run for run_id, (_, run) in known.finished.items() if run_id not in read]
            finished += [run for run in read.values() if run.status == "finished"]
            return finished, [run for run in read.values() if run.status != "finished"]

    def _read_one(self, folder: Path, run_id: str, known: _Known) -> Run | None:
        path = folder / run_id / STATE_FILE
        state, stored = _identity(path), known.finished.get(run_id)
        if stored and stored[0] == state:
            return stored[1]
        known.finished.pop(run_id, None)
        run = files.read_record(path, _RUN) if state else None
        if state and run and run.status == "finished" and _is_small(run):
            known.finished[run_id] = state, run
        return run

    def resume(self, run: Run, *, own_token: bool) -> Run:
        """Queues the run's action again."""
        with self._changing(run):
            run = self.get(run.id, run.project)
            return self._queue(run, run.action, run.withdrawn, own_token=own_token)

    def undo(self, run: Run, tasks: Collection[int] = (), *, own_token: bool) -> Run:
        """Queues the undoing of some of the run's tasks, by default of all; the others are written all the same."""
        with self._changing(run):
            run = self.get(run.id, run.project)
            withdrawn = sorted({*run.withdrawn, *tasks}) if tasks else []
            if len(withdrawn) == run.tasks or (run.action == "undo" and not run.withdrawn):
                withdrawn = []
            action: Action = "write" if withdrawn and run.action == "write" and run.status != "finished" else "undo"
            return self._queue(run, action, withdrawn, own_token=own_token)

    def _queue(self, run: Run, action: Action, withdrawn: list[int], *, own_token: bool) -> Run:
        """Queues an action; an attempt in progress, in any process, ends at its next step."""
        if action != run.action:
            run = replace(run, attempts=0, done=0)
        if run.status == "finished":
            run = replace(run, written=run.written - run.undone, undone=0)
        run = replace(run, action=action, withdrawn=withdrawn, own_token=own_token)
        return self._save(replace(run, status="queued", runner="", error=""))

    def begin(self, run: Run) -> Run:
        """Starts an attempt of the run's current action."""
        with self._changing(run):
            run = self.get(run.id, run.project)
            return self._save(
                replace(run, status="started", attempts=run.attempts + 1, runner=token_hex(4), done=0, error="")
            )

    def keep(self, run: Run) -> Run:
        """Stores an attempt's progress or result.

        Raises TakenOver if something else was requested meanwhile, and NotFound if the project was deleted.
        """
        with self._changing(run):
            if self.get(run.id, run.project).runner != run.runner:
                raise TakenOver("another action was requested")
            return self._save(run)

    def _save(self, run: Run) -> Run:
        run = replace(run, changed=time.time())
        self._mark_recent(run)
        files.write_json(self._folder(run) / STATE_FILE, asdict(run))
        return run

    def thin_out(self, project: str) -> None:
        """Removes older runs that failed before writing anything: anyone can add these with an invalid token.

        Runs from before the clock was set back are older than all others.
        """
        runs = self.of_project(project)
        in_vain = sorted((run for run in runs if run.in_vain), key=lambda run: files.was_set_back_since(run.created))
        for run in in_vain[KEPT_IN_VAIN:]:
            with suppress(NotFound, OSError), self._changing(run):
                if self.get(run.id, run.project).in_vain:  # otherwise it was resumed just now
                    (self._folder(run) / STATE_FILE).unlink()
            self._remove_rest(run)
        marked = _names(self._root / project / FOLDER / RECENT_FOLDER)
        for run in runs:
            if run.id in marked and _is_settled(run):
                self._unmark(run)

    def _remove_rest(self, run: Run) -> None:
        """Removes what there is of a run without a state."""
        if not self.exists(run.project, run.id):
            shutil.rmtree(self._folder(run), ignore_errors=True)
            with suppress(OSError):
                self._mark(run).unlink()

    def _unmark(self, run: Run) -> None:
        """Lets stores ignore a run that finished long ago; after an error, they keep looking at it."""
        with suppress(NotFound, OSError), self._changing(run):
            if _is_settled(self.get(run.id, run.project)):  # otherwise an undo was requested just now
                self._mark(run).unlink(missing_ok=True)

    def _mark_recent(self, run: Run) -> None:
        """Makes all stores look at the run. Call it before a change, in case the process is killed in between."""
        self._mark(run).parent.mkdir(exist_ok=True)
        with suppress(FileExistsError):  # it may belong to another user, so that it can't be touched again
            self._mark(run).touch(exist_ok=False)

    def _mark(self, run: Run) -> Path:
        return self._root / run.project / FOLDER / RECENT_FOLDER / run.id

    @contextmanager
    def claimed(self, project: str) -> Iterator[None]:
        """A claim to hold while writing to a project.

        Entering it raises InUse if another process holds it, and NotFound if the project was deleted.
        """
        with ExitStack() as held:
            with unless_deleted(self._root / project):
                held.enter_context(files.claimed(self._root / project / FOLDER / CLAIM_FILE))
            yield

    def is_claimed(self, project: str) -> bool:
        """Whether any process is writing to this project."""
        path = self._root / project / FOLDER / CLAIM_FILE
        if not path.exists():
            return False
        try:
            with files.claimed(path, shared=True):
                return False
        except files.InUse:
            return True

    @contextmanager
    def _changing(self, run: Run) -> Iterator[None]:
        folder = self._folder(run)
        if not folder.exists():
            raise NotFound(f"there is no labeling run {run.id}")
        with unless_deleted(self._root / run.project), files.locked(folder / ".lock"):
            yield

    def _folder(self, run: Run) -> Path:
        return self._root / run.project / FOLDER / run.id
