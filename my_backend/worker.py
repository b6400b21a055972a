"""An RQ worker for training jobs, and what it does with one."""

import logging
import os
import signal
import socket
import threading
from types import FrameType

from redis import Redis
from rq import Worker
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from my_backend import files
from my_backend.jobs import KINDS, JobStore, Kind, run_job, submit_correction, yield_to_others
from my_backend.logs import leave_rotation_to_the_parent, set_up_logs
from my_backend.media import media_pool
from my_backend.model_class import ModelFactory
from my_backend.projects import Projects
from my_backend.rq_queue import RqQueue, connect, rq_queue
from my_backend.settings import Settings, read_settings
from my_backend.training_job import TrainingJob

log = logging.getLogger(__name__)

# With RQ's own figures a dead worker's job is found after up to ten minutes; with these, within 45 seconds.
MONITORING_SECONDS = 5  # between heartbeats of a running job
LEASE_SECONDS = 15  # after which a job without a heartbeat is another worker's
MAINTENANCE_SECONDS = 10  # between looks for such jobs
WORKER_TTL_SECONDS = 30  # RQ waits for a job for 15 s less than this, and looks only in between

_shutting_down = threading.Event()


def perform(job_id: str) -> None:
    """Runs the job of that id in this process; called by RQ with nothing but the id."""
    settings = read_settings()
    projects = Projects(settings.model_dir / "projects")
    store = JobStore(settings.model_dir / "projects")
    pool = media_pool()
    leave_rotation_to_the_parent()
    try:
        new_model = ModelFactory(settings, projects, pool)
        queue = RqQueue(settings, store)  # only to write a record; a server hands it over
        work = TrainingJob(settings, projects, store, new_model, lambda project: submit_correction(queue, project))
        # A worker that was thought dead may still be at it.
        with files.claimed(store.workdir(store.get(job_id)) / "claim"):
            job = store.get(job_id)
            if job.kind == "full":
                yield_to_others()
            if job.unfinished:
                run_job(job, store, work, _shutting_down.is_set)
    finally:
        pool.shutdown(cancel_futures=True)


class TrainingWorker(Worker):
    """Forks a process for each job; a stop lets the job put down a checkpoint, and it goes on elsewhere."""

    def get_heartbeat_ttl(self, job: RqJob) -> int:
        return LEASE_SECONDS

    def handle_warm_shutdown_request(self) -> None:
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]
        if self.horse_pid:
            os.kill(self.horse_pid, signal.SIGUSR1)

    def setup_work_horse_signals(self) -> None:
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]
        signal.signal(signal.SIGUSR1, _shut_down)


def _shut_down(number: int, frame: FrameType | None) -> None:
    _shutting_down.set()


def work(settings: Settings, kinds: tuple[Kind, ...] = KINDS) -> None:
    """Works on jobs of these kinds until it is stopped; the first kinds first."""
    set_up_logs(settings, settings.log_file)
    projects = Projects(settings.model_dir / "projects")
    pool = media_pool()
    # Imported here, once: the processes that are forked for jobs start with it. Nothing is computed before the fork.
    ModelFactory(settings, projects, pool).load()
    pool.shutdown()
    connection: Redis = connect(settings)
    worker = TrainingWorker(
        [rq_queue(settings, kind, connection) for kind in kinds],
        connection=connection,
        serializer=JSONSerializer,
        worker_ttl=WORKER_TTL_SECONDS,
        maintenance_interval=MAINTENANCE_SECONDS,
        job_monitoring_interval=MONITORING_SECONDS,
        log_job_description=False,
    )
    worker.work(logging_level="WARNING")  # our own lines tell of jobs


def is_worker_alive(settings: Settings) -> bool:
    """Whether Redis has lately heard of a worker of this host."""
    connection = connect(settings)
    try:
        workers = Worker.all(connection=connection, serializer=JSONSerializer)
        return any(worker.hostname == socket.gethostname() for worker in workers)
    finally:
        connection.close()
