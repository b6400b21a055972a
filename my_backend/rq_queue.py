"""The queue that runs jobs in RQ workers, on as many machines as share Redis and MODEL_DIR.

The job records on disk are the truth; Redis only hands them to workers and may be lost at any moment. A thread in
each server compares the two and hands over again what Redis has lost.
"""

import logging
import threading
from dataclasses import replace

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, Retry, Worker
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from my_backend import files
from my_backend.jobs import MAX_ATTEMPTS, Job, JobStore, Kind, cancel_waiting, new_job
from my_backend.settings import Settings

log = logging.getLogger(__name__)

COMPARE_SECONDS = 2.0
CONNECT_SECONDS = 2.0
TIMEOUT_SECONDS: dict[Kind, int] = {"head": 3600, "full": 24 * 3600}
RESULT_SECONDS = 60  # RQ's own record of a job that ended; ours stays
WORK = "my_backend.worker.perform"

_GONE = (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.CANCELED, JobStatus.STOPPED)


def connect(settings: Settings) -> Redis:
    """A client for the configured Redis; nothing is sent yet."""
    return Redis.from_url(settings.redis, socket_connect_timeout=CONNECT_SECONDS, socket_timeout=CONNECT_SECONDS)


def rq_queue(settings: Settings, kind: Kind, connection: Redis) -> Queue:
    """RQ's queue for a kind of job: a worker can be reserved for one."""
    return Queue(f"{settings.rq_queue_name}-{kind}", connection=connection, serializer=JSONSerializer)


class RqQueue:
    """Submits by writing a record; a thread of its own talks to Redis, so that no request waits for it."""

    def __init__(self, settings: Settings, store: JobStore) -> None:
        self._store = store
        self._lock_file = settings.model_dir / ".jobs"
        self._connection = connect(settings)
        self._queues: dict[Kind, Queue] = {kind: rq_queue(settings, kind, self._connection) for kind in TIMEOUT_SECONDS}
        self._problem = ""
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Workers go on."""
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self._connection.close()

    def problem(self) -> str:
        """Why jobs do not run at the moment; "" where all is well."""
        return self._problem

    def submit(self, project: str, kind: Kind, cause: str) -> Job:
        with files.locked(self._lock_file):
            unread = [
                job
                for job in self._store.of_project(project)
                if job.kind == kind
                and (job.status == "queued" or (job.status == "started" and not job.annotations_read))
            ]
            # A waiting job reads what a running one no longer does.
            job = next((job for job in unread if job.status == "queued"), unread[0] if unread else None)
            if job is None:
                job = new_job(project, kind, cause)
                self._store.save(job)
        self._wake.set()
        return job

    def cancel(self, job_id: str) -> Job:
        job = self._store.get(job_id)
        if job.status == "queued":
            return cancel_waiting(job, self._store)
        if job.unfinished:
            self._store.request_cancel(job)
        return job

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._compare()
                problem = self._why_no_worker()
            except RedisError as error:
                problem = (
                    f"Redis cannot be reached ({type(error).__name__}): predictions go on, jobs are kept and start "
                    "when it is back; look at REDIS_URL"
                )
            except OSError as error:
                problem = f"The job records cannot be read: {error}"
            if problem != self._problem:
                log.warning(problem or "jobs run again")
                self._problem = problem
            self._wake.wait(COMPARE_SECONDS)
            self._wake.clear()

    def _compare(self) -> None:
        """Hands to Redis every unfinished job that it does not have."""
        for job in self._store.all():
            if not job.unfinished or self._has(job):
                continue
            # It may have ended while Redis was asked.
            job = self._store.get(job.id)
            if job.unfinished:
                self._hand_over(job)

    def _has(self, job: Job) -> bool:
        try:
            known = RqJob.fetch(job.id, connection=self._connection, serializer=JSONSerializer)
        except NoSuchJobError:
            return False
        if known.get_status(refresh=False) in _GONE:
            known.delete()
            return False
        return True

    def _hand_over(self, job: Job) -> None:
        if job.status == "started":
            log.warning("job %s: its worker is gone; it is handed to another", job.id)
            self._store.save(replace(job, status="queued"))
        try:
            self._queues[job.kind].enqueue_call(
                WORK,
                args=(job.id,),
                timeout=TIMEOUT_SECONDS[job.kind],
                result_ttl=RESULT_SECONDS,
                failure_ttl=RESULT_SECONDS,
                description=f"{job.kind} training of project {job.project}",
                job_id=job.id,
                retry=Retry(max=MAX_ATTEMPTS),
                unique=True,
            )
        except DuplicateJobError:
            log.debug("job %s: another server was faster", job.id)

    def _why_no_worker(self) -> str:
        for kind, queue in self._queues.items():
            if Worker.count(queue=queue) == 0:
                return f"No worker listens for {kind} jobs: start one with `python -m my_backend worker`"
        return ""
