"""Problems with the queue of jobs: Redis, its workers, and jobs that wait too long."""

from collections.abc import Mapping, Sequence
from typing import Any

from my_backend.diagnostics.problem import Problem
from my_backend.jobs.queue import QueueStatus
from my_backend.jobs.record import Job, Kind

OLDEST_REDIS = 5  # the oldest that RQ supports
FULL = 0.9  # of maxmemory
CLOCK_SECONDS = 5.0  # a worker counts as gone after 12 s without a heartbeat
TAKEN_SECONDS = 30.0  # within which an idle worker should have taken a job
PATIENCE_SECONDS = 600.0

Json = dict[str, Any]


def queue_problems(status: QueueStatus) -> list[Problem]:
    """What keeps the server's jobs from running."""
    match status.state:
        case "unreachable":
            return [redis_unreachable(status.why)]
        case "failed":
            return [Problem("redis", f"Can't compare the job records with Redis: {status.why}.")]
        case "replica":
            return [
                Problem(
                    "redis",
                    "Redis is a read-only replica. Predictions continue, but no training runs can start.",
                    "Set REDIS_URL to the primary.",
                )
            ]
        case "no worker":
            return worker_problems(status.workers)
        case "refused a job":
            return [REFUSED_JOB]
        case "ready" | "starting":
            return []


REFUSED_JOB = Problem(
    "foreign-job",
    "A worker refused a job that this backend didn't put into Redis: something else is writing to this Redis.",
    "Set a password on Redis, or give the backend its own Redis. The worker's log names the job; this problem is shown "
    "for an hour.",
)


def redis_unreachable(why: str) -> Problem:
    """Redis is unreachable or doesn't answer properly."""
    return Problem(
        "redis",
        f"Redis is unreachable ({why.rstrip('.')}). Predictions continue; training runs start when Redis is back.",
        "Check that Redis is running and that REDIS_URL is correct.",
    )


def worker_problems(workers: Mapping[Kind, int], queues: Sequence[str] = ()) -> list[Problem]:
    """No worker takes jobs of some kind.

    `workers` is how many listen for jobs of each kind, `queues` the names of the queues that any worker listens to.
    """
    kinds = [kind for kind, listening in workers.items() if not listening]
    if not kinds:
        return []
    others = f"Queues with workers on this Redis: {', '.join(queues)}. Do the workers have the server's RQ_QUEUE_NAME?"
    return [
        Problem(
            "no-worker",
            f"No worker is listening for {' or '.join(f'`{kind}`' for kind in kinds)} jobs; they will stay queued.",
            "Start one with `python -m my_backend worker` and the server's REDIS_URL, RQ_QUEUE_NAME and MODEL_DIR.",
            details=(others,) if queues else (),
        )
    ]


def redis_problems(info: Json) -> list[Problem]:
    """Reasons why a Redis isn't suitable for jobs; `info` is the answer to its INFO command."""
    found = []
    version = str(info.get("redis_version") or "")
    if version and int(version.partition(".")[0]) < OLDEST_REDIS:
        found.append((f"Redis {version} is too old", f"Install version {OLDEST_REDIS} or newer."))
    if info.get("role") == "slave":
        found.append(("It is a replica, which accepts no jobs", "Set REDIS_URL to the primary."))
    if info.get("rdb_last_bgsave_status") == "err" or info.get("aof_last_write_status") == "err":
        hint = "Check Redis's log: the disk is full or the folder isn't writable. Predictions still work."
        found.append(("It can't write to its disk, so it accepts no jobs", hint))
    limit, used = int(info.get("maxmemory") or 0), int(info.get("used_memory") or 0)
    policy = str(info.get("maxmemory_policy") or "")
    if limit and policy != "noeviction":
        hint = "Start it with `--maxmemory-policy noeviction`, or use a dedicated Redis for the jobs."
        message = f"It may discard queued jobs (maxmemory-policy {policy}), which the server then has to queue again"
        found.append((message, hint))
    elif limit and used > FULL * limit:
        hint = "Raise its maxmemory, or find out what else uses it: jobs take only kilobytes."
        message = f"{used / 1e6:.0f} of its {limit / 1e6:.0f} MB are in use; when it is full, it accepts no jobs"
        found.append((message, hint))
    return [Problem("redis", f"Redis isn't suitable for jobs. {message}.", hint) for message, hint in found]


def redis_clock_problems(ahead: float) -> list[Problem]:
    """Clocks that differ; `ahead` is how many seconds Redis' clock is ahead of this machine's."""
    if abs(ahead) < CLOCK_SECONDS:
        return []
    way = "behind" if ahead > 0 else "ahead of"
    message = f"This machine's clock is {abs(ahead):.0f} s {way} Redis's."
    return [Problem("clock", message, "Synchronize both clocks with NTP: they determine which workers count as alive.")]


def backlog_failed(project: str, error: str) -> Problem:
    """A project's corrections can't be compared with what was learned; `project` is the project's uid."""
    return Problem(
        "backlog",
        f"Can't check whether the model was trained on all corrections: unexpected error {error}.",
        "The server's log has the details; please report the error. The backend tries again every ten seconds. Until "
        "the check succeeds, it doesn't retry failed training runs: start them yourself.",
        project,
    )


def waiting_problems(unfinished: Sequence[Job], idle: set[str], now: float) -> list[Problem]:
    """Jobs that wait too long.

    `unfinished` is sorted from the oldest to the newest; `idle` are the kinds of jobs for which a worker is idle.
    """
    turns: dict[tuple[str, str], Job] = {}
    for job in unfinished:  # only one job per project and kind runs at a time
        turns.setdefault((job.project, job.kind), job)
    queued = [job for job in turns.values() if job.status == "queued"]
    untaken = [job for job in queued if job.kind in idle and now - job.created > TAKEN_SECONDS]
    if untaken:
        return [
            Problem(
                "worker-folder",
                f"A job has been queued for {now - untaken[0].created:.0f} s although a worker is idle.",
                "Make sure that the worker and the server have the same MODEL_DIR: the same volume in containers, or "
                "the same shared folder on several machines. A worker with the wrong MODEL_DIR logs that the "
                "project was deleted.",
            )
        ]
    late = [job for job in queued if now - job.created > PATIENCE_SECONDS]
    if late:
        minutes = f"{(now - late[0].created) / 60:.0f} minutes"
        queued_jobs = f"{len(late)} jobs are queued, the oldest for" if len(late) > 1 else "a job has been queued for"
        return [
            Problem(
                "jobs-wait",
                f"All workers are busy: {queued_jobs} {minutes}.",
                "Start another worker. If you start it with `--only head`, corrections don't wait for long training "
                "runs.",
            )
        ]
    return []
