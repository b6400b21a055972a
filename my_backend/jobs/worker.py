"""An RQ worker for training jobs, and what it does with one."""

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
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer
from rq.utils import now

from my_backend import context, files
from my_backend.errors import NotFound
from my_backend.jobs.job import (
    KINDS,
    Job,
    JobStore,
    Kind,
    claimed_model_dir,
    run_job,
    submit_correction,
    yield_to_others,
)
from my_backend.jobs.rq_queue import Handover, OwnJob, OwnQueue, RqQueue, connect, rq_queue, worker_keys
from my_backend.jobs.training_job import TrainingJob
from my_backend.label_studio.media import media_pool
from my_backend.log.setup import collect_output, set_up_logs
from my_backend.projects.registry import Projects
from my_backend.redaction import said
from my_backend.serving.model_loader import ModelFactory
from my_backend.settings import Settings, read_settings

log = logging.getLogger(__name__)

# With RQ's own figures a dead worker's job is found after up to ten minutes; with these, after 11 seconds.
MONITORING_SECONDS = 3  # between heartbeats of a running job
LEASE_SECONDS = 10  # after which a job without a heartbeat is another worker's
SILENT_SECONDS = 12  # after which a worker without a heartbeat is gone
WORKER_TTL_SECONDS = 20  # RQ waits for a job for 15 s less than this, and looks for other things only in between
MAINTENANCE_SECONDS = 10  # between such looks: for jobs of dead workers where no server is there to do it
RECONNECT_SECONDS = 1.0
CLAIM_SECONDS = 0.5  # whoever compares records with Redis holds a claim for milliseconds

PR_SET_PDEATHSIG = 1

_shutting_down = threading.Event()


def perform(job_id: str) -> None:
    """Runs the job of that id in this process; called by RQ with nothing but the id."""
    settings = read_settings()
    projects = Projects(settings.model_dir / "projects")
    store = JobStore(settings.model_dir / "projects")
    with ExitStack() as held, context.working_for(job=job_id):
        job = _begin(job_id, store, held)
        if job:
            if job.kind == "full":
                yield_to_others()
            pool = media_pool()
            held.callback(pool.shutdown, cancel_futures=True)
            new_model = ModelFactory(settings, projects, pool)
            queue = RqQueue(settings, store)  # only to write a record; a server hands it over
            work = TrainingJob(settings, projects, store, new_model, lambda project: submit_correction(queue, project))
            try:
                run_job(job, store, work, _shutting_down.is_set)
            finally:  # this process ends with the job, and is never asked for its figures
                store.tally.add([new_model.images.registry, new_model.embeddings().registry])


def _begin(job_id: str, store: JobStore, held: ExitStack) -> Job | None:
    """The job, claimed for as long as `held` is; None where there is nothing to do."""
    try:
        _claim(store.get(job_id), store, held)
        with store.changing():
            job = store.get(job_id)
            if not job.unfinished:
                return None
            job = replace(job, status="started")  # from here on, who cancels it must ask it to end
            store.update(job, durable=False)
            return job
    except NotFound:
        log.info("job %s: its project was deleted", job_id)
    except files.InUse:
        log.info("job %s: another process is at it, or at one of the same kind", job_id)
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
    """Lets what RQ says of a Redis that is away pass once, not each second and with tracebacks."""

    said = False

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], RedisError):
            return False  # `work` says it
        is_outage = "could not connect to Redis" in str(record.msg)
        passes = not (is_outage and self.said)
        self.said = self.said or is_outage
        return passes


_outage = _Outage()


class TrainingWorker(Worker):
    """Forks a process for each job; a stop lets the job put down a checkpoint, and it goes on elsewhere."""

    job_class, queue_class = OwnJob, OwnQueue
    max_connection_wait_time = 2.0  # RQ's own: a minute, in which jobs would wait though Redis is back
    hand_over: Handover  # set by `work`
    stopping = False

    def get_heartbeat_ttl(self, job: RqJob) -> int:
        return LEASE_SECONDS

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Says that it lives, and for whom, since Redis may have lost that."""
        super().heartbeat(SILENT_SECONDS, pipeline)
        _outage.said = False
        commands: Redis = self.connection if pipeline is None else pipeline
        commands.hset(self.key, mapping=self.serialize())
        worker_registration.register(self, pipeline)

    # A job runs on without Redis.

    def maintain_heartbeats(self, job: RqJob) -> None:
        with suppress(RedisError):
            super().maintain_heartbeats(job)

    def set_current_job_working_time(self, current_job_working_time: float, pipeline: Pipeline | None = None) -> None:
        with suppress(RedisError):
            super().set_current_job_working_time(current_job_working_time, pipeline)

    def subscribe(self) -> None:
        """Takes no orders through Redis: jobs are canceled by their records."""

    def check_for_suspension(self, burst: bool) -> None:
        """Does nothing: `rq suspend` would stop all jobs, and no problem would say so."""

    def execute_job(self, job: RqJob, queue: Queue) -> None:
        super().execute_job(job, queue)
        with suppress(RedisError):
            self.hand_over.after(job.id)

    def run_maintenance_tasks(self) -> None:
        """Forgets ended jobs and dead workers. RQ's own version calls callbacks that jobs in Redis name."""
        for queue in self.queues:
            for registry in (queue.started_job_registry, queue.finished_job_registry, queue.failed_job_registry):
                self.connection.zremrangebyscore(registry.key, 0, time.time())
            if gone := [key for key in worker_keys(queue) if not self.connection.exists(key)]:
                for known in (worker_registration.WORKERS_BY_QUEUE_KEY % queue.name, self.redis_workers_keys):
                    self.connection.srem(known, *gone)
        self.last_cleaned_at = now()  # type: ignore[assignment]  # RQ has no type for it
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
        # A job whose worker was killed ends at its next step, as at a stop: nobody would hear of it any more.
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGUSR1)
        if os.getppid() != self.pid:
            _shutting_down.set()


def _shut_down(number: int, frame: FrameType | None) -> None:
    _shutting_down.set()


def work(settings: Settings, kinds: tuple[Kind, ...] = KINDS) -> None:
    """Works on jobs of these kinds until it is stopped; the first kinds first. Waits for a Redis that is gone.

    Raises Conflict.
    """
    collect_output(settings, "worker", settings.log_file)
    set_up_logs(settings)
    with claimed_model_dir(settings):  # the processes that are forked for jobs hold it, too
        _work(settings, kinds)


def _work(settings: Settings, kinds: tuple[Kind, ...]) -> None:
    projects = Projects(settings.model_dir / "projects")
    pool = media_pool()
    # Imported here, once: the processes that are forked for jobs start with it. Nothing is computed before the fork.
    ModelFactory(settings, projects, pool).load()
    pool.shutdown()
    logging.getLogger("rq.worker").addFilter(_outage)
    while not _work_until_redis_goes(settings, kinds):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # RQ's handlers belong to a worker that is no more
        time.sleep(RECONNECT_SECONDS)


def _work_until_redis_goes(settings: Settings, kinds: tuple[Kind, ...]) -> bool:
    """Whether it was asked to stop."""
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
        worker.work(logging_level="WARNING")  # our own lines tell of jobs
    except RedisError as error:
        if not _outage.said:
            log.warning("Redis cannot be reached (%s): waiting for it; look at REDIS_URL", said(error).rstrip("."))
        _outage.said = True
    finally:
        connection.close()
    return worker is not None and worker.stopping


def is_worker_alive(settings: Settings) -> bool:
    """Whether Redis has lately heard of a worker of this host."""
    connection = connect(settings)
    try:
        workers = Worker.all(connection=connection, serializer=JSONSerializer)
        return any(worker.hostname == socket.gethostname() for worker in workers)
    except (RedisError, ValueError):  # ValueError: Redis holds what no worker of ours wrote
        return False
    finally:
        connection.close()
