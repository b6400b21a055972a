"""The state of the queue, of Redis and of the workers → what is wrong."""

import time

import pytest

from my_backend.diagnostics.rules.jobs import (
    backlog_failed,
    queue_problems,
    redis_clock_problems,
    redis_problems,
    waiting_problems,
    worker_problems,
)
from my_backend.jobs.queue import QueueStatus
from my_backend.jobs.record import Job, new_job
from tests.my_backend.conftest import PROJECT

BOTH = {"head": 1, "full": 2}


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (QueueStatus(), "", ""),
        (QueueStatus("ready", BOTH), "", ""),
        (QueueStatus("starting", {"head": 0, "full": 1}), "", ""),
        (QueueStatus("unreachable", why="Error 111."), "redis", "Redis is unreachable (Error 111). Predictions"),
        (QueueStatus("failed", why="odd"), "redis", "Can't compare the job records with Redis: odd."),
        (QueueStatus("replica", {"head": 0, "full": 0}), "redis", "read-only replica. Predictions continue"),
        (QueueStatus("no worker", {"head": 0, "full": 0}), "no-worker", "listening for `head` or `full` jobs"),
        (QueueStatus("no worker", {"head": 1, "full": 0}), "no-worker", "listening for `full` jobs"),
        (QueueStatus("refused a job", BOTH), "foreign-job", "something else is writing to this Redis"),
    ],
)
def test_queue_whose_jobs_cannot_run(status: QueueStatus, code: str, said: str) -> None:
    told = queue_problems(status)

    assert [problem.code for problem in told] == ([code] if code else [])
    assert said in "".join(map(str, told))


def test_workers_of_another_queue_are_named() -> None:
    assert worker_problems({"head": 1, "full": 1}, ["mine-head"]) == []
    [problem] = worker_problems({"head": 0, "full": 1}, ["mine-head", "mine-full"])
    assert problem.details == (
        "Queues with workers on this Redis: mine-head, mine-full. Do the workers have the server's RQ_QUEUE_NAME?",
    )
    assert worker_problems({"head": 0, "full": 1})[0].details == ()


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({}, ""),
        ({"redis_version": "7.2.0", "role": "master", "maxmemory": 0, "maxmemory_policy": "allkeys-lru"}, ""),
        ({"maxmemory": 1e9, "maxmemory_policy": "noeviction", "used_memory": 8e8}, ""),
        ({"redis_version": "4.0.9"}, "Redis 4.0.9 is too old. Install version 5 or newer."),
        ({"role": "slave"}, "It is a replica, which accepts no jobs. Set REDIS_URL to the primary."),
        ({"rdb_last_bgsave_status": "err"}, "It can't write to its disk"),
        ({"aof_last_write_status": "err"}, "It can't write to its disk"),
        (
            {"maxmemory": 1e9, "maxmemory_policy": "allkeys-lru"},
            "may discard queued jobs (maxmemory-policy allkeys-lru)",
        ),
        ({"maxmemory": 1e9, "maxmemory_policy": "noeviction", "used_memory": 95e7}, "950 of its 1000 MB are in use"),
    ],
)
def test_redis_that_loses_or_refuses_jobs(info: dict[str, object], said: str) -> None:
    told = redis_problems(info)

    assert [problem.code for problem in told] == (["redis"] if said else [])
    assert said in "".join(map(str, told))


@pytest.mark.parametrize(("ahead", "said"), [(1, ""), (30, "30 s behind Redis's"), (-30, "30 s ahead of Redis's")])
def test_clock_is_compared(ahead: float, said: str) -> None:
    told = redis_clock_problems(ahead)

    assert [problem.code for problem in told] == (["clock"] if said else [])
    assert said in "".join(map(str, told))


NOW = time.time()  # of these records, which are made long before they are looked at


def job(age: float, status: str = "queued", kind: str = "head", project: str = PROJECT) -> Job:
    made = new_job(project, kind, "test")  # type: ignore[arg-type]
    return Job(**{**vars(made), "status": status, "created": NOW - age})


@pytest.mark.parametrize(
    ("jobs", "idle", "code", "said"),
    [
        ([job(5)], {"head"}, "", ""),
        ([job(60)], {"full"}, "", ""),
        ([job(60)], {"head"}, "worker-folder", "queued for 60 s although a worker is idle"),
        ([job(60, "started"), job(50)], {"head"}, "", ""),
        ([job(60, "started"), job(50, project="8.1")], {"head"}, "worker-folder", "queued for 50 s"),
        ([job(900), job(800, project="8.1")], set(), "jobs-wait", "2 jobs are queued, the oldest for 15 minutes"),
        ([job(900)], set(), "jobs-wait", "a job has been queued for 15 minutes"),
        ([job(900, "started"), job(800)], set(), "", ""),
    ],
)
def test_jobs_that_wait(jobs: list[Job], idle: set[str], code: str, said: str) -> None:
    told = waiting_problems(jobs, idle, NOW)

    assert [problem.code for problem in told] == ([code] if code else [])
    assert said in "".join(map(str, told))


def test_failed_comparison_names_the_project_and_the_error() -> None:
    problem = backlog_failed(PROJECT, "KeyError")

    assert (problem.code, problem.project) == ("backlog", PROJECT)
    assert "unexpected error KeyError" in problem.message
