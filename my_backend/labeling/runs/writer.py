"""Carries out labeling runs: in a thread of the server, or directly for the command line.

Labeling is not a job for workers: a person waits for it, while a worker may be busy with a training run for hours; and
a token that a person gave stays in the memory of the process that got it.
"""

import logging
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal

from label_studio_format.labeling_config import ImageChoices
from my_backend import context, files
from my_backend.background import Background
from my_backend.counters.in_process import LabelingCounts
from my_backend.counters.on_disk import Tally
from my_backend.errors import (
    BackendError,
    BadRequest,
    Conflict,
    LabelStudioDown,
    NotFound,
    Stopped,
    TakenOver,
    Unavailable,
)
from my_backend.label_studio.client import HOW_TO_MAKE_A_TOKEN, LabelStudio
from my_backend.label_studio.connections import Connections
from my_backend.labeling.runs.attempt import undo, write
from my_backend.labeling.runs.project_tasks import ProjectTasks
from my_backend.labeling.runs.records import Labels, Run, RunKind, RunStore
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from safe_http.redaction import redact, said

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0  # between looks for runs that another process left
BUSY_SECONDS = 0.2  # while another run writes to the same project
RETRY_SECONDS = 5.0  # if Label Studio can't be reached; doubles each time
LONGEST_SECONDS = 600.0
MOST_TOKENS = 1000  # in memory; anyone can send one
SILENT_SECONDS = 60.0  # after which a run whose token is in no process is reported


@dataclass
class _Retry:
    """When the next attempt is due (monotonic), and how long the wait was."""

    due: float = 0.0
    pause: float = field(default=RETRY_SECONDS / 2)


HaltedState = Literal["failed", "needs a token", "waits"]


@dataclass(frozen=True)
class HaltedRun:
    """A run that isn't finished, and why it doesn't continue at the moment."""

    run: Run
    state: HaltedState


class Writer(Background):
    """Starts, undoes and carries out labeling runs, one at a time."""

    def __init__(
        self,
        projects: Projects,
        connections: Connections,
        tally: Tally,
        ended: Callable[[Run], None] = lambda run: None,
        is_waiting: Callable[[str], bool] = lambda token: False,
    ) -> None:
        """`ended` is called after each attempt of a run.

        `is_waiting` tells whether an earlier request with this token has to be dealt with first.
        """
        super().__init__("labeling")
        self._projects, self._connections = projects, connections
        self._tally, self._ended, self._is_waiting = tally, ended, is_waiting
        self.store = RunStore(projects.root)
        self._tokens: dict[str, str] = {}  # run → the token that a person gave; only in memory
        self._retries: dict[str, _Retry] = {}
        self._halted: dict[str, HaltedRun] = {}
        self._faults: dict[str, str] = {}  # run → why its files can't be used

    # --- what people ask for ------------------------------------------------

    def submit(
        self,
        project: Project,
        labels: Sequence[Labels],
        token: str = "",
        kind: RunKind = "group",
        *,
        run_id: str = "",
        idempotency_key: str = "",
    ) -> Run:
        """Stores a run, which is carried out in the background. Raises BadRequest, or Conflict if it can't work.

        `run_id` is its id if `new_run_id` has already made one. If the project has a run with the same
        `idempotency_key`, returns that one instead.
        """
        with self.store.creating(project.uid) if idempotency_key else nullcontext():
            if idempotency_key and (known := self.store.with_key(project.uid, idempotency_key)):
                return self._again(known, labels, token, kind)
            check_labels(self._tag(project), labels)
            self._check_token(project.uid, token)
            if len(self._tokens) >= MOST_TOKENS:
                raise Unavailable("too many labeling runs are waiting: try again later")
            run = self.store.create(
                project.uid, labels, kind, own_token=bool(token), run_id=run_id, idempotency_key=idempotency_key
            )
            return self._queued(run, token)

    def _again(self, run: Run, labels: Sequence[Labels], token: str, kind: RunKind) -> Run:
        """The run, for a caller who sends its key again. Raises Conflict if the labels aren't the run's."""
        if run.kind != kind or self.store.plan(run) != list(labels):
            raise Conflict(
                f"idempotency_key: labeling run {run.id} has the same key, but other labels or another kind; use a new "
                "key for each run"
            )
        if token and run.unfinished and not self._has_token(run):  # a restart has lost it
            return self._queued(run, token)
        return run

    def undo(self, run_id: str, token: str = "", tasks: Sequence[int] = ()) -> Run:
        """Queues the removal of a run's annotations, by default of all tasks; then it stops if it is still writing.

        Raises NotFound, or BadRequest if some of the tasks aren't the run's.
        """
        run = self.store.get(run_id)
        if strange := set(tasks) - {task for one in self.store.plan(run) for task in one.tasks} if tasks else ():
            raise BadRequest(f"tasks: labeling run {run.id} has no task {min(strange)}")
        self._check_token(run.project, token)
        return self._queued(self.store.undo(run, tasks, own_token=bool(token)), token)

    def resume(self, run_id: str, token: str = "") -> Run:
        """Continues a run's last requested action. Raises NotFound, or Conflict if nothing is left to do."""
        run = self.store.get(run_id)
        if run.status == "finished":
            raise Conflict(f"labeling run {run.id} has finished: nothing is left to resume")
        self._check_token(run.project, token)
        return self._queued(self.store.resume(run, own_token=bool(token)), token)

    def _queued(self, run: Run, token: str) -> Run:
        self._forget_token(run.id)
        if token:
            redact.know([token])
            self._tokens[run.id] = token
        self._retries.pop(run.id, None)
        self._halted.pop(run.id, None)
        self._wake()
        return run

    def _check_token(self, project: str, token: str) -> None:
        """Raises Conflict if there is no token at all; only Label Studio knows whether a token is valid."""
        label_studio = self._connections.label_studio(self._projects.credentials(project))
        if label_studio is None:
            raise Conflict("can't write to Label Studio because its URL is unknown: set LABEL_STUDIO_URL")
        if not (token or label_studio.token().kind):
            raise Conflict(f"can't write to Label Studio without a token: send your own, or {HOW_TO_MAKE_A_TOKEN}")

    def is_writing(self, project: str) -> bool:
        """Whether a run, in any process, is writing to this project."""
        return self.store.is_claimed(project)

    def halted(self) -> list[HaltedRun]:
        """Runs that can't continue; from memory."""
        return list(self._halted.values())

    # --- the thread ---------------------------------------------------------

    def _tick(self) -> float:
        held: set[str] = set()  # projects with an undo that has to wait: later runs may label the same tasks again
        tokens = dict(self._tokens)
        # Found before the runs are read: an undo that was requested before one of these runs is then among the runs.
        free = {run for run, token in list(self._tokens.items()) if not self._is_waiting(token)}
        for run in self.store.open():
            may_start = run.project not in held and (run.id in free or not run.own_token)
            if not self._stopping and may_start and self._is_due(run):
                self._try(run)
            if self._is_undo_to_come(run):
                held.add(run.project)
        left = [replace(run, error=self._faults.get(run.id, run.error)) for run in self.store.open()]
        self._faults = {run.id: self._faults[run.id] for run in left if run.id in self._faults}
        self._halted = {run.id: HaltedRun(run, state) for run in left if (state := self._why_halted(run))}
        self._forget_ended(tokens, {run.id for run in left})
        waiting = [self._retries.get(run.id, _Retry()).due for run in left if run.unfinished and self._has_token(run)]
        return max(BUSY_SECONDS, min([LOOK_SECONDS, *(due - time.monotonic() for due in waiting)]))

    def _forget_ended(self, tokens: Mapping[str, str], left: Container[str]) -> None:
        """Forgets what is known of runs that another process has ended, or that were deleted with their project.

        `tokens` are those from before the runs that are `left` were read: a later one belongs to a newer action.
        """
        for run in [run for run in tokens if run not in left]:
            if self.store.has_ended(run) and self._tokens.get(run) is tokens[run]:
                self._forget_token(run)
        for run in [run for run in list(self._retries) if run not in left]:
            self._retries.pop(run, None)

    def _try(self, run: Run) -> None:
        """Makes an attempt; an error that can't be stored in the run, as of its files, doesn't stop other runs."""
        try:
            self.carry_out(run)
            self._faults.pop(run.id, None)
        except Exception as error:
            log.exception("labeling run %s can't be carried out", run.id)
            self._faults[run.id] = said(error)
            self._postpone(run)

    def _is_due(self, run: Run) -> bool:
        due = self._retries.get(run.id, _Retry()).due <= time.monotonic()
        return run.unfinished and due and self._has_token(run)

    def _is_undo_to_come(self, run: Run) -> bool:
        """Whether labels are still to be removed: by another attempt, or by the process that has the run's token."""
        if run.id in self._faults or not (run.action == "undo" or run.withdrawn):
            return False
        return run.id in self._retries or (run.unfinished and self._is_elsewhere(run))

    def _is_elsewhere(self, run: Run) -> bool:
        """Whether another process may have the run's token: unless it has lost that, it will soon make progress."""
        return not self._has_token(run) and abs(time.time() - run.changed) <= SILENT_SECONDS

    def _has_token(self, run: Run) -> bool:
        return not run.own_token or run.id in self._tokens

    def _why_halted(self, run: Run) -> HaltedState | None:
        if run.in_vain and run.own_token:  # the person who sent the token sees the error in the run
            return None
        if run.status == "failed":
            return "failed"
        if not (self._has_token(run) or self._is_elsewhere(run)):
            return "needs a token"
        return "waits" if run.error else None

    # --- one run ------------------------------------------------------------

    def carry_out(self, run: Run) -> bool:
        """Makes an attempt; returns whether the run's project was free for it."""
        with context.working_for(project=run.project, request_id=run.request_id):
            try:
                self.store.get(run.id)  # otherwise the claim would create the folder of a deleted project again
                with self.store.claimed(run.project):
                    run = self.store.get(run.id)  # another process may have finished it, or have its token
                    if not (run.unfinished and self._has_token(run)):
                        return False
                    run = self.store.begin(run)
                    self._attempt(run)
            except files.InUse:
                return False
            except NotFound:
                self._forget_token(run.id)
                self._retries.pop(run.id, None)
                log.info("labeling run %s: its project was deleted", run.id)
            except TakenOver as taken:
                log.info("labeling run %s: %s", run.id, taken)
            self._ended(run)
            return True

    def _attempt(self, run: Run) -> None:
        """Carries out the run's action and stores the outcome; raises TakenOver and NotFound."""
        reached = run

        def progress(now: Run) -> Run:
            nonlocal reached
            self._raise_if_stopping()
            reached = self.store.keep(now)
            return reached

        log.info("labeling run %s: %s started, %d tasks (attempt %d)", run.id, run.action, run.tasks, run.attempts)
        try:
            self._end(replace(self._work(run, progress), status="finished"))
        except (TakenOver, NotFound):
            raise
        except Stopped as stopped:
            self.store.keep(replace(reached, status="queued"))
            log.info("labeling run %s: interrupted (%s); it will continue after the next start", run.id, stopped)
        except LabelStudioDown as error:
            retry = self._postpone(run)
            self.store.keep(replace(reached, status="queued", error=str(error)))
            log.warning("labeling run %s: %s; trying again in %.0f s", run.id, error, retry.pause)
        except BackendError as error:
            self._end(replace(reached, status="failed", error=str(error)))
        except Exception as error:
            log.exception("labeling run %s failed", run.id)
            self._end(replace(reached, status="failed", error=f"{type(error).__name__}: {said(error)}"))

    def _postpone(self, run: Run) -> _Retry:
        """Waits before the next attempt, twice as long each time."""
        retry = self._retries.setdefault(run.id, _Retry())
        retry.pause = min(2 * retry.pause, LONGEST_SECONDS)
        retry.due = time.monotonic() + retry.pause
        return retry

    def _work(self, run: Run, progress: Callable[[Run], Run]) -> Run:
        project = self._projects.get(run.project)
        tasks = ProjectTasks(self._label_studio(run), project.id, run.mark)
        plan = self.store.plan(run)
        tasks.check_rights()
        if run.action == "undo":
            return undo(run, plan, tasks, progress)
        tag = self._tag(project)
        check_labels(tag, plan)  # the labeling config may have changed
        run = progress(replace(run, began=True))
        return write(run, plan, tag, tasks, progress)

    def _label_studio(self, run: Run) -> LabelStudio:
        if run.own_token and run.id not in self._tokens:
            raise TakenOver("another process has the run's token")
        token = self._tokens[run.id] if run.own_token else ""
        return self._connections.needed(self._projects.credentials(run.project), token)

    def _forget_token(self, run_id: str) -> None:
        if token := self._tokens.pop(run_id, None):
            redact.forget([token])

    def _tag(self, project: Project) -> ImageChoices:
        config = project.config
        if config.image_choices is None:
            raise Conflict(f"can't label tasks of project {project.uid}: {config.problem or 'no labeling config'}")
        return config.image_choices

    def _end(self, run: Run) -> None:
        token = self._tokens.get(run.id)
        self.store.keep(run)
        if self._tokens.get(run.id) is token:  # otherwise it belongs to an undo that has just been requested
            self._forget_token(run.id)
        self._retries.pop(run.id, None)
        if run.error:
            log.warning("labeling run %s: %s failed: %s", run.id, run.action, run.error)
            changed = left_alone = 0  # the attempt that finishes counts them
        else:
            changed = run.written if run.action == "write" else run.undone
            reasons = run.left_alone if run.action == "write" else {"changed": run.left_alone.get("changed", [])}
            left_alone = sum(map(len, reasons.values()))
            done = "wrote" if run.action == "write" else "removed"
            log.info("labeling run %s: %s %d annotations, left %d tasks alone", run.id, done, changed, left_alone)
        counts = LabelingCounts()
        counts.ended(run.project, run.action, run.status, changed=changed, left_alone=left_alone)
        self._tally.add([counts.registry])
        self.store.thin_out(run.project)


def check_labels(tag: ImageChoices, labels: Sequence[Labels]) -> None:
    """Raises BadRequest unless each task comes once and gets different choices that the labeling config has."""
    unknown = sorted({choice for one in labels for choice in one.choices} - set(tag.choices))
    if unknown:
        raise BadRequest(
            f"labels: the labeling config has no choice {', '.join(unknown[:5])[:200]}; it has "
            f"{', '.join(tag.choices[:20])[:500]}"
        )
    if not tag.multiple and any(len(one.choices) != 1 for one in labels):
        raise BadRequest("labels: give each task one choice; this labeling config doesn't allow several, or none")
    twice = next((choice for one in labels for choice in one.choices if one.choices.count(choice) > 1), None)
    if twice is not None:
        raise BadRequest(f"labels: the choice {twice[:200]} appears twice in one label; give each choice once")
    tasks = [task for one in labels for task in one.tasks]
    if not tasks:
        raise BadRequest("labels: there are no tasks to label")
    if len(set(tasks)) < len(tasks):
        raise BadRequest("labels: a task appears twice")
