"""Checks of Redis and its workers, if they are used: do jobs get through?"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError
from rq import Worker
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

from my_backend.diagnostics.doctor.check import Check
from my_backend.jobs.job import KINDS, Job, JobStore
from my_backend.jobs.rq_queue import connect, foreign_jobs, no_worker, redis_unreachable, rq_queue, workers_of
from my_backend.problems import Problem
from my_backend.settings import Settings

Json = dict[str, Any]

OLDEST_REDIS = 5  # the oldest that RQ supports
FULL = 0.9  # of maxmemory
CLOCK_SECONDS = 5.0  # a worker counts as gone after 12 s without a heartbeat
TAKEN_SECONDS = 30.0  # within which an idle worker should have taken a job
PATIENCE_SECONDS = 600.0


def check_redis(settings: Settings) -> list[Check]:
    """Checks Redis itself, the workers, and the queued jobs."""
    if not settings.redis:
        settings = settings.model_copy(update={"redis_url": redis_of_production(settings)})
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
        missing = no_worker(workers_of({kind: rq_queue(settings, kind, connection) for kind in KINDS}, connection))
        foreign = foreign_jobs(connection)
    except RedisError as error:
        return [Check("Redis", problems=(redis_unreachable(error),))]
    finally:
        connection.close()
    persistent = info.get("aof_enabled") or info.get("rdb_last_save_time", 0) > info.get("process_start_time", 0)
    said = f"{info.get('redis_version')}, {'persistent' if persistent else 'in memory only, which is enough'}"
    names = [f"{worker.hostname} ({', '.join(worker.queue_names())})" for worker in workers]
    jobs = JobStore(settings.model_dir / "projects").unfinished()
    count = sum(job.status == "queued" for job in jobs)
    # If there is no worker, that is why they are waiting.
    late = () if missing else waiting_problems(jobs, _kinds_of(settings, idle), time.time())
    return [
        Check("Redis", said, (*redis_problems(info), *clock_problems(ahead), *([foreign] if foreign else ()))),
        Check("workers", "; ".join(names), (_missing(missing, workers),) if missing else ()),
        Check("jobs", f"{count} queued", late),
    ]


def redis_of_production(settings: Settings) -> str:
    """The REDIS_URL of the `make production` that is running on this MODEL_DIR; "" if there is none.

    Supervisor's pid file may be stale after a crash, so the URL is read from the process' own environment (Linux).
    """
    folder = settings.model_dir / "production"
    try:
        number = int((folder / "supervisord.pid").read_text())
        lines = Path(f"/proc/{number}/environ").read_text("utf-8", "replace").split("\0")
        given = dict(line.split("=", 1) for line in lines if "=" in line)
        return given["REDIS_URL"] if Path(given["PRODUCTION_DIR"]).samefile(folder) else ""
    except (OSError, ValueError, KeyError):
        return ""


def _missing(problem: Problem, workers: Sequence[BaseWorker]) -> Problem:
    """Adds the workers that listen to other queues to the problem."""
    listening = sorted({name for worker in workers for name in worker.queue_names()})
    if not listening:
        return problem
    details = (f"Workers on this Redis listen to {', '.join(listening)}: do they have the server's RQ_QUEUE_NAME?",)
    return Problem(problem.code, problem.message, problem.hint, details=details)


def redis_problems(info: Json) -> list[Problem]:
    """Problems with Redis itself; `info` is the answer to its INFO command."""
    found = []
    version = str(info.get("redis_version") or "")
    if version and int(version.partition(".")[0]) < OLDEST_REDIS:
        found.append((f"Redis {version} is too old", f"Install version {OLDEST_REDIS} or newer."))
    if info.get("role") == "slave":
        found.append(("It is a replica, which accepts no jobs", "Set REDIS_URL to the primary."))
    if info.get("rdb_last_bgsave_status") == "err" or info.get("aof_last_write_status") == "err":
        remedy = "Check its log: its disk is full or its folder isn't writable. Predictions still work."
        found.append(("It can't write to its disk, and accepts no jobs until it can", remedy))
    limit, used = int(info.get("maxmemory") or 0), int(info.get("used_memory") or 0)
    policy = str(info.get("maxmemory_policy") or "")
    if limit and policy != "noeviction":
        remedy = "Start it with `--maxmemory-policy noeviction`, or use a dedicated Redis for the jobs."
        what = f"It may discard queued jobs (maxmemory-policy {policy}), which the server then has to queue again"
        found.append((what, remedy))
    elif limit and used > FULL * limit:
        remedy = "Raise its maxmemory, or find out what else uses it: jobs take only kilobytes."
        what = f"{used / 1e6:.0f} of its {limit / 1e6:.0f} MB are in use; when it is full, it accepts no jobs"
        found.append((what, remedy))
    return [Problem("redis", f"Redis isn't suitable for jobs. {what}.", remedy) for what, remedy in found]


def clock_problems(ahead: float) -> list[Problem]:
    """A problem if the clocks differ; `ahead` is how many seconds Redis' clock is ahead of this machine's."""
    if abs(ahead) < CLOCK_SECONDS:
        return []
    way = "behind" if ahead > 0 else "ahead of"
    what = f"This machine's clock is {abs(ahead):.0f} s {way} Redis'."
    return [Problem("clock", what, "Sync both with NTP: the clock decides which workers count as alive.")]


def _kinds_of(settings: Settings, workers: Sequence[BaseWorker]) -> set[str]:
    names = {name for worker in workers for name in worker.queue_names()}
    return {kind for kind in KINDS if f"{settings.rq_queue_name}-{kind}" in names}


def waiting_problems(unfinished: Sequence[Job], idle: set[str], now: float) -> tuple[Problem, ...]:
    """Problems with jobs that wait too long.

    `unfinished` is sorted from the oldest to the newest; `idle` are the kinds of jobs for which a worker is idle.
    """
    turns: dict[tuple[str, str], Job] = {}
    for job in unfinished:  # only one job per project and kind runs at a time
        turns.setdefault((job.project, job.kind), job)
    waiting = [job for job in turns.values() if job.status == "queued"]
    untaken = [job for job in waiting if job.kind in idle and now - job.created > TAKEN_SECONDS]
    if untaken:
        what = f"A job has been queued for {now - untaken[0].created:.0f} s although a worker is idle."
        remedy = (
            "Make sure that the worker and the server have the same MODEL_DIR: the same volume in containers, or the "
            "same shared folder on several machines. If the worker can't find a job there, its log says that the "
            "project was deleted."
        )
        return (Problem("worker-folder", what, remedy),)
    late = [job for job in waiting if now - job.created > PATIENCE_SECONDS]
    if late:
        minutes = (now - late[0].created) / 60
        what = f"All workers are busy: {len(late)} jobs are queued, the oldest for {minutes:.0f} minutes."
        remedy = "Start another worker; with `--only head`, corrections don't have to wait for long trainings."
        return (Problem("jobs-wait", what, remedy),)
    return ()
