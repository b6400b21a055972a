"""Background jobs: their records on disk, and the queue that runs them in the server's own process."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal, Protocol

from my_backend import files
from my_backend.errors import BackendError, JobStopped, NotFound

log = logging.getLogger(__name__)

Kind = Literal["head", "full"]
Status = Literal["queued", "started", "finished", "failed", "canceled", "stopped"]
KINDS: tuple[Kind, ...] = ("head", "full")
UNFINISHED: tuple[Status, ...] = ("queued", "started")

MAX_ATTEMPTS = 3  # times that a job may take its process down with it
KEPT_JOBS = 50  # finished records of a project
PROGRESS_SECONDS = 0.2  # how often progress goes to disk


@dataclass(frozen=True)
class Job:
    """What is known of a job; `progress` has `phase`, `epoch`, `epochs`, `loss`, `accuracy`, `seconds_left`."""

    id: str
    project: str
    kind: Kind
    cause: str
    status: Status = "queued"
    created: float = 0.0  # seconds since 1970, as the other times
    started: float | None = None
    ended: float | None = None
    attempts: int = 0
    annotations_read: bool = False
    progress: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def unfinished(self) -> bool:
        return self.status in UNFINISHED


class JobStore:
    """Job records, a JSON file each: they outlive every process."""

    def __init__(self, projects_folder: Path) -> None:
        self._folder = projects_folder
        self._lock = threading.Lock()

    def save(self, job: Job, *, durable: bool = True) -> None:
        files.write_json(self._path(job.project, job.id), asdict(job), durable=durable)

    def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        found = list(self._folder.glob(f"*/jobs/{job_id}.json")) if job_id.replace("-", "").isalnum() else []
        record = files.read_json(found[0]) if found else None
        if record is None:
            raise NotFound(f"there is no job {job_id}")
        return Job(**record)

    def of_project(self, project: str) -> list[Job]:
        """From the oldest to the newest."""
        return self._read(f"{project}/jobs/*.json")

    def all(self) -> list[Job]:
        return self._read("*/jobs/*.json")

    def _read(self, pattern: str) -> list[Job]:
        records = (files.read_json(path) for path in self._folder.glob(pattern))
        return sorted((Job(**record) for record in records if record), key=lambda job: (job.created, job.id))

    def workdir(self, job: Job) -> Path:
        """A folder that the job may fill; it survives the process, so that training can go on from a checkpoint."""
        return self._folder / job.project / "work" / job.id

    def thin_out(self, project: str) -> None:
        """Removes the records of all but the newest finished jobs."""
        finished = [job for job in self.of_project(project) if not job.unfinished]
        for job in finished[:-KEPT_JOBS]:
            self._path(project, job.id).unlink(missing_ok=True)

    def _path(self, project: str, job_id: str) -> Path:
        return self._folder / project / "jobs" / f"{job_id}.json"


def new_job(project: str, kind: Kind, cause: str) -> Job:
    created = time.time()
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(created))
    return Job(f"{kind}-{stamp}-{token_hex(3)}", project, kind, cause, created=created)


class JobQueue(Protocol):
    """Where jobs wait and run: in this process, or in workers."""

    def submit(self, project: str, kind: Kind, cause: str) -> Job:
        """The job that will learn what is known now: a new one, or one that has not read the annotations yet.

        At most one runs and one waits, for each project and kind. Raises Unavailable.
        """

    def cancel(self, job_id: str) -> Job:
        """Ends a job that waits or runs; raises NotFound."""


class RunningJob:
    """What a job may say of itself while it runs; saying anything raises JobStopped when it must end."""

    def __init__(self, job: Job, store: JobStore, stopping: Callable[[], str]) -> None:
        self.job = job
        self._store = store
        self._stopping = stopping
        self._saved = 0.0
        self._told = ""

    def progress(self, record: dict[str, Any]) -> None:
        """Notes where the job is; keeps what an earlier record said of the same phase."""
        self.check()
        same = record.get("phase", self.job.progress.get("phase")) == self.job.progress.get("phase")
        self.job = replace(self.job, progress={**self.job.progress, **record} if same else record)
        if time.monotonic() - self._saved > PROGRESS_SECONDS or not same:
            self._store.save(self.job, durable=False)
            self._saved = time.monotonic()

    def annotations_were_read(self) -> None:
        """From here on, what is annotated needs another job."""
        self.job = replace(self.job, annotations_read=True)
        self._store.save(self.job)

    def check(self) -> None:
        if reason := self._stopping():
            raise JobStopped(reason)


Work = Callable[[RunningJob], dict[str, Any]]


def run_job(job: Job, store: JobStore, work: Work, stopping: Callable[[], str]) -> Job:
    """Runs a job and keeps its record; a job that must end because the process does stays queued for the next."""
    if job.attempts >= MAX_ATTEMPTS:
        error = f"the process died {job.attempts} times while this job ran; is there too little memory?"
        return _finish(replace(job, status="failed", error=error), store)
    job = replace(job, status="started", started=time.time(), attempts=job.attempts + 1, annotations_read=False)
    store.save(job)
    log.info("job %s: started (%s)", job.id, job.cause)
    running = RunningJob(job, store, stopping)
    try:
        result = work(running)
    except JobStopped as stopped:
        if str(stopped) == SHUTDOWN:
            log.info("job %s: interrupted by the shutdown; it goes on at the next start", job.id)
            interrupted = replace(running.job, status="queued", attempts=job.attempts - 1)
            store.save(interrupted)
            return interrupted
        return _finish(replace(running.job, status="canceled", error=str(stopped)), store)
    except BackendError as error:
        return _finish(replace(running.job, status="failed", error=str(error)), store)
    except Exception as error:
        log.exception("job %s failed", job.id)
        return _finish(replace(running.job, status="failed", error=f"{type(error).__name__}: {error}"), store)
    return _finish(replace(running.job, status="finished", result=result), store)


SHUTDOWN = "the server shuts down"


def _finish(job: Job, store: JobStore) -> Job:
    job = replace(job, ended=time.time())
    store.save(job)
    store.thin_out(job.project)
    if job.error:
        log.warning("job %s: %s: %s", job.id, job.status, job.error)
    else:
        log.info("job %s: %s", job.id, job.status)
    return job


class ThreadQueue:
    """Runs jobs in the server's own process: one thread for each kind, so that none waits behind a long one."""

    def __init__(self, store: JobStore, work: Work) -> None:
        self._store, self._work = store, work
        self._lock = threading.Condition()
        self._waiting: dict[Kind, list[Job]] = {kind: [] for kind in KINDS}
        self._running: dict[Kind, RunningJob | None] = dict.fromkeys(KINDS)
        self._canceled: set[str] = set()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._run, args=(kind,), name=f"jobs-{kind}", daemon=True) for kind in KINDS
        ]

    def start(self) -> None:
        """Takes up what an earlier process left, then what is submitted."""
        for job in self._store.all():
            if job.unfinished:
                if job.status == "started":
                    log.warning("job %s was running when the process died; it is started again", job.id)
                self._enqueue(replace(job, status="queued", progress={}))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the running jobs at their next step; they go on at the next start."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()

    def submit(self, project: str, kind: Kind, cause: str) -> Job:
        with self._lock:
            waiting = next((job for job in self._waiting[kind] if job.project == project), None)
            if waiting:
                return waiting
            running = self._running[kind]
            if running and running.job.project == project and not running.job.annotations_read:
                return running.job
            job = new_job(project, kind, cause)
            self._enqueue(job)
            return job

    def _enqueue(self, job: Job) -> None:
        with self._lock:
            self._store.save(job)
            self._waiting[job.kind].append(job)
            self._lock.notify_all()

    def cancel(self, job_id: str) -> Job:
        with self._lock:
            job = self._store.get(job_id)
            queue = self._waiting[job.kind]
            if any(waiting.id == job_id for waiting in queue):
                queue[:] = [waiting for waiting in queue if waiting.id != job_id]
                return _finish(replace(job, status="canceled", error=CANCELED), self._store)
            if job.unfinished:
                self._canceled.add(job_id)
            return job

    def _run(self, kind: Kind) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._stopping or self._waiting[kind])
                if self._stopping:
                    return
                job = self._waiting[kind].pop(0)
                self._running[kind] = RunningJob(job, self._store, lambda: "")
            self._run_one(job)

    def _run_one(self, job: Job) -> None:
        run_job(job, self._store, self._work_on, lambda: self._why_stop(job.id))
        with self._lock:
            self._running[job.kind] = None
            self._canceled.discard(job.id)

    def _work_on(self, running: RunningJob) -> dict[str, Any]:
        with self._lock:
            self._running[running.job.kind] = running
        return self._work(running)

    def _why_stop(self, job_id: str) -> str:
        if job_id in self._canceled:
            return CANCELED
        return SHUTDOWN if self._stopping else ""


CANCELED = "it was canceled"
