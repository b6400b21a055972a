"""An RQ worker for training jobs, and the function that runs one."""

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from types import FrameType

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError
from rq import Queue, Worker, worker_registration
from rq.executions import Execution
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer
from rq.utils import now

from my_backend import context, files
from my_backend.errors import NotFound
from my_backend.jobs.embedding_job import EmbeddingJob
from my_backend.jobs.queue import submit_correction
from my_backend.jobs.record import EMBED, KINDS, Job, Kind
from my_backend.jobs.rq_queue import Handover, OwnJob, OwnQueue, RqQueue, connect, rq_queue, worker_keys
from my_backend.jobs.run import Work, run_job, yield_to_others
from my_backend.jobs.store import JobStore, claimed_model_dir
from my_backend.jobs.training_job import TrainingJob
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media import media_pool
from my_backend.log.setup import set_up_logs
from my_backend.projects.registry import Projects
from my_backend.serving.model_loader import ModelFactory
from my_backend.settings import Settings, read_settings
from safe_http.redaction import said

log = logging.getLogger(__name__)

# With RQ's own values a dead worker's job is found after up to ten minutes; with these, after 11 seconds.
MONITORING_SECONDS = 3  # between heartbeats of a running job
LEASE_SECONDS = 10  # after which a job without a heartbeat is handed to another worker
SILENT_SECONDS = 12  # after which a worker without a heartbeat counts as gone
WORKER_TTL_SECONDS = 20  # RQ waits for a job 15 s less than this, and does other work only in between
MAINTENANCE_SECONDS = 10  # between maintenance runs, which find jobs of dead workers if no server is running
RECONNECT_SECONDS = 1.0
CLAIM_SECONDS = 0.5  # comparing records with Redis holds a claim only for milliseconds

PR_SET_PDEATHSIG = 1

_shutting_down = threading.Event()
_settings: Settings | None = None  # of the worker, from which the processes of its jobs are forked


def perform(job_id: str) -> None:
    """Runs the job with this id in this process; RQ calls it with the id as the only argument."""
    settings = _settings or read_settings()  # not what someone has written to `.env` since
    projects = Projects.of(settings)
    store = JobStore(settings.model_dir / "projects")
    with ExitStack() as held, context.working_for(job=job_id):
        job = _begin(job_id, store, held)
        if job:
            if job.kind != "head":
                yield_to_others()
            pool = media_pool()
            held.callback(pool.shutdown, cancel_futures=True)
            connections = Connections(settings)
            new_model = ModelFactory(settings, projects, connections, pool)
            queue = RqQueue(settings, store)  # only writes a record; a server hands the job over
            work: Work
            if job.kind == EMBED:
                work = EmbeddingJob(
                    projects, connections, new_model, lambda project: queue.submit(project, EMBED, job.cause)
                )
            else:
                work = TrainingJob(
                    settings, projects, store, connections, new_model, lambda project: submit_correction(queue, project)
                )
            try:
                run_job(job, store, work, _shutting_down.is_set)
            finally:  # this process ends with the job, so nobody scrapes its counts
                store.tally.add([new_model.images.registry, new_model.embeddings().registry])


def _begin(job_id: str, store: JobStore, held: ExitStack) -> Job | None:
    """Claims the job until `held` is closed; returns None if there is nothing to do."""
    try:
        _claim(store.get(job_id), store, held)
        with store.changing():
            job = store.get(job_id)
            if not job.unfinished:
                return None
            job = replace(job, status="started")  # from here on, canceling means asking it to end
            store.update(job, sync="data")
            return job
    except NotFound:
        log.info("job %s: its project was deleted", job_id)
    except files.InUse:
        log.info("job %s skipped: it, or another job of its kind in this project, is already running", job_id)
    return None


def _claim(job: Job, store: JobStore, held: ExitStack) -> None:
    deadline = time.monotonic() + CLAIM_SECONDS
    while True:
        try:
            held.enter_context(store.claimed(job))
            return
        except files.InUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class _Outage(logging.Filter):
    """Passes RQ's messages about an unreachable Redis once, not every second and with tracebacks."""

    said = False

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], RedisError):
            return False  # `work` logs it
        is_outage = "could not connect to Redis" in str(record.msg)
        passes = not (is_outage and self.said)
        self.said = self.said or is_outage
        return passes


_outage = _Outage()


class TrainingWorker(Worker):
    """Forks a process for each job; on a stop the job saves a checkpoint and continues in another worker."""

    job_class, queue_class = OwnJob, OwnQueue
    max_connection_wait_time = 2.0  # RQ's default of a minute would keep jobs waiting after Redis is back
    hand_over: Handover  # set by `work`
    stopping = False

    def get_heartbeat_ttl(self, job: RqJob, working_time: float = 0.0) -> int:
        return LEASE_SECONDS

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Sends a heartbeat and registers the worker again, in case Redis has lost its data."""
        super().heartbeat(SILENT_SECONDS, pipeline)
        _outage.said = False
        commands: Redis = self.connection if pipeline is None else pipeline
        commands.hset(self.key, mapping=self.serialize())
        worker_registration.register(self, pipeline)

    # A job keeps running without Redis.

    def maintain_heartbeats(self, job: RqJob, execution: Execution) -> None:
        with suppress(RedisError):
            super().maintain_heartbeats(job, execution)

    def subscribe(self) -> None:
        """Does nothing: the worker takes no commands from Redis, and jobs are canceled by their records."""

    def check_for_suspension(self, burst: bool) -> None:
        """Does nothing: `rq suspend` would stop all jobs without any problem being reported."""

    def execute_job(self, job: RqJob, queue: Queue) -> None:
        super().execute_job(job, queue)
        with suppress(RedisError):
            self.hand_over.after(job.id)

    def run_maintenance_tasks(self) -> None:
        """Removes ended jobs and dead workers. RQ's own version runs callbacks that jobs in Redis name."""
        for queue in self.queues:
            for registry in (queue.started_job_registry, queue.finished_job_registry, queue.failed_job_registry):
                self.connection.zremrangebyscore(registry.key, 0, time.time())
            if gone := [key for key in worker_keys(queue) if not self.connection.exists(key)]:
                for known in (worker_registration.WORKERS_BY_QUEUE_KEY % queue.name, self.redis_workers_keys):
                    self.connection.srem(known, *gone)
        self.last_cleaned_at = now()  # type: ignore[assignment]  # RQ doesn't declare its type
        self.hand_over()

    def handle_warm_shutdown_request(self) -> None:
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]
        self.stopping = True
        if self.horse_pid:
            with suppress(ProcessLookupError):
                os.kill(self.horse_pid, signal.SIGUSR1)

    def setup_work_horse_signals(self) -> None:
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]
        signal.signal(signal.SIGUSR1, _shut_down)
        # If the worker is killed, its job ends at the next step, as on a stop: nothing would track it any longer.
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGUSR1)
        if os.getppid() != self.pid:
            _shutting_down.set()


def _shut_down(number: int, frame: FrameType | None) -> None:
    _shutting_down.set()


def work(settings: Settings, kinds: tuple[Kind, ...] = KINDS) -> None:
    """Runs jobs of these kinds, in this order of priority, until it is stopped; waits while Redis is unreachable.

    Raises Conflict.
    """
    set_up_logs(settings)
    with claimed_model_dir(settings):  # forked job processes hold it, too
        _work(settings, kinds)


def _work(settings: Settings, kinds: tuple[Kind, ...]) -> None:
    global _settings
    _settings = settings
    projects = Projects.of(settings)
    pool = media_pool()
    # Imported once here, with its settings, and shared by the processes forked for jobs. Nothing is computed before the
    # fork.
    ModelFactory(settings, projects, Connections(settings), pool).load().settings()
    pool.shutdown()
    logging.getLogger("rq.worker").addFilter(_outage)
    while not _work_until_redis_goes(settings, kinds):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # RQ's handlers belong to the worker that has ended
        time.sleep(RECONNECT_SECONDS)


def _work_until_redis_goes(settings: Settings, kinds: tuple[Kind, ...]) -> bool:
    """Works until Redis becomes unreachable; returns whether the worker was asked to stop."""
    worker = None
    connection = connect(settings)
    try:
        worker = TrainingWorker(
            [rq_queue(settings, kind, connection) for kind in kinds],
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_SECONDS,
            maintenance_interval=MAINTENANCE_SECONDS,
            job_monitoring_interval=MONITORING_SECONDS,
            log_job_description=False,
        )
        worker.hand_over = Handover(settings, JobStore(settings.model_dir / "projects"), connection)
        worker.work(logging_level="WARNING")  # our own log lines report jobs
    except RedisError as error:
        if not _outage.said:
            log.warning("Redis is unreachable (%s); waiting for it. Check REDIS_URL", said(error).rstrip("."))
        _outage.said = True
    finally:
        connection.close()
    return worker is not None and worker.stopping


def is_worker_alive(settings: Settings) -> bool:
    """Whether Redis has a recent heartbeat from a worker on this host."""
    connection = connect(settings)
    try:
        workers = Worker.all(connection=connection, serializer=JSONSerializer)
        return any(worker.hostname == socket.gethostname() for worker in workers)
    except (RedisError, ValueError):  # ValueError: Redis contains data that our workers didn't write
        return False
    finally:
        connection.close()
