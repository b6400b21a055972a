"""The queue that runs jobs in RQ workers, on all machines that share Redis and MODEL_DIR.

The job records on disk are authoritative; Redis only hands jobs to workers and may lose its data at any time. Servers
and idle workers compare the two and add what Redis lacks: new jobs, lost jobs, and jobs whose worker died.
"""

import json
import logging
import math
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from my_backend import files
from my_backend.background import Background
from my_backend.errors import NotFound
from my_backend.jobs.queue import QueueStatus
from my_backend.jobs.record import EMBED, KINDS, Job, Kind, is_job_id, new_job, working_for
from my_backend.jobs.run import cancel_waiting
from my_backend.jobs.store import JobStore
from my_backend.settings import Settings
from safe_http.redaction import said

log = logging.getLogger(__name__)

COMPARE_SECONDS = 1.0
CONNECT_SECONDS = 2.0
WORKER_START_SECONDS = 30.0  # a worker imports the model class before it listens
HANDED_MILLISECONDS = 500  # during which a job isn't handed over again
TIMEOUT_SECONDS: dict[Kind, int] = {"head": 3600, "full": 24 * 3600, "embed": 24 * 3600}
RESULT_SECONDS = 60  # for which RQ keeps its own record of an ended job; ours stays
WORK = "my_backend.jobs.worker.perform"
# The fields that RQ writes for our jobs. Callbacks, webhooks, retries, repeats and dependencies would add others.
FIELDS = {
    "created_at",
    "data",
    "description",
    "ended_at",
    "enqueued_at",
    "failure_ttl",
    "last_heartbeat",
    "origin",
    "result_ttl",
    "started_at",
    "status",
    "timeout",
    "worker_name",
}
LONGEST_DATA = 1000  # bytes of a job's function and arguments; ours take about 100
REFUSED = "image-classifier:refused"  # a key that exists for REFUSED_SECONDS after a worker refused a job
REFUSED_SECONDS = 3600


def connect(settings: Settings) -> Redis:
    """A client for the configured Redis; nothing is sent yet."""
    return Redis.from_url(
        settings.redis,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=CONNECT_SECONDS,
        # For connections broken by a restart. A hanging Redis isn't asked twice: the next comparison comes anyway.
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )


class OwnJob(RqJob):
    """A job in Redis that calls our own function with its id as the only argument; RQ sees no other jobs.

    RQ imports and calls any function or callback that a job names. Without this check, anyone who can write to Redis
    could run any code in a worker.
    """

    @classmethod
    def fetch(cls, id: str, connection: Redis | None = None, serializer: Any = None) -> Self:  # noqa: A002
        """Fetches a job; a job that isn't ours is removed from Redis and raises NoSuchJobError."""
        assert connection
        if not is_job_id(id):
            raise _refused(connection, id, "has an id that this backend doesn't use")
        return cast(Self, super().fetch(id, connection, serializer))

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Checks that the job is ours, and takes only its queue from Redis; raises NoSuchJobError."""
        record = {name.decode(errors="replace"): value for name, value in raw_data.items() if value}
        call = json.dumps([WORK, None, [self.id], {}])
        if foreign := sorted(record.keys() - FIELDS):
            raise _refused(self.connection, self.id, f"has fields that this backend doesn't write: {foreign}")
        if _inflated(record.get("data", b"")) != call.encode():
            raise _refused(self.connection, self.id, "calls another function or has arguments other than its id")
        kind = cast(Kind, self.id.partition("-")[0])
        self.data = call.encode()
        self.origin = record.get("origin", b"").decode(errors="replace")
        self.timeout = TIMEOUT_SECONDS[kind]
        self.result_ttl = self.failure_ttl = RESULT_SECONDS


def _inflated(data: bytes) -> bytes:
    """Decompresses only the start of RQ's data: a few kilobytes can expand to gigabytes."""
    try:
        return zlib.decompressobj().decompress(data, LONGEST_DATA)
    except zlib.error:
        return b""


def _refused(connection: Redis, job_id: str, why: str) -> NoSuchJobError:
    """Removes a job that isn't ours; returns the error that makes RQ skip it."""
    log.error("refused a job in Redis and removed it: job %.100r %.300s", job_id, why)
    connection.delete(OwnJob.key_for(job_id))
    connection.set(REFUSED, 1, ex=REFUSED_SECONDS)
    return NoSuchJobError(why)


class OwnQueue(Queue):
    """RQ's queue, limited to our own jobs."""

    job_class = OwnJob

    @classmethod
    def lpop(cls, queue_keys: Any, timeout: int | None, connection: Redis | None = None) -> Any:
        """Like RQ's method, but decodes any bytes, so that an id that isn't text is refused like other foreign ids."""
        taken = super().lpop(queue_keys, timeout, connection)
        return taken and (taken[0], taken[1].decode(errors="replace"))

    @classmethod
    def lmove(cls, connection: Redis, queue_key: str, timeout: int | None) -> Any:
        """Keeps no list of the jobs that a worker has taken: if it dies, the records show what is left to do."""
        return cls.lpop([queue_key], timeout, connection)

    # Our jobs have no dependents, and Redis may name any.

    def move_dependents_to_ready(self, *_: Any, **__: Any) -> dict[str, list[str]]:
        return {}

    def enqueue_dependents(self, *_: Any, **__: Any) -> dict[str, list[str]]:
        return {}


def rq_queue(settings: Settings, kind: Kind, connection: Redis) -> OwnQueue:
    """RQ's queue for a kind of job; a worker can be reserved for one kind."""
    return OwnQueue(f"{settings.rq_queue_name}-{kind}", connection=connection, serializer=JSONSerializer)


def _listened_for(kind: Kind) -> Kind:
    """The kind whose queue such jobs wait in. Workers for long training runs embed, too: no other ones are needed."""
    return "full" if kind == EMBED else kind


class Handover:
    """Adds jobs to Redis if it is their turn and Redis doesn't have them."""

    def __init__(self, settings: Settings, store: JobStore, connection: Redis) -> None:
        self._store, self._connection = store, connection
        self._lock_file = settings.model_dir / ".handover"
        self._told: set[str] = set()  # errors that have been logged
        self.queues: dict[Kind, OwnQueue] = {kind: rq_queue(settings, kind, connection) for kind in KINDS}

    def __call__(self, project: str = "*") -> None:
        """Hands over the jobs of one project or of all; raises RedisError."""
        self._connection.ping()  # otherwise a process that can't reach Redis would block others that can
        with files.locked(self._lock_file):  # servers and workers take turns
            turns: dict[tuple[str, str], Job] = {}
            # Only the oldest training of each project and kind, so that one runs at a time.
            for job in self._store.unfinished(project, (*KINDS, EMBED)):
                turns.setdefault((job.project, job.id if job.kind == EMBED else job.kind), job)
            known = {kind: self._known(kind) for kind in {_listened_for(job.kind) for job in turns.values()}}
            for job in turns.values():
                if job.id not in known[_listened_for(job.kind)] and self._is_left(job):
                    self._enqueue(job)

    def after(self, job_id: str) -> None:
        """Hands over the jobs that waited for this one, without reading all other projects; raises RedisError."""
        with suppress(NotFound):
            self(self._store.get(job_id).project)

    def _known(self, kind: Kind) -> set[str]:
        """The jobs that wait in Redis, and those with a recent heartbeat from a worker."""
        queue = self.queues[kind]
        waiting = cast(
            list[bytes], self._connection.lrange(queue.key, 0, -1)
        )  # first, because jobs move from here to the registry
        registry = queue.started_job_registry.key
        leased = cast(list[bytes], self._connection.zrangebyscore(registry, time.time(), "+inf"))
        return {entry.decode(errors="replace").partition(":")[0] for entry in (*waiting, *leased)}

    def _is_left(self, job: Job) -> bool:
        """Whether the job is left to run: it may be running unknown to Redis, or have just ended."""
        try:
            with self._store.claimed(job):
                return self._store.get(job.id).unfinished
        except (files.InUse, NotFound):
            return False
        except OSError as error:  # the jobs of other projects must still run
            if (why := said(error)) not in self._told:
                self._told.add(why)
                log.error("project %s: can't hand over job %s: %s", job.project, job.id, why)
            return False

    def _enqueue(self, job: Job) -> None:
        # A worker that has just taken the job isn't registered yet.
        queue = self.queues[_listened_for(job.kind)]
        if not self._connection.set(f"{queue.key}:handed:{job.id}", 1, nx=True, px=HANDED_MILLISECONDS):
            return
        if job.status == "started":
            with working_for(job):
                log.warning("job %s: its worker is gone; handing it to another one", job.id)
        self._connection.delete(OwnJob.key_for(job.id))  # remains of an earlier run would expire while it waits
        queue.enqueue_call(
            WORK,
            args=(job.id,),
            timeout=TIMEOUT_SECONDS[job.kind],
            result_ttl=RESULT_SECONDS,
            failure_ttl=RESULT_SECONDS,
            description=f"{job.kind} job of project {job.project}",
            job_id=job.id,
        )


class RqQueue(Background):
    """Submits jobs by writing records; a thread talks to Redis, so that no request waits for it."""

    def __init__(self, settings: Settings, store: JobStore) -> None:
        super().__init__("jobs", patience=math.inf)
        self._store = store
        self._connection = connect(settings)
        self._hand_over = Handover(settings, store, self._connection)
        self._status = QueueStatus()
        self._starting_until = time.monotonic() + WORKER_START_SECONDS
        self._seen: set[Kind] = set()  # kinds of jobs that a worker has listened for

    def stop(self) -> None:
        """Stops the thread; workers continue."""
        super().stop()
        self._connection.close()

    def status(self) -> QueueStatus:
        return self._status

    def submit(self, project: str, kind: Kind, cause: str) -> Job:
        with self._store.changing():
            unread = [job for job in self._store.unfinished(project, (kind,)) if self._store.will_read(job)]
            # A waiting job will read annotations that a running one no longer reads.
            job = next((job for job in unread if job.status == "queued"), unread[0] if unread else None)
            if job is None:
                job = new_job(project, kind, cause)
                self._store.add(job)
        self._wake()
        return job

    def cancel(self, job_id: str) -> Job:
        with self._store.changing():  # otherwise it could start meanwhile
            job = self._store.get(job_id)
            if job.status == "queued":
                return cancel_waiting(job, self._store)
            if job.unfinished:
                self._store.request_cancel(job)
            return job

    def _tick(self) -> float:
        before, self._status = self._status, self._compare()
        if (self._status.state, self._status.why) != (before.state, before.why):
            if self._status.state == "ready":
                log.info("the job queue is ready")
            elif self._status.state != "starting":
                log.warning("the job queue isn't ready: %s", f"{self._status.state} {self._status.why}".strip())
        return COMPARE_SECONDS

    def _compare(self) -> QueueStatus:
        """Hands over jobs; returns whether they can run."""
        workers: Mapping[Kind, int] = {}
        try:
            # Before handing over, which also needs the disk, and a Redis that can be written.
            workers = workers_of(self._hand_over.queues, self._connection)
            missing = {kind for kind, listening in workers.items() if not listening}
            self._seen |= workers.keys() - missing
            if missing and is_replica(self._connection):
                return QueueStatus("replica", workers)
            self._hand_over()
            if missing:
                starting = time.monotonic() < self._starting_until and not missing & self._seen
                return QueueStatus("starting" if starting else "no worker", workers)
            return QueueStatus("refused a job" if has_refused(self._connection) else "ready", workers)
        except RedisError as error:
            return QueueStatus("unreachable", workers, said(error))
        except Exception as error:
            if self._status.why != said(error):  # log it once, not every second
                log.exception("can't compare the job records with Redis")
            return QueueStatus("failed", workers, said(error))


def is_replica(connection: Redis) -> bool:
    """Whether this Redis is read-only, so that no worker can register; raises RedisError."""
    return bool(connection.info("replication").get("role") == "slave")


def has_refused(connection: Redis) -> bool:
    """Whether a worker refused a job within the last hour; raises RedisError."""
    return bool(connection.exists(REFUSED))


def worker_keys(queue: Queue) -> set[bytes]:
    """The keys of all workers that have listened to this queue; raises RedisError."""
    return cast(set[bytes], queue.connection.smembers(WORKERS_BY_QUEUE_KEY % queue.name))


def workers_of(queues: Mapping[Kind, OwnQueue], connection: Redis) -> dict[Kind, int]:
    """How many workers listen for each kind; raises RedisError."""
    # The keys of killed workers expire, but their names stay.
    names = {kind: worker_keys(queue) for kind, queue in queues.items()}
    return {kind: int(connection.exists(*some)) if some else 0 for kind, some in names.items()}
