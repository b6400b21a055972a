"""Background jobs: their records on disk, the progress of running ones, and the interface of queues."""

import contextlib
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal, Protocol

from pydantic import TypeAdapter

from my_backend import context, files
from my_backend.errors import BackendError, Conflict, JobStopped, NotFound, TakenOver
from my_backend.files import Moment
from my_backend.metrics.counters import JobCounts
from my_backend.metrics.persistent_counters import Tally
from my_backend.redaction import said
from my_backend.settings import Settings

log = logging.getLogger(__name__)

Kind = Literal["head", "full"]
Status = Literal["queued", "started", "finished", "failed", "canceled", "stopped"]
KINDS: tuple[Kind, ...] = ("head", "full")
WORK_FOLDER = "work"  # in a project's folder
UNFINISHED: tuple[Status, ...] = ("queued", "started")
OUTCOMES: tuple[Status, ...] = ("finished", "failed", "canceled")

MAX_ATTEMPTS = 3  # times in a row that its process may die before a job completes another epoch
KEPT_JOBS = 50  # records of ended jobs, per project
REMEMBERED_JOBS = 100_000
PROGRESS_SECONDS = 0.2  # between two writes of the progress
MAX_POINTS = 400  # in the loss and accuracy curves; with more, every other one is dropped

NICENESS = 10  # of long trainings

SHUTDOWN = "the server is shutting down"
CANCELED = "it was canceled"


_JOB_ID = re.compile(rf"({'|'.join(KINDS)})-[a-z0-9T-]{{1,58}}")


def is_job_id(text: str) -> bool:
    """Returns whether this can be a job's id, which is also a file name."""
    return bool(_JOB_ID.fullmatch(text))


@dataclass(frozen=True)
class Epoch:
    """An epoch of a job; the model class may report any values."""

    phase: Any
    epoch: int
    loss: Any = None
    accuracy: Any = None


@dataclass(frozen=True)
class Job:
    """A job's record.

    `progress` contains values from the model class: `phase`, `epoch`, `epochs`, `loss`, `accuracy`, `seconds_left`, and
    `done`, the completed share of the whole job (0 to 1).
    """

    id: str
    project: str
    kind: Kind
    cause: str
    status: Status = "queued"
    created: Moment = 0.0  # seconds since 1970, like the other times
    started: Moment | None = None
    ended: Moment | None = None
    attempts: int = 0  # how often it was started
    futile: int = 0  # the last attempts in a row that completed no further epoch
    runner: str = ""  # random for each run; only the run named in the record may write it and publish
    annotations_read: bool = False
    progress: dict[str, Any] = field(default_factory=dict)
    history: list[Epoch] = field(default_factory=list)
    furthest: dict[str, int] = field(default_factory=dict)  # phase → the last epoch that any attempt reached
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    request_id: str = ""  # of the HTTP request that submitted it

    @property
    def unfinished(self) -> bool:
        return self.status in UNFINISHED


_JOB = TypeAdapter(Job)


class JobStore:
    """Job records on disk, one JSON file each; they outlive every process."""

    def __init__(self, projects_folder: Path) -> None:
        self._folder = projects_folder
        self.tally = Tally(projects_folder)
        self._ended: set[str] = set()  # files of ended jobs, which don't change; there are many

    def save(self, job: Job, *, durable: bool = True) -> None:
        files.write_json(self._path(job.project, job.id), asdict(job), durable=durable)

    def update(self, job: Job, *, durable: bool = True) -> None:
        """Like `save`, but doesn't bring back a project that was deleted meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            files.write_json(self._path(job.project, job.id), asdict(job), durable=durable, make_folder=False)

    def keep(self, job: Job, *, durable: bool = True) -> None:
        """Like `update`, for the process that runs the job; raises TakenOver if another process has taken it over."""
        self.check_runner(job)
        self.update(job, durable=durable)

    def check_runner(self, job: Job) -> None:
        """Raises TakenOver if another process now runs the job, for example after file locks were lost."""
        record = files.read_record(self._path(job.project, job.id), _JOB)
        if record and record.runner != job.runner:
            raise TakenOver("another process has taken over the job")

    def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        found = list(self._folder.glob(f"*/jobs/{job_id}.json")) if is_job_id(job_id) else []
        job = files.read_record(found[0], _JOB) if found else None
        if job is None:
            raise NotFound(f"there is no job {job_id}")
        return job

    def of_project(self, project: str) -> list[Job]:
        """Returns the project's jobs, from the oldest to the newest."""
        return self._read(self._folder.glob(f"{project}/jobs/*.json"))

    def newest(self, project: str, count: int) -> list[Job]:
        """Returns the newest jobs, newest first; besides them it reads only records of the same second."""
        paths = sorted(self._folder.glob(f"{project}/jobs/*.json"), key=_second, reverse=True)
        oldest = _second(paths[count - 1]) if len(paths) >= count else ""
        return self._read(path for path in paths if _second(path) >= oldest)[::-1][:count]

    def all(self) -> list[Job]:
        return self._read(self._folder.glob("*/jobs/*.json"))

    def unfinished(self, project: str = "*") -> list[Job]:
        """Returns the unfinished jobs of one project or of all, oldest first; fast however many jobs have ended."""
        jobs = self._read(path for path in self._folder.glob(f"{project}/jobs/*.json") if path.name not in self._ended)
        if len(self._ended) > REMEMBERED_JOBS:
            self._ended.clear()
        self._ended.update(f"{job.id}.json" for job in jobs if not job.unfinished)
        return [job for job in jobs if job.unfinished]

    def _read(self, paths: Iterable[Path]) -> list[Job]:
        jobs = (files.read_record(path, _JOB) for path in paths)
        return sorted((job for job in jobs if job), key=lambda job: (job.created, job.id))

    def changing(self) -> contextlib.AbstractContextManager[None]:
        """Returns a lock, shared by all processes, to hold while deciding from the records what to do with jobs."""
        return files.locked(self._folder / ".jobs")

    def claimed(self, job: Job) -> contextlib.AbstractContextManager[None]:
        """Returns a claim that a process holds while it runs a job: only one job per project and kind runs at a time.

        Entering it raises InUse if another process holds it.
        """
        return files.claimed(self._folder / job.project / WORK_FOLDER / f".{job.kind}")

    def workdir(self, job: Job) -> Path:
        """Returns the folder for this run's files, which outlive the process."""
        return self._folder / job.project / WORK_FOLDER / f"{job.id}.{job.runner}"

    def take_over(self, job: Job) -> None:
        """Moves the files of earlier runs to this run, so that training continues from their checkpoint.

        If an earlier run is still going unnoticed, it no longer finds its folder, so its files can't mix with these.
        """
        mine = self.workdir(job)
        for left in mine.parent.glob(f"{job.id}*"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(left, mine)

    def request_cancel(self, job: Job) -> None:
        """Asks a running job, in any process, to end at its next step."""
        with contextlib.suppress(FileNotFoundError):  # the project was deleted, which also ends the job
            self._cancel_marker(job).touch()

    def cancel_requested(self, job: Job) -> bool:
        """Returns whether the job was canceled, or deleted with its project."""
        return self._cancel_marker(job).exists() or not self.has(job)

    def has(self, job: Job) -> bool:
        return self._path(job.project, job.id).exists()

    def _cancel_marker(self, job: Job) -> Path:
        return self._path(job.project, job.id).with_suffix(".cancel")

    def clear(self, job: Job) -> None:
        """Removes the files that only an unfinished job needs."""
        shutil.rmtree(self.workdir(job), ignore_errors=True)
        self._cancel_marker(job).unlink(missing_ok=True)

    def thin_out(self, project: str) -> None:
        """Removes the records of all but the newest ended jobs."""
        finished = [job for job in self.of_project(project) if not job.unfinished]
        for job in finished[:-KEPT_JOBS]:
            self._path(project, job.id).unlink(missing_ok=True)

    def _path(self, project: str, job_id: str) -> Path:
        return self._folder / project / "jobs" / f"{job_id}.json"


@contextlib.contextmanager
def claimed_model_dir(settings: Settings) -> Iterator[None]:
    """Claims MODEL_DIR while a server or worker runs; raises Conflict.

    With Redis, any number of processes can share a MODEL_DIR. A server without Redis resumes all unfinished jobs,
    including those that run in workers, so it must be alone.
    """
    folder, shared = settings.model_dir, bool(settings.redis)
    try:
        with files.claimed(folder / ".server", shared=shared):
            yield
    except files.InUse:
        who = "a server without REDIS_URL" if shared else "another server or worker"
        raise Conflict(f"{who} is using MODEL_DIR={folder}: stop it, or set another MODEL_DIR") from None


def _second(path: Path) -> str:
    """Returns the second of a job's creation, which follows the kind in the file name."""
    return path.name.partition("-")[2].partition("-")[0]


def new_job(project: str, kind: Kind, cause: str) -> Job:
    created = time.time()
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(created))
    request_id = context.ids().get("request_id", "")
    return Job(f"{kind}-{stamp}-{token_hex(3)}", project, kind, cause, created=created, request_id=request_id)


def working_for(job: Job) -> contextlib.AbstractContextManager[None]:
    """Marks log lines and records made in the block with the job's ids."""
    return context.working_for(job=job.id, project=job.project, request_id=job.request_id)


QueueState = Literal["ready", "unreachable", "failed", "replica", "no worker", "refused a job"]


@dataclass(frozen=True)
class QueueStatus:
    """Whether queued jobs can run.

    `unreachable`: Redis doesn't answer properly, and `why` is its error. `failed`: the job records couldn't be compared
    with Redis, because of `why`. `replica`: Redis is read-only, so no worker can register. `no worker`: none takes jobs
    of some kind. `refused a job`: jobs run, but within the last hour a worker refused one that isn't ours.
    """

    state: QueueState = "ready"
    workers: Mapping[Kind, int] = field(default_factory=dict)  # how many take jobs of each kind; empty if unknown
    why: str = ""


class JobQueue(Protocol):
    """A queue that runs jobs in this process or in workers."""

    def submit(self, project: str, kind: Kind, cause: str) -> Job:
        """Returns a job that will learn all current annotations: a new one, or one that hasn't read them yet.

        For each project and kind, at most one job runs and one waits.
        """

    def cancel(self, job_id: str) -> Job:
        """Cancels a waiting or running job; raises NotFound."""

    def status(self) -> QueueStatus:
        """Returns whether jobs can run at the moment, from memory."""

    def start(self) -> None:
        """Starts to run jobs, first those that an earlier process left unfinished."""

    def stop(self) -> None:
        """Stops the threads; unfinished jobs continue later."""


def yield_to_others() -> None:
    """Lowers the CPU priority of the calling thread and the threads it starts.

    Predictions and corrections take precedence over long trainings. Only Linux supports this for a single thread.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        # A process that started with a lower priority can't raise it.
        os.setpriority(os.PRIO_PROCESS, thread, max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))


def submit_correction(queue: JobQueue, project: str) -> Job:
    """Submits a quick training because annotations changed."""
    return queue.submit(project, "head", "annotations changed")


class RunningJob:
    """Lets a running job report its progress; the methods raise JobStopped when the job must end."""

    def __init__(self, job: Job, store: JobStore, shutting_down: Callable[[], bool]) -> None:
        self.job = job
        self._store = store
        self._shutting_down = shutting_down
        self._saved = 0.0

    def progress(self, record: dict[str, Any]) -> None:
        """Notes the job's progress; fields that an earlier record of the same phase set are kept."""
        self.check()
        same = record.get("phase", self.job.progress.get("phase")) == self.job.progress.get("phase")
        progress = {**self.job.progress, **record} if same else record
        self.job = replace(self.job, progress=progress, history=_lengthened(self.job.history, progress, record))
        self._note_how_far(str(progress.get("phase")), progress.get("epoch"))
        if time.monotonic() - self._saved > PROGRESS_SECONDS or not same:
            self._store.keep(self.job, durable=False)
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
        """Raises JobStopped if the job must end."""
        if self._store.cancel_requested(self.job):
            raise JobStopped(CANCELED)
        if self._shutting_down():
            raise JobStopped(SHUTDOWN)

    def check_runner(self) -> None:
        """Raises TakenOver if another process now runs the job."""
        self._store.check_runner(self.job)


def _lengthened(history: list[Epoch], progress: dict[str, Any], record: dict[str, Any]) -> list[Epoch]:
    """Returns the history with the epoch from a record; if a phase restarts, so does its curve."""
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
    store.take_over(running.job)
    log.info("job %s: started (%s)", job.id, job.cause)
    try:
        after = _work_on(running, work)
        if after.unfinished:
            store.keep(after)
            return after
        return _finish(after, store)
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
    except JobStopped as stopped:
        if str(stopped) == SHUTDOWN:
            log.info("job %s: interrupted by the shutdown; it will continue after the next start", running.job.id)
            return interrupted(running.job)
        return replace(running.job, status="canceled", error=str(stopped))
    except BackendError as error:
        return replace(running.job, status="failed", error=str(error))
    except Exception as error:
        running.check_runner()  # maybe another process has taken over the job's folder
        log.exception("job %s failed", running.job.id)
        return replace(running.job, status="failed", error=f"{type(error).__name__}: {said(error)}")
    return replace(running.job, status="finished", result=result)


def interrupted(job: Job) -> Job:
    """Returns the job as queued again, without counting this attempt."""
    return replace(job, status="queued", attempts=job.attempts - 1, futile=max(0, job.futile - 1))


def cancel_waiting(job: Job, store: JobStore) -> Job:
    """Cancels a job that hasn't started."""
    return _finish(replace(job, status="canceled", error=CANCELED), store)


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
