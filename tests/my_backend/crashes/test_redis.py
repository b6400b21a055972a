"""Every command of a whole loop with Redis: it fails, hangs, or is carried out twice."""

import time
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path

import pytest
from redis import Redis as Client
from rq import Queue
from rq.job import Job as RqJob
from rq.worker import SimpleWorker

from my_backend.jobs import rq_queue, worker
from my_backend.jobs.record import KINDS, Job
from my_backend.jobs.rq_queue import RqQueue
from testing.production import Redis
from tests.my_backend.conftest import PROJECT
from tests.my_backend.crashes.redis_proxy import WAYS, CommandFault, RedisProxy, faults
from tests.my_backend.crashes.world import World

ROUNDS = 8
STEP = 16  # every so many faults are tried: each takes a second


class InThisProcess(worker.TrainingWorker):
    """Runs jobs without a process of their own, and ends when the queues are empty."""

    work = partialmethod(worker.TrainingWorker.work, burst=True)  # type: ignore[assignment]

    connection_timeout = 0.3  # seconds; RQ's own is longer than its blocking commands, which aren't sent here

    def _install_signal_handlers(self) -> None:
        """Leaves the test's own."""

    def execute_job(self, job: RqJob, queue: Queue) -> None:
        SimpleWorker.execute_job(self, job, queue)  # type: ignore[arg-type]
        self.hand_over.after(job.id)


@pytest.fixture(scope="module")
def shared_redis() -> Iterator[Redis]:
    with Redis() as running:
        yield running


class Loop:
    """A server and a worker with a Redis between them: a training, an event, a correction, and a cancellation."""

    def __init__(self, world: World, proxy: RedisProxy, redis: Client) -> None:
        self.world, self.proxy, self._redis = world, proxy, redis
        self.jobs: list[Job] = []

    def run(self, fault: CommandFault | None) -> list[str]:
        """Goes through the loop; returns its commands. After a command that failed, time passes and all is well."""
        self._redis.flushall()
        self.proxy.begin(fault)
        with self.world.process() as backend:
            assert isinstance(backend.queue, RqQueue)
            try:
                self._go(backend.queue)
            finally:
                backend.queue._connection.close()
        return self.proxy.calls

    def _go(self, queue: RqQueue) -> None:
        world = self.world
        world.connect()
        for number in (1, 2, 3):
            world.annotate(number)
        full = queue.submit(PROJECT, "full", "Start training was pressed")
        self._carry_out(queue)
        world.annotate(4)
        world.backend.projects.annotation_log(PROJECT).forget_tasks()
        head = queue.submit(PROJECT, "head", "annotations changed")
        canceled = queue.submit(PROJECT, "full", "Start training was pressed")
        queue._tick()
        queue.cancel(canceled.id)
        self._carry_out(queue)
        store = world.backend.job_store
        assert [store.get(job.id).status for job in (full, head, canceled)] == ["finished", "finished", "canceled"]
        assert len(world.versions.names()) == 2, "published twice, or not at all"
        assert world.learned() == world.annotated()
        world.check_versions()
        world.check_damages()

    def _carry_out(self, queue: RqQueue) -> None:
        for _ in range(ROUNDS):
            queue._tick()
            assert queue.status().state != "failed", queue.status()
            worker._work_until_redis_goes(self.world.settings, KINDS)
            if not self.world.backend.job_store.unfinished():
                return
            for key in (*self._redis.keys("rq:wip:*"), *self._redis.keys("*:handed:*")):
                self._redis.delete(key)  # as if the time were over for which a lost job counts as taken
        raise AssertionError([job.status for job in self.world.backend.job_store.all()])


@pytest.fixture
def loop(world: World, shared_redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    monkeypatch.setattr(rq_queue, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(worker, "TrainingWorker", InThisProcess)
    monkeypatch.setattr(worker, "read_settings", lambda: world.settings)
    real_sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: real_sleep(min(seconds, 0.01)))
    with RedisProxy(str(shared_redis.folder / "redis.sock")).running() as proxy:
        world.settings = world.settings.model_copy(update={"redis_url": proxy.url})
        yield Loop(world, proxy, shared_redis.client)


def attempt(loop: Loop, fault: CommandFault | None) -> list[str]:
    world = loop.world
    for path in sorted(world.root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    Path(world.settings.model_dir).mkdir(parents=True)
    world.label_studio.annotated = []
    return loop.run(fault)


def failures(loop: Loop, some: list[CommandFault], calls: list[str]) -> list[str]:
    """What went wrong, a line for each fault."""
    found = []
    for fault in some:
        try:
            attempt(loop, fault)
        except Exception as error:
            found.append(f"{fault} {calls[fault.at]}: {type(error).__name__}: {error}"[:400])
    return found


@pytest.mark.slow
def test_some_faults_of_redis_lose_nothing(loop: Loop) -> None:
    calls = attempt(loop, None)
    every = list(faults(calls))
    server_asks = CommandFault(calls.index("PING"), "cut before it", lasting=True)

    assert failures(loop, [server_asks, *every[:: len(every) // 8]], calls) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS)
def test_faults_of_redis_lose_nothing(loop: Loop, way: str) -> None:
    calls = attempt(loop, None)
    every = [fault for fault in faults(calls) if fault.way == way]

    found = failures(loop, every[::STEP], calls)

    print(f"\n| {way} | {len(every)} | {len(every[::STEP])} | {len(found)} |")
    assert found == []
