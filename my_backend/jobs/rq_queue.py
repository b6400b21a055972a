"""The queue that runs jobs in RQ workers, on as many machines as share Redis and MODEL_DIR.

The job records on disk are the truth; Redis only hands them to workers and may be lost at any moment. Servers and idle
workers compare the two and hand over what Redis does not have: new jobs, those that it lost, those whose worker died.
"""

import logging
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue, Worker
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from my_backend import files
from my_backend.background import Background
from my_backend.errors import NotFound
from my_backend.jobs.job import KINDS, Job, JobStore, Kind, cancel_waiting, new_job, working_for
from my_backend.redaction import said
from my_backend.settings import Settings
from my_backend.troubles import Trouble

log = logging.getLogger(__name__)

COMPARE_SECONDS = 1.0
CONNECT_SECONDS = 2.0
HANDED_MILLISECONDS = 500  # in which a job is not handed over again
TIMEOUT_SECONDS: dict[Kind, int] = {"head": 3600, "full": 24 * 3600}
RESULT_SECONDS = 60  # RQ's own record of a job that ended; ours stays
WORK = "my_backend.jobs.worker.perform"


def connect(settings: Settings) -> Redis:
    """A client for the configured Redis; nothing is sent yet."""
    return Redis.from_url(
        settings.redis,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 1),  # for connections that a restart broke; whoever asks comes again anyway
    )


def rq_queue(settings: Settings, kind: Kind, connection: Redis) -> Queue:
    """RQ's queue for a kind of job: a worker can be reserved for one."""
    return Queue(f"{settings.rq_queue_name}-{kind}", connection=connection, serializer=JSONSerializer)


class Handover:
    """Hands to Redis the jobs whose turn it is and that it does not have."""

    def __init__(self, settings: Settings, store: JobStore, connection: Redis) -> None:
        self._store, self._connection = store, connection
        self._lock_file = settings.model_dir / ".handover"
        self.queues: dict[Kind, Queue] = {kind: rq_queue(settings, kind, connection) for kind in KINDS}

    def __call__(self, project: str = "*") -> None:
        """Of one project or of all; raises RedisError."""
        self._connection.ping()  # or one that Redis does not answer would keep the lock from those that it does
        with files.locked(self._lock_file):  # servers and workers do this by turns
            turns: dict[tuple[str, Kind], Job] = {}
            for job in self._store.unfinished(
                project
            ):  # of each project and kind only the oldest, so that one runs at a time
                turns.setdefault((job.project, job.kind), job)
            known = {kind: self._known(kind) for kind in {kind for _, kind in turns}}
            for job in turns.values():
                if job.id not in known[job.kind] and self._is_left(job):
                    self._enqueue(job)

    def after(self, job_id: str) -> None:
        """What waited for the end of this job, without a look at all other projects; raises RedisError."""
        with suppress(NotFound):
            self(self._store.get(job_id).project)

    def _known(self, kind: Kind) -> set[str]:
        """The jobs that wait in Redis, and those of which a worker has lately been heard."""
        queue = self.queues[kind]
        waiting = queue.get_job_ids()  # first: a job goes from here to there
        registry = queue.started_job_registry.key
        leased = cast(list[bytes], self._connection.zrangebyscore(registry, time.time(), "+inf"))
        return {*waiting, *(entry.decode().partition(":")[0] for entry in leased)}

    def _is_left(self, job: Job) -> bool:
        """Whether nobody is at it; it may run although Redis knows nothing of it, or have ended just now."""
        try:
            with self._store.claimed(job):
                return self._store.get(job.id).unfinished
        except (files.InUse, NotFound):
            return False

    def _enqueue(self, job: Job) -> None:
        # A worker that has just taken it is not known yet.
        if not self._connection.set(f"{self.queues[job.kind].key}:handed:{job.id}", 1, nx=True, px=HANDED_MILLISECONDS):
            return
        if job.status == "started":
            with working_for(job):
                log.warning("job %s: its worker is gone; it is handed to another", job.id)
        self._connection.delete(RqJob.key_for(job.id))  # what is left of it would expire while it waits
        self.queues[job.kind].enqueue_call(
            WORK,
            args=(job.id,),
            timeout=TIMEOUT_SECONDS[job.kind],
            result_ttl=RESULT_SECONDS,
            failure_ttl=RESULT_SECONDS,
            description=f"{job.kind} training of project {job.project}",
            job_id=job.id,
        )


class RqQueue(Background):
    """Submits by writing a record; a thread of its own talks to Redis, so that no request waits for it."""

    def __init__(self, settings: Settings, store: JobStore) -> None:
        super().__init__("jobs", patience=math.inf)
        self._store = store
        self._connection = connect(settings)
        self._hand_over = Handover(settings, store, self._connection)
        self._trouble: Trouble | None = None
        self._workers: Mapping[Kind, int] = {}

    def stop(self) -> None:
        """Workers go on."""
        super().stop()
        self._connection.close()

    def trouble(self) -> Trouble | None:
        """Why jobs do not run at the moment; None where all is well."""
        return self._trouble

    def workers(self) -> Mapping[Kind, int]:
        return self._workers

    def submit(self, project: str, kind: Kind, cause: str) -> Job:
        with self._store.changing():
            unread = [
                job
                for job in self._store.unfinished(project)
                if job.kind == kind and (job.status == "queued" or not job.annotations_read)
            ]
            # A waiting job reads what a running one no longer does.
            job = next((job for job in unread if job.status == "queued"), unread[0] if unread else None)
            if job is None:
                job = new_job(project, kind, cause)
                self._store.save(job)
        self._wake()
        return job

    def cancel(self, job_id: str) -> Job:
        with self._store.changing():  # or it could begin meanwhile
            job = self._store.get(job_id)
            if job.status == "queued":
                return cancel_waiting(job, self._store)
            if job.unfinished:
                self._store.request_cancel(job)
            return job

    def _look(self) -> float:
        trouble = self._compare()
        if trouble != self._trouble:
            log.warning("%s", trouble or "jobs run again")
            self._trouble = trouble
        return COMPARE_SECONDS

    def _compare(self) -> Trouble | None:
        """Hands over what is to be handed over; why that does not help, or None."""
        workers: Mapping[Kind, int] = {}
        try:
            self._hand_over()
            workers = workers_of(self._hand_over.queues, self._connection)
            return no_worker(workers)
        except RedisError as error:
            return redis_unreachable(error)
        except Exception as error:
            log.exception("the job records cannot be compared with Redis")
            return Trouble("redis", f"The job records cannot be compared with Redis: {said(error)}.")
        finally:
            self._workers = workers


def redis_unreachable(error: RedisError) -> Trouble:
    """Or it does not answer as it should."""
    return Trouble(
        "redis",
        f"Redis cannot be reached ({said(error).rstrip('.')}): predictions go on, trainings start when it is back.",
        "Look whether it runs, and at REDIS_URL.",
    )


def workers_of(queues: Mapping[Kind, Queue], connection: Redis) -> dict[Kind, int]:
    """How many listen for each kind; raises RedisError."""
    # The keys of workers that were killed expire; their names stay.
    names = {kind: Worker.all_keys(queue=queue) for kind, queue in queues.items()}
    return {kind: int(connection.exists(*some)) if some else 0 for kind, some in names.items()}


def no_worker(workers: Mapping[Kind, int]) -> Trouble | None:
    """Where nobody takes jobs of some kind."""
    kinds = [kind for kind, listening in workers.items() if not listening]
    if not kinds:
        return None
    return Trouble(
        "no-worker",
        f"No worker listens for {' and '.join(kinds)} jobs, so that none of them is trained.",
        "Start one with `python -m my_backend worker`; it needs the server's REDIS_URL, RQ_QUEUE_NAME and MODEL_DIR.",
    )
