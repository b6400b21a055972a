"""Checks of Redis and its workers, if they are used: do jobs get through?"""

import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError
from rq import Worker
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

from my_backend.diagnostics.doctor.check import Check
from my_backend.diagnostics.rules.jobs import (
    REFUSED_JOB,
    redis_clock_problems,
    redis_problems,
    redis_unreachable,
    waiting_problems,
    worker_problems,
)
from my_backend.errors import BackendError
from my_backend.jobs.record import KINDS
from my_backend.jobs.rq_queue import connect, has_refused, rq_queue, workers_of
from my_backend.jobs.store import JobStore
from my_backend.production_process import find_production
from my_backend.settings import Settings
from safe_http.redaction import said

Json = dict[str, Any]


def check_redis(settings: Settings) -> list[Check]:
    """Checks Redis itself, the workers, and the queued jobs."""
    if not settings.redis:
        try:
            production = find_production(settings.model_dir)
        except BackendError as error:
            return [Check("jobs", f"unknown: {error}")]
        settings = settings.model_copy(update={"redis_url": production.redis_url if production else ""})
    if not settings.redis:
        return [
            Check("jobs", "run in the server's process: REDIS_URL is not set, and `make production` is not running")
        ]
    connection = connect(settings)
    try:
        info: Json = connection.info()
        seconds, microseconds = connection.time()
        ahead = seconds + microseconds / 1e6 - time.time()
        workers = Worker.all(connection=connection, serializer=JSONSerializer)
        idle = [worker for worker in workers if worker.get_state() == "idle"]
        listening = workers_of({kind: rq_queue(settings, kind, connection) for kind in KINDS}, connection)
        refused = has_refused(connection)
    except RedisError as error:
        return [Check("Redis", problems=(redis_unreachable(said(error)),))]
    finally:
        connection.close()
    persistent = info.get("aof_enabled") or info.get("rdb_last_save_time", 0) > info.get("process_start_time", 0)
    lasting = f"{info.get('redis_version')}, {'persistent' if persistent else 'in memory only, which is enough'}"
    names = [f"{worker.hostname} ({', '.join(worker.queue_names())})" for worker in workers]
    queues = sorted({name for worker in workers for name in worker.queue_names()})
    missing = worker_problems(listening, queues)
    jobs = JobStore(settings.model_dir / "projects").unfinished()
    count = sum(job.status == "queued" for job in jobs)
    # If there is no worker, that is why they are waiting.
    late = [] if missing else waiting_problems(jobs, _kinds_of(settings, idle), time.time())
    foreign = [REFUSED_JOB] if refused else []
    return [
        Check("Redis", lasting, (*redis_problems(info), *redis_clock_problems(ahead), *foreign)),
        Check("workers", "; ".join(names), tuple(missing)),
        Check("jobs", f"{count} queued", tuple(late)),
    ]


def _kinds_of(settings: Settings, workers: Sequence[BaseWorker]) -> set[str]:
    names = {name for worker in workers for name in worker.queue_names()}
    return {kind for kind in KINDS if f"{settings.rq_queue_name}-{kind}" in names}
