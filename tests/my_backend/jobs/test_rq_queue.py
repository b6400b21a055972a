"""What workers take from Redis: our own jobs and nothing else, whatever stands there."""

import logging
import pickle
import socket
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue
from rq.job import Callback, Dependency, Retry
from rq.repeat import Repeat
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from my_backend.files import InUse
from my_backend.jobs import rq_queue as rq_queue_module
from my_backend.jobs.record import EMBED, KINDS, Kind, new_job
from my_backend.jobs.rq_queue import (
    RESULT_SECONDS,
    TIMEOUT_SECONDS,
    WORK,
    Handover,
    OwnJob,
    OwnQueue,
    RqQueue,
    connect,
    rq_queue,
)
from my_backend.jobs.store import JobStore
from my_backend.projects.registry import Projects
from my_backend.settings import Settings
from testing.production import Redis
from testing.waiting import eventually
from tests.my_backend.conftest import MakeSettings, Serve
from tests.my_backend.jobs.conftest import submitted

JOB = "head-20261126T000000-abcdef"
SHELL = "subprocess.check_output"


@pytest.fixture(scope="module")
def shared_redis() -> Iterator[Redis]:
    with Redis() as running:
        yield running


@pytest.fixture
def redis(shared_redis: Redis) -> Redis:
    shared_redis.client.flushall()
    return shared_redis


@pytest.fixture
def settings(make_settings: MakeSettings, redis: Redis) -> Settings:
    settings = make_settings(redis_url=redis.url)
    for uid in ("6.1", "7.1"):
        Projects(settings.model_dir / "projects").remember(uid)
    return settings


@pytest.fixture
def queue(settings: Settings) -> Iterator[OwnQueue]:
    with connect(settings) as connection:
        yield rq_queue(settings, "head", connection)


def take(queue: OwnQueue) -> OwnJob | None:
    """The job that a worker would run next."""
    taken = queue.dequeue_any([queue], None, connection=queue.connection, serializer=JSONSerializer)
    return taken[0] if taken else None


# --- jobs that others write -----------------------------------------------------

CALLS: dict[str, Mapping[str, Any]] = {
    "another function": {"func": SHELL, "args": (["id"],)},
    "another function with our argument": {"func": SHELL, "args": (JOB,)},
    "a builtin": {"func": "eval", "args": (JOB,)},
    "another function of ours": {"func": "my_backend.jobs.worker.work", "args": (JOB,)},
    "our function under another name": {"func": "my_backend.jobs.rq_queue.WORK", "args": (JOB,)},
    "no argument": {"func": WORK},
    "another job": {"func": WORK, "args": ("head-20261126T000000-fedcba",)},
    "a path": {"func": WORK, "args": ("../../../etc/passwd",)},
    "no text": {"func": WORK, "args": ({"id": JOB},)},
    "two arguments": {"func": WORK, "args": (JOB, 1)},
    "a named argument": {"func": WORK, "kwargs": {"job_id": JOB}},
    "much": {"func": WORK, "args": ("x" * 1_000_000,)},
    "a callback on success": {"func": WORK, "args": (JOB,), "on_success": Callback(SHELL)},
    "a callback on failure": {"func": WORK, "args": (JOB,), "on_failure": Callback(SHELL)},
    "a callback when stopped": {"func": WORK, "args": (JOB,), "on_stopped": Callback(SHELL)},
    "a webhook": {"func": WORK, "args": (JOB,), "webhooks": [Webhook("http://169.254.169.254/", "finished")]},
    "retries": {"func": WORK, "args": (JOB,), "retry": Retry(max=3)},
    "repeats": {"func": WORK, "args": (JOB,), "repeat": Repeat(times=3)},
    "facts": {"func": WORK, "args": (JOB,), "meta": {"any": "thing"}},
    "dependencies": {"func": WORK, "args": (JOB,), "depends_on": Dependency(["gone"], allow_failure=True)},
}


@pytest.mark.parametrize("name", CALLS)
def test_job_with_foreign_call_or_extras_is_refused(
    name: str, queue: OwnQueue, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    others = Queue(queue.name, connection=redis.client, serializer=JSONSerializer)
    others.enqueue_call(**CALLS[name], job_id=JOB)
    assert redis.client.exists(OwnJob.key_for(JOB))
    redis.client.rpush(queue.key, JOB)  # also one that RQ itself would let wait

    assert take(queue) is None

    assert queue.get_job_ids() == []
    assert not redis.client.exists(OwnJob.key_for(JOB))
    assert any(record.levelno == logging.ERROR and JOB in record.getMessage() for record in caplog.records)
    assert all(len(record.getMessage()) < 1000 for record in caplog.records)


def call(*parts: Any) -> bytes:
    return zlib.compress(JSONSerializer.dumps(parts))


DATA = {
    "a pickle": zlib.compress(pickle.dumps((SHELL, None, (["id"],), {}))),
    "a method": call("check_output", {"any": "thing"}, [JOB], {}),
    "no JSON": b"\x80\x04not json",
    "nothing": b"",
    "too little": call(WORK),
    "too much": call(WORK, None, [JOB], {}, 1),
}


@pytest.mark.parametrize("name", DATA)
def test_job_whose_data_are_not_ours_is_refused(name: str, queue: OwnQueue, redis: Redis) -> None:
    redis.client.hset(OwnJob.key_for(JOB), "data", DATA[name])
    redis.client.rpush(queue.key, JOB)

    assert take(queue) is None

    assert redis.client.keys("rq:*") == []


def test_data_that_expand_to_gigabytes_are_not_expanded(queue: OwnQueue, redis: Redis) -> None:
    squeeze = zlib.compressobj()
    bomb = b"".join(squeeze.compress(bytes(1_000_000)) for _ in range(100)) + squeeze.flush()
    redis.client.hset(OwnJob.key_for(JOB), "data", bomb)
    redis.client.rpush(queue.key, JOB)

    tracemalloc.start()
    try:
        assert take(queue) is None
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("job_id", ["../../x", "head-../../x", "bogus", "", "x" * 100_000, "head-1:2", b"\xff\xfe"])
def test_id_that_is_not_ours_is_refused(job_id: str | bytes, queue: OwnQueue, redis: Redis) -> None:
    redis.client.rpush(queue.key, job_id)

    assert take(queue) is None

    assert redis.client.keys("rq:*") == []


def test_foreign_job_does_not_keep_ours_from_running(queue: OwnQueue, redis: Redis, settings: Settings) -> None:
    redis.client.rpush(queue.key, b"\xff", "bogus")
    hand_over(settings, queue, new_job("7.1", "head", "test"))

    job = take(queue)

    assert job
    assert job.func_name == WORK
    assert job.args == [job.id]


# --- our own ------------------------------------------------------------------------


def hand_over(settings: Settings, queue: OwnQueue, job: Any) -> None:
    store = JobStore(settings.model_dir / "projects")
    store.save(job)
    Handover(settings, store, queue.connection)()


@pytest.mark.parametrize("kind", ["head", "full"])
def test_own_job_is_taken_with_its_own_limits_whatever_redis_says(kind: Kind, settings: Settings, redis: Redis) -> None:
    with connect(settings) as connection:
        queue = rq_queue(settings, kind, connection)
        ours = new_job("7.1", kind, "test")
        hand_over(settings, queue, ours)
        junk = {"timeout": "1", "result_ttl": "x", "failure_ttl": "-1", "status": "?", "created_at": "?"}
        redis.client.hset(OwnJob.key_for(ours.id), mapping=junk)

        job = take(queue)

        assert job
        assert (job.id, job.func_name, job.args, job.kwargs) == (ours.id, WORK, [ours.id], {})
        assert (job.timeout, job.result_ttl, job.failure_ttl) == (
            TIMEOUT_SECONDS[kind],
            RESULT_SECONDS,
            RESULT_SECONDS,
        )
        assert redis.client.keys("*refused*") == []
        assert redis.client.keys("*intermediate*") == [], "nothing waits there for RQ's maintenance"


def test_all_embedding_jobs_wait_for_workers_of_full_trainings(settings: Settings, redis: Redis) -> None:
    store = JobStore(settings.model_dir / "projects")
    ours = [new_job("7.1", kind, "test") for kind in ("full", "full", EMBED, EMBED)]
    for number, job in enumerate(ours):
        store.save(replace(job, created=job.created + number))
    with connect(settings) as connection:
        queue = rq_queue(settings, "full", connection)
        Handover(settings, store, connection)()

        assert sorted(queue.get_job_ids()) == sorted(job.id for job in (ours[0], *ours[2:]))
        taken = [job for job in (take(queue), take(queue), take(queue)) if job]
        assert {job.timeout for job in taken} == {TIMEOUT_SECONDS["full"]}
        assert len(taken) == 3


def test_embedding_jobs_of_a_project_run_side_by_side_but_trainings_do_not(settings: Settings) -> None:
    store = JobStore(settings.model_dir / "projects")
    with store.claimed(new_job("7.1", EMBED, "test")), store.claimed(new_job("7.1", EMBED, "test")):
        pass
    first, second = new_job("7.1", "full", "test"), new_job("7.1", "full", "test")
    with store.claimed(first), pytest.raises(InUse), store.claimed(second):
        pass


@pytest.mark.parametrize("status", ["started", "queued"])  # also if a shutdown has queued it again
def test_submit_after_the_cancel_of_a_job_that_still_reads_is_another_job(settings: Settings, status: str) -> None:
    store = JobStore(settings.model_dir / "projects")
    running = submitted(store, status=status)
    queue = RqQueue(settings, store)
    assert queue.submit("7.1", "head", "test").id == running.id

    store.request_cancel(running)

    assert queue.submit("7.1", "head", "test").id != running.id


# --- what servers say ---------------------------------------------------------------


@pytest.fixture
def look(settings: Settings) -> Iterator[Callable[[], str]]:
    """The state of a server's queue, after it has looked at Redis once."""
    server = RqQueue(settings, JobStore(settings.model_dir / "projects"))

    def look() -> str:
        server._tick()
        return server.status().state

    yield look
    server.stop()


def test_server_says_that_a_job_was_refused(queue: OwnQueue, redis: Redis, look: Callable[[], str]) -> None:
    for kind in ("head", "full"):
        redis.client.sadd(f"rq:workers:default-{kind}", "rq:worker:one")
    redis.client.hset("rq:worker:one", "state", "idle")
    assert look() == "ready"
    redis.client.rpush(queue.key, "bogus")
    take(queue)

    assert look() == "refused a job"


def test_worker_may_start_after_the_server(redis: Redis, look: Callable[[], str]) -> None:
    assert look() == "starting"

    for kind in ("head", "full"):
        redis.client.sadd(f"rq:workers:default-{kind}", f"rq:worker:{kind}")
        redis.client.hset(f"rq:worker:{kind}", "state", "idle")
    assert look() == "ready"
    redis.client.delete("rq:worker:full")
    assert look() == "no worker", "one that was there is missed at once"


def test_worker_that_never_starts_is_missed(settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rq_queue_module, "WORKER_START_SECONDS", 0.0)
    server = RqQueue(settings, JobStore(settings.model_dir / "projects"))
    try:
        server._tick()
        assert server.status().state == "no worker"
    finally:
        server.stop()


def test_bytes_that_are_no_text_keep_no_job_from_being_handed_over(
    queue: OwnQueue, redis: Redis, settings: Settings, look: Callable[[], str]
) -> None:
    redis.client.rpush(queue.key, b"\xff")
    redis.client.zadd(queue.started_job_registry.key, {b"\xff:1": 9e9})
    redis.client.sadd("rq:workers:default-head", b"\xff")
    ours = new_job("7.1", "head", "test")
    JobStore(settings.model_dir / "projects").save(ours)

    assert look() == "starting"

    assert ours.id.encode() in redis.client.lrange(queue.key, 0, -1)


@pytest.mark.parametrize("odd", ["a folder as the lock", "a file as the work folder"])
def test_files_of_one_project_keep_no_other_project_from_being_handed_over(
    odd: str, settings: Settings, redis: Redis, queue: OwnQueue, caplog: pytest.LogCaptureFixture
) -> None:
    store = JobStore(settings.model_dir / "projects")
    odd_job, good = new_job("6.1", "head", "test"), new_job("7.1", "head", "test")
    for job in (odd_job, good):
        store.save(job)
    work = store.workdir(odd_job).parent
    if odd == "a folder as the lock":
        (work / ".head").mkdir(parents=True)
    else:
        work.write_text("")
    handover = Handover(settings, store, queue.connection)
    for _ in range(3):
        handover()
    taken = take(queue)
    assert taken is not None
    assert taken.id == good.id
    assert caplog.text.count("project 6.1: can't hand over job") == 1


def test_server_says_that_redis_is_a_replica_not_that_workers_are_missing(redis: Redis, settings: Settings) -> None:
    store = JobStore(settings.model_dir / "projects")
    store.save(new_job("7.1", "head", "test"))
    server = RqQueue(settings, store)
    redis.client.replicaof("127.0.0.1", 1)  # nobody answers there
    try:
        server._tick()
        assert server.status().state == "replica"
    finally:
        redis.client.replicaof("NO", "ONE")
        server.stop()


def test_disk_error_is_not_taken_for_a_redis_that_is_down(
    serve: Serve, make_settings: MakeSettings, redis: Redis
) -> None:
    for kind in KINDS:
        redis.client.sadd(f"rq:workers:default-{kind}", "rq:worker:one")
    redis.client.set("rq:worker:one", "")
    lock = make_settings().model_dir / ".handover"
    lock.mkdir(parents=True)  # it can't be locked

    with serve(redis_url=redis.url) as client:
        assert eventually(lambda: client.backend.queue.status().state == "failed")
        metrics = client.get("/metrics").splitlines()

    assert "ml_backend_redis_up 1.0" in metrics
    assert 'ml_backend_workers{kind="head"} 1.0' in metrics


def test_redis_that_hangs_is_not_asked_twice(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rq_queue_module, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        settings = make_settings(redis_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        with connect(settings) as connection, pytest.raises(RedisTimeoutError):
            connection.ping()

        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()
