"""Redis and its workers, where they are used: whether jobs get through."""

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
from my_backend.problems import Trouble
from my_backend.settings import Settings

Json = dict[str, Any]

OLDEST_REDIS = 5  # that RQ works with
FULL = 0.9  # of maxmemory
CLOCK_SECONDS = 5.0  # workers count as gone after 12 s without a sign
TAKEN_SECONDS = 30.0  # within which a free worker has taken a job
PATIENCE_SECONDS = 600.0


def check_redis(settings: Settings) -> list[Check]:
    """Redis itself, the workers, and the jobs that wait."""
    if not settings.redis:
        settings = settings.model_copy(update={"redis_url": redis_of_production(settings)})
    if not settings.redis:
        return [Check("jobs", "run in the server's own process: REDIS_URL is not set, `make production` does not run")]
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
        return [Check("Redis", troubles=(redis_unreachable(error),))]
    finally:
        connection.close()
    persistent = info.get("aof_enabled") or info.get("rdb_last_save_time", 0) > info.get("process_start_time", 0)
    said = f"{info.get('redis_version')}, {'writes to its disk' if persistent else 'in memory only, which is enough'}"
    names = [f"{worker.hostname} ({', '.join(worker.queue_names())})" for worker in workers]
    jobs = JobStore(settings.model_dir / "projects").unfinished()
    count = sum(job.status == "queued" for job in jobs)
    # Where there is no worker, that is why they wait.
    late = () if missing else waiting_troubles(jobs, _kinds_of(settings, idle), time.time())
    return [
        Check("Redis", said, (*redis_troubles(info), *clock_troubles(ahead), *([foreign] if foreign else ()))),
        Check("workers", "; ".join(names), (_missing(missing, workers),) if missing else ()),
        Check("jobs", f"{count} wait", late),
    ]


def redis_of_production(settings: Settings) -> str:
    """The REDIS_URL that `make production` gave to what runs on this MODEL_DIR; "" where it does not run.

    Supervisor tells its number, which may be another process' after a crash; Linux tells what a process was given.
    """
    folder = settings.model_dir / "production"
    try:
        number = int((folder / "supervisord.pid").read_text())
        lines = Path(f"/proc/{number}/environ").read_text("utf-8", "replace").split("\0")
        given = dict(line.split("=", 1) for line in lines if "=" in line)
        return given["REDIS_URL"] if Path(given["PRODUCTION_DIR"]).samefile(folder) else ""
    except (OSError, ValueError, KeyError):
        return ""


def _missing(trouble: Trouble, workers: Sequence[BaseWorker]) -> Trouble:
    """With what other workers there are."""
    listening = sorted({name for worker in workers for name in worker.queue_names()})
    if not listening:
        return trouble
    details = (f"Workers of this Redis listen to {', '.join(listening)}: is their RQ_QUEUE_NAME the server's?",)
    return Trouble(trouble.code, trouble.what, trouble.remedy, details=details)


def redis_troubles(info: Json) -> list[Trouble]:
    """`info` is what Redis' command INFO says."""
    found = []
    version = str(info.get("redis_version") or "")
    if version and int(version.partition(".")[0]) < OLDEST_REDIS:
        found.append(("It is Redis " + version + ", which is too old for jobs", f"Install {OLDEST_REDIS} or newer."))
    if info.get("role") == "slave":
        found.append(("It is a replica, which takes no jobs", "Set REDIS_URL to the primary."))
    if info.get("rdb_last_bgsave_status") == "err" or info.get("aof_last_write_status") == "err":
        remedy = "Look at its log: its disk is full or its folder cannot be written. Predictions go on."
        found.append(("It cannot write to its disk, and takes no jobs until it can", remedy))
    limit, used = int(info.get("maxmemory") or 0), int(info.get("used_memory") or 0)
    policy = str(info.get("maxmemory_policy") or "")
    if limit and policy != "noeviction":
        remedy = "Start it with `--maxmemory-policy noeviction`, or give the jobs a Redis of their own."
        what = f"It may throw away waiting jobs (maxmemory-policy {policy}), which are then handed over anew"
        found.append((what, remedy))
    elif limit and used > FULL * limit:
        remedy = "Raise its maxmemory, or look at who else uses it: jobs take kilobytes."
        what = f"{used / 1e6:.0f} of its {limit / 1e6:.0f} MB are in use; when it is full it takes no jobs"
        found.append((what, remedy))
    return [Trouble("redis", f"Redis does not suit jobs. {what}.", remedy) for what, remedy in found]


def clock_troubles(ahead: float) -> list[Trouble]:
    """`ahead` is by how many seconds Redis' clock is ahead of this machine's."""
    if abs(ahead) < CLOCK_SECONDS:
        return []
    way = "behind" if ahead > 0 else "ahead of"
    what = f"This machine's clock is {abs(ahead):.0f} s {way} Redis'."
    return [Trouble("clock", what, "Set both by NTP: by the clock it is told which workers live.")]


def _kinds_of(settings: Settings, workers: Sequence[BaseWorker]) -> set[str]:
    names = {name for worker in workers for name in worker.queue_names()}
    return {kind for kind in KINDS if f"{settings.rq_queue_name}-{kind}" in names}


def waiting_troubles(unfinished: Sequence[Job], idle: set[str], now: float) -> tuple[Trouble, ...]:
    """`unfinished` from the oldest to the newest; `idle` are the kinds of jobs for which a worker is free."""
    turns: dict[tuple[str, str], Job] = {}
    for job in unfinished:  # of each project and kind one runs at a time
        turns.setdefault((job.project, job.kind), job)
    waiting = [job for job in turns.values() if job.status == "queued"]
    untaken = [job for job in waiting if job.kind in idle and now - job.created > TAKEN_SECONDS]
    if untaken:
        what = f"A job waits for {now - untaken[0].created:.0f} s although a worker is free."
        remedy = (
            "Look whether the worker has the same MODEL_DIR as the server: in containers the same volume, on several "
            "machines the same shared folder. Its log says of jobs that it does not find there that their project was "
            "deleted."
        )
        return (Trouble("worker-folder", what, remedy),)
    late = [job for job in waiting if now - job.created > PATIENCE_SECONDS]
    if late:
        minutes = (now - late[0].created) / 60
        what = f"All workers are busy: {len(late)} jobs wait, the first for {minutes:.0f} minutes."
        remedy = "Start another worker; one with `--only head` lets no correction wait behind a long training."
        return (Trouble("jobs-wait", what, remedy),)
    return ()
