"""Runs a job: its progress, its attempts and its end."""

import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from secrets import token_hex
from typing import Any

from my_backend.counters.in_process import JobCounts
from my_backend.errors import BackendError, Stopped, TakenOver, TrainingError
from my_backend.jobs.record import Epoch, Job, working_for
from my_backend.jobs.store import JobStore
from safe_http.redaction import redact, said

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # times in a row that its process may die before a job completes another epoch
PROGRESS_SECONDS = 0.2  # between two writes of the progress
MAX_POINTS = 400  # in the loss and accuracy curves; with more, every other one is dropped
NICENESS = 10  # of long training runs

SHUTDOWN = "the server is shutting down"
CANCELED = "it was canceled"


def yield_to_others() -> None:
    """Lowers the CPU priority of the calling thread and the threads it starts.

    Predictions and corrections take precedence over long training runs. Only Linux supports this for a single thread.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        # A process that started with a lower priority can't raise it.
        os.setpriority(os.PRIO_PROCESS, thread, max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))


class RunningJob:
    """Lets a running job report its progress; the methods raise Stopped when the job must end."""

    def __init__(self, job: Job, store: JobStore, shutting_down: Callable[[], bool]) -> None:
        self.job = job
        self._store = store
        self._shutting_down = shutting_down
        self._saved = 0.0

    def progress(self, record: dict[str, Any]) -> None:
        """Notes the job's progress; fields that an earlier record of the same phase set are kept.

        Raises TrainingError if a value can't be stored as JSON, since the job's record couldn't be written any longer.
        """
        self.check()
        record = as_json(record, "fit() reported progress")
        record = {key: redact(value) if isinstance(value, str) else value for key, value in record.items()}
        same = record.get("phase", self.job.progress.get("phase")) == self.job.progress.get("phase")
        progress = {**self.job.progress, **record} if same else record
        self.job = replace(self.job, progress=progress, history=_lengthened(self.job.history, progress, record))
        self._note_how_far(str(progress.get("phase")), progress.get("epoch"))
        if time.monotonic() - self._saved > PROGRESS_SECONDS or not same:
            self._store.keep(self.job, sync="data")
            self._saved = time.monotonic()

    def _note_how_far(self, phase: str, epoch: Any) -> None:
        """Resets the count of futile attempts when the job reaches an epoch that no earlier attempt reached."""
        if isinstance(epoch, int) and epoch > self.job.furthest.get(phase, 0):
            self.job = replace(self.job, furthest={**self.job.furthest, phase: epoch}, futile=0)

    def annotations_were_read(self) -> None:
        """Notes that later annotations need another job."""
        self.job = replace(self.job, annotations_read=True)
        self._store.keep(self.job)

    def check(self) -> None:
        """Raises Stopped if the job must end."""
        if self._store.cancel_requested(self.job):
            raise Stopped(CANCELED)
        if self._shutting_down():
            raise Stopped(SHUTDOWN)

    def check_runner(self) -> None:
        """Raises TakenOver if another process now runs the job."""
        self._store.check_runner(self.job)


def as_json(value: Any, given: str) -> Any:
    """A copy of what a model class has given, as JSON values; numbers of NumPy and torch become ordinary ones.

    Raises TrainingError if that is impossible; `given` is the beginning of its message.
    """
    try:
        return json.loads(json.dumps(value, default=_number))
    except (TypeError, ValueError) as error:
        raise TrainingError(f"{given} that can't be stored as JSON: {said(error)}") from error


def _number(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()  # raises ValueError if it has several numbers
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _lengthened(history: list[Epoch], progress: dict[str, Any], record: dict[str, Any]) -> list[Epoch]:
    """The history with the epoch from a record; if a phase restarts, so does its curve."""
    epoch = record.get("epoch")
    if not isinstance(epoch, int):
        return history
    phase = progress.get("phase")
    if any(one.phase == phase and one.epoch >= epoch for one in history):
        history = [one for one in history if one.phase != phase]
    point = Epoch(phase, epoch, record.get("loss"), record.get("accuracy"))
    return [*(history if len(history) < MAX_POINTS else history[::2]), point]


Work = Callable[[RunningJob], dict[str, Any]]


def run_job(job: Job, store: JobStore, work: Work, shutting_down: Callable[[], bool]) -> Job:
    """Runs a job and keeps its record; if the process shuts down, the job stays queued for the next process."""
    with working_for(job):
        return _run(job, store, work, shutting_down)


def _run(job: Job, store: JobStore, work: Work, shutting_down: Callable[[], bool]) -> Job:
    if job.futile >= MAX_ATTEMPTS:
        died = f"the process died {job.futile} times in a row while running this job, before finishing another epoch"
        error = f"{died}; does it need more memory?"
        return _finish(replace(job, status="failed", error=error), store)
    job = replace(job, status="started", started=time.time(), annotations_read=False)
    job = replace(job, attempts=job.attempts + 1, futile=job.futile + 1)
    running = RunningJob(replace(job, runner=token_hex(4)), store, shutting_down)
    store.update(running.job)
    store.take_over(running.job, job.runner)
    log.info("job %s: started (%s)", job.id, job.cause)
    try:
        after = _work_on(running, work)
        if after.unfinished:
            store.keep(after)
        else:
            after = _finish(after, store)
        store.remove_traces_if_deleted(after)
        return after
    except TakenOver as taken:
        log.warning("job %s: %s; discarding this process's work", job.id, taken)
        shutil.rmtree(store.workdir(running.job), ignore_errors=True)
        return running.job


def _work_on(running: RunningJob, work: Work) -> Job:
    """Does the work and returns the job's record to keep; raises TakenOver."""
    try:
        result = work(running)
    except TakenOver:
        raise
    except Stopped as stopped:
        if str(stopped) == SHUTDOWN:
            log.info("job %s: interrupted by the shutdown; it will continue after the next start", running.job.id)
            return interrupted(running.job)
        return replace(running.job, status="canceled", error=str(stopped))
    except BackendError as error:
        return replace(running.job, status="failed", error=str(error))
    except (Exception, SystemExit) as error:
        running.check_runner()  # maybe another process has taken over the job's folder
        log.exception("job %s failed", running.job.id)
        return replace(running.job, status="failed", error=f"{type(error).__name__}: {said(error)}")
    return replace(running.job, status="finished", result=result)


def interrupted(job: Job) -> Job:
    """The job as queued again, without counting this attempt."""
    return replace(job, status="queued", attempts=job.attempts - 1, futile=max(0, job.futile - 1))


def cancel_waiting(job: Job, store: JobStore) -> Job:
    """Cancels a job that hasn't started."""
    return _finish(replace(job, status="canceled", error=CANCELED), store)


def refuse_waiting(job: Job, store: JobStore, why: str) -> Job:
    """Ends a job that nothing will run."""
    return _finish(replace(job, status="failed", error=why), store)


def _finish(job: Job, store: JobStore) -> Job:
    job = replace(job, ended=time.time())
    try:
        store.keep(job)
    except OSError:  # if the disk is full, removing the job's files makes room for its record
        shutil.rmtree(store.workdir(job), ignore_errors=True)
        store.keep(job)
    store.clear(job)
    store.thin_out(job.project)
    store.tally.add([_counted(job).registry])
    if job.error:
        log.warning("job %s: %s: %s", job.id, job.status, job.error)
    else:
        log.info("job %s: %s", job.id, job.status)
    return job


def _counted(job: Job) -> JobCounts:
    counts = JobCounts()
    waited = None if job.started is None else job.started - job.created
    ran = None if job.started is None or job.ended is None else job.ended - job.started
    counts.ended(job.project, job.kind, job.status, waited=waited, ran=ran)
    return counts
