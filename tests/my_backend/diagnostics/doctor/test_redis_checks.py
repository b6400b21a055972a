"""The doctor's checks of Redis, its workers and queued jobs, with a real Redis that has each problem."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rq import Queue, SimpleWorker

from my_backend.commands.production import run_supervisor
from my_backend.diagnostics.doctor.check import Check
from my_backend.diagnostics.doctor.redis_checks import check_redis
from my_backend.diagnostics.rules.jobs import redis_problems
from my_backend.jobs.record import KINDS, Job, new_job
from my_backend.jobs.store import JobStore
from my_backend.projects.registry import Projects
from my_backend.settings import Settings
from testing.process import free_port
from testing.production import Redis
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, MakeSettings

NOBODY = 1  # a port on which nothing listens


@pytest.fixture(scope="module")
def shared_redis() -> Iterator[Redis]:
    with Redis() as running:
        yield running


@pytest.fixture
def redis(shared_redis: Redis) -> Iterator[Redis]:
    """A Redis with its initial configuration, which is restored afterwards."""
    shared_redis.client.flushall()
    before = shared_redis.client.config_get("max*")
    yield shared_redis
    shared_redis.client.replicaof("NO", "ONE")
    for name in ("maxmemory", "maxmemory-policy"):
        shared_redis.client.config_set(name, before[name])


def told(checks: list[Check]) -> dict[str, str]:
    return {problem.code: str(problem) for check in checks for problem in check.problems}


def test_without_redis_jobs_run_in_the_server(make_settings: MakeSettings) -> None:
    assert told(check_redis(make_settings())) == {}


@pytest.fixture
def production(
    make_settings: MakeSettings, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Settings, subprocess.Popen[bytes]]]:
    """A process with supervisor's environment, in place of a running `make production`."""
    # a path that is short enough for a socket
    settings = make_settings(model_dir=redis.folder / tmp_path.name, port=free_port())
    given: dict[str, str] = {}
    monkeypatch.setattr(os, "execve", lambda path, command, environment: given.update(environment))
    run_supervisor(settings, tmp_path / "logs")
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command, env=given) as supervisor:
        (Path(given["PRODUCTION_DIR"]) / "supervisord.pid").write_text(f"{supervisor.pid}\n")
        yield settings, supervisor
        supervisor.kill()


def test_redis_of_make_production_is_found(
    production: tuple[Settings, subprocess.Popen[bytes]], make_settings: MakeSettings, redis: Redis
) -> None:
    settings, _ = production
    socket = settings.model_dir / "production" / "redis.sock"

    assert str(socket) in told(check_redis(settings))["redis"], "it does not answer"
    socket.symlink_to(redis.url.removeprefix("unix://"))
    assert list(told(check_redis(settings))) == ["no-worker"]
    own = make_settings(model_dir=settings.model_dir, redis_url=f"redis://127.0.0.1:{NOBODY}")
    assert f"127.0.0.1:{NOBODY}" in told(check_redis(own))["redis"], "what is set counts"


@pytest.mark.parametrize("left", ["its number", "a number that is another's by now", "half a file"])
def test_what_a_killed_production_has_left_is_not_taken_for_one(
    production: tuple[Settings, subprocess.Popen[bytes]], redis: Redis, left: str
) -> None:
    settings, supervisor = production
    folder = settings.model_dir / "production"
    (folder / "redis.sock").symlink_to(redis.folder / "gone")
    supervisor.kill()
    supervisor.wait()
    if left != "its number":
        (folder / "supervisord.pid").write_text("" if left == "half a file" else str(os.getpid()))

    [check] = check_redis(settings)

    assert check.problems == ()
    assert "`make production` is not running" in check.said


def test_redis_that_is_away(make_settings: MakeSettings) -> None:
    found = told(check_redis(make_settings(redis_host="127.0.0.1", redis_port=NOBODY)))

    assert list(found) == ["redis"]
    assert f"Redis is unreachable (Error 111 connecting to 127.0.0.1:{NOBODY}. Connection refused)." in found["redis"]


def test_workers_of_another_queue_are_named(make_settings: MakeSettings, redis: Redis) -> None:
    found = check_redis(make_settings(redis_url=redis.url))
    assert "start one with" in told(found)["no-worker"].lower()

    worker = SimpleWorker([Queue("mine-head", connection=redis.client)], connection=redis.client)
    worker.register_birth()
    [problem] = [one for check in check_redis(make_settings(redis_url=redis.url)) for one in check.problems]
    assert problem.details == (
        "Queues with workers on this Redis: mine-head. Do the workers have the server's RQ_QUEUE_NAME?",
    )


def test_redis_that_loses_or_refuses_jobs(redis: Redis) -> None:
    def said() -> str:
        return " ".join(str(problem) for problem in redis_problems(redis.client.info()))

    assert said() == ""
    redis.client.config_set("maxmemory", "1gb")
    assert said() == ""
    redis.client.config_set("maxmemory-policy", "allkeys-lru")
    assert "may discard queued jobs (maxmemory-policy allkeys-lru)" in said()
    redis.client.config_set("maxmemory-policy", "noeviction")
    redis.client.config_set("maxmemory", redis.client.info()["used_memory"])
    assert "when it is full, it accepts no jobs" in said()
    redis.client.config_set("maxmemory", "0")
    redis.client.replicaof("127.0.0.1", NOBODY)
    assert "It is a replica" in said()


def test_redis_that_cannot_write_to_its_disk() -> None:
    with Redis() as redis:
        (redis.folder / "dump.rdb").mkdir()  # where its file should be
        redis.client.bgsave()
        assert eventually(lambda: redis.client.info()["rdb_last_bgsave_status"] == "err")

        [problem] = redis_problems(redis.client.info())
    assert "It can't write to its disk" in problem.message


def job(age: float) -> Job:
    return replace(new_job(PROJECT, "head", "test"), created=time.time() - age)


def test_waiting_jobs_are_read_from_their_records(make_settings: MakeSettings, redis: Redis, tmp_path: Path) -> None:
    settings = make_settings(redis_url=redis.url)
    Projects(settings.model_dir / "projects").remember(PROJECT)
    JobStore(settings.model_dir / "projects").save(job(900))
    assert told(check_redis(settings)).keys() == {"no-worker"}

    worker = SimpleWorker([Queue(f"default-{kind}", connection=redis.client) for kind in KINDS])
    worker.register_birth()
    worker.set_state("busy")
    assert told(check_redis(settings)).keys() == {"jobs-wait"}
    worker.set_state("idle")
    assert told(check_redis(settings)).keys() == {"worker-folder"}
