"""The contract of a queue, which both pass: the one in the server's process, and RQ with a real Redis and real workers.

Tests that take `queueing` are the contract; the others are about workers alone.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from rq import Queue, Worker
from rq.command import PUBSUB_CHANNEL_TEMPLATE
from rq.job import Callback
from rq.job import Job as RqJob
from rq.registry import ScheduledJobRegistry
from rq.serializers import JSONSerializer
from rq.suspension import suspend

from my_backend.errors import Conflict, NotFound
from my_backend.jobs.queue import JobQueue, submit_correction
from my_backend.jobs.record import KINDS, Job, Kind, new_job
from my_backend.jobs.rq_queue import RqQueue
from my_backend.jobs.run import MAX_ATTEMPTS
from my_backend.jobs.store import JobStore, claimed_model_dir
from my_backend.jobs.thread_queue import ThreadQueue
from my_backend.jobs.training_job import TrainingJob
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media import media_pool
from my_backend.projects.registry import Projects
from my_backend.projects.versions import Versions
from my_backend.serving.model_loader import ModelFactory
from my_backend.settings import Settings
from testing.fake_label_studio.annotated_projects import AnnotatedProjects, described, uid
from testing.process import Process, free_port
from testing.production import Production, Redis
from testing.waiting import eventually
from tests.production.conftest import MakeProduction
from tests.production.memorizing_model import Script, learned
from tests.production.watching import watched

DEADLINE = 120.0  # a job whose worker died goes on after half a minute at the latest; a busy machine adds to it


class Queueing:
    """A queue with what runs its jobs on a MODEL_DIR, and a Label Studio whose projects have an annotation each."""

    queue: JobQueue

    def __init__(self, settings: Settings, label_studio: AnnotatedProjects) -> None:
        self.settings = settings
        self.projects = Projects(settings.model_dir / "projects")
        self.store = JobStore(settings.model_dir / "projects")
        for project in (1, 2):
            self.projects.remember(uid(project), label_config=described(project)["label_config"])
            label_studio.annotate(project, 1, "Cat")

    def submit(self, project: int, kind: Kind = "full") -> Job:
        self.projects.annotation_log(uid(project)).forget_tasks()  # no events come here: Label Studio is to be asked
        return self.queue.submit(uid(project), kind, "test")

    def job(self, job: Job) -> Job:
        return self.store.get(job.id)

    def wait_for(self, job: Job, status: str) -> Job:
        assert eventually(lambda: self.job(job).status == status, DEADLINE), self.job(job)
        return self.job(job)

    def learned(self, project: int) -> dict[str, str]:
        """The choices that the live version knows."""
        return learned(Versions(self.projects.folder(uid(project))).live())

    def kill_what_runs(self, script: Script) -> None:
        """Lets the process in which a job runs die; something takes its place."""
        raise NotImplementedError


class InThreads(Queueing):
    """Jobs in the process of the tests."""

    @contextmanager
    def running(self) -> Iterator["InThreads"]:
        self._media_pool = media_pool()
        self._start()
        try:
            yield self
        finally:
            self.queue.stop()
            self._media_pool.shutdown()

    def _start(self) -> None:
        connections = Connections(self.settings)
        new_model = ModelFactory(self.settings, self.projects, connections, self._media_pool)
        work = TrainingJob(self.settings, self.projects, self.store, connections, new_model, self._submit_correction)
        self.queue = ThreadQueue(self.store, work)
        self.queue.start()

    def _submit_correction(self, project: str) -> Job:
        return submit_correction(self.queue, project)

    def kill_what_runs(self, script: Script) -> None:
        """This process has to live, so the job goes on in a server before that dies, and then here again."""
        self.queue.stop()
        folder = self.settings.model_dir.parent
        command = [sys.executable, "-m", "my_backend", "serve", "--port", str(free_port())]
        environment = {**os.environ, "MODEL_DIR": str(self.settings.model_dir)}
        server = Process(command, env=environment, folder=folder, log=folder / "server.log")
        try:
            server.wait_until(lambda: any(event.pid == server.pid for event in script.events("begin")), DEADLINE)
        finally:
            server.kill()
        self._start()


class InWorkers(Queueing):
    """Jobs in RQ workers, one of them for head jobs only."""

    @contextmanager
    def running(self, production: Production) -> Iterator["InWorkers"]:
        self._production = production
        self._worker, _ = production.workers()
        self.queue = RqQueue(self.settings, self.store)
        self.queue.start()
        try:
            yield self
        finally:
            self.queue.stop()

    def kill_what_runs(self, script: Script) -> None:
        work_horse = self._worker.work_horse()
        assert work_horse is not None
        os.kill(work_horse.pid, signal.SIGKILL)
        self._worker.kill()
        self._worker = self._production.worker()


@pytest.fixture(params=["threads", "workers"])
def queueing(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    redis: Redis,
    production: MakeProduction,
    script: Script,
    label_studio: AnnotatedProjects,
) -> Iterator[Queueing]:
    if request.param == "threads":
        (tmp_path / "alone").mkdir()
        settings = Settings(_env_file=None, model_dir=tmp_path / "alone" / "models")
        with InThreads(settings, label_studio).running() as running:
            yield running
        return
    shared = production(redis)
    settings = Settings(_env_file=None, model_dir=shared.model_dir, redis_url=redis.url)
    with InWorkers(settings, label_studio).running(shared) as running:
        yield running


def test_submitted_job_runs_and_says_what_came_of_it(queueing: Queueing) -> None:
    for kind in KINDS:
        job = queueing.wait_for(queueing.submit(1, kind), "finished")

        assert (job.kind, job.cause, job.attempts, job.error) == (kind, "test", 1, "")
        assert job.result["versions"] == [Versions(queueing.projects.folder(uid(1))).live_name()]
    assert eventually(lambda: not queueing.store.workdir(queueing.job(job)).exists())
    assert queueing.learned(1) == {"1": "Cat"}
    assert queueing.queue.status().state == "ready"


def test_second_submit_is_the_same_job_until_it_has_read_then_the_waiting(
    queueing: Queueing, script: Script, label_studio: AnnotatedProjects
) -> None:
    script.hold("full")
    other = queueing.submit(2)
    assert eventually(lambda: script.events("begin", 2))
    first = queueing.submit(1)
    assert queueing.submit(1).id == first.id
    queueing.queue.cancel(other.id)
    assert eventually(lambda: queueing.job(first).annotations_read)

    label_studio.annotate(1, 2, "Dog")
    second = queueing.submit(1)

    assert second.id != first.id
    assert queueing.submit(1).id == second.id
    assert queueing.job(second).status == "queued"
    script.release("full")
    queueing.wait_for(first, "finished")
    queueing.wait_for(second, "finished")
    assert queueing.learned(1) == {"1": "Cat", "2": "Dog"}


def test_storm_runs_one_job_at_a_time_and_leaves_the_queue_in_order(
    queueing: Queueing, script: Script, label_studio: AnnotatedProjects
) -> None:
    script.order(epochs=1, epoch_seconds=0.1)

    def storm(project: int, kind: Kind, number: int) -> None:
        for round_ in range(25):
            label_studio.annotate(project, 10 + number, "Cat" if round_ % 2 else "Dog")
            queueing.submit(project, kind)
            time.sleep(0.03)  # so that it lasts longer than a job

    kinds: list[tuple[int, Kind]] = [(1, "head"), (1, "head"), (1, "full"), (2, "full")] * 2
    with watched(queueing.store) as most:
        with ThreadPoolExecutor(len(kinds)) as pool:
            storms = [pool.submit(storm, project, kind, number) for number, (project, kind) in enumerate(kinds)]
        for one in storms:
            one.result()
        ended = eventually(lambda: not any(job.unfinished for job in queueing.store.all()), DEADLINE)

    assert ended, queueing.store.all()
    assert {job.status for job in queueing.store.all()} == {"finished"}
    assert max(most.values()) == 1, most
    for project in (1, 2):
        label_studio.annotate(project, 1, "Dog")
        queueing.wait_for(queueing.submit(project, "head"), "finished")
        assert queueing.learned(project) == label_studio.annotated(project)
        for kind in KINDS:
            moments = sorted(
                (*script.events("begin", project, kind), *script.events("end", project, kind)),
                key=lambda event: event.at,
            )
            assert all(one.what != other.what for one, other in pairwise(moments)), "two ran at once"


def test_head_waits_for_no_full_training(queueing: Queueing, script: Script) -> None:
    script.hold("full")
    full = queueing.submit(1)
    assert eventually(lambda: script.events("begin", 1, "full"))
    waiting = queueing.submit(2)

    heads = [queueing.submit(project, "head") for project in (1, 2)]

    for head in heads:
        queueing.wait_for(head, "finished")
    assert queueing.job(full).status == "started"
    assert queueing.job(waiting).status == "queued"
    script.release("full")
    queueing.wait_for(waiting, "finished")


def test_canceled_job_that_waits_never_runs(queueing: Queueing, script: Script) -> None:
    script.hold("full")
    running = queueing.submit(1)
    assert eventually(lambda: script.events("begin", 1))
    waiting = queueing.submit(2)

    assert queueing.queue.cancel(waiting.id).status == "canceled"

    script.release("full")
    queueing.wait_for(running, "finished")
    queueing.wait_for(queueing.submit(2), "finished")
    assert len(script.events("begin", 2)) == 1
    assert queueing.job(waiting).status == "canceled"
    with pytest.raises(NotFound):
        queueing.queue.cancel("full-unknown")


def test_canceled_job_that_runs_ends_and_the_next_one_starts(
    queueing: Queueing, script: Script, label_studio: AnnotatedProjects
) -> None:
    script.hold("full")
    running = queueing.submit(1)
    assert eventually(lambda: script.events("begin", 1))
    label_studio.annotate(1, 2, "Dog")
    waiting = queueing.submit(1)
    assert waiting.id != running.id

    queueing.queue.cancel(running.id)

    assert "canceled" in queueing.wait_for(running, "canceled").error
    script.release("full")
    queueing.wait_for(waiting, "finished")
    assert queueing.queue.cancel(waiting.id).status == "finished"
    assert eventually(lambda: not queueing.store.workdir(queueing.job(running)).exists())


def test_progress_can_be_read_while_a_job_runs(queueing: Queueing, script: Script) -> None:
    script.order(epochs=4)
    script.hold("full")
    job = queueing.submit(1)

    assert eventually(lambda: queueing.job(job).progress == {"phase": "training", "epoch": 3, "epochs": 4})

    assert queueing.job(job).status == "started"
    script.release("full")
    queueing.wait_for(job, "finished")


def test_failure_is_kept_in_words_and_the_next_job_runs(queueing: Queueing, script: Script) -> None:
    script.order(raises="the images are gone")
    job = queueing.wait_for(queueing.submit(1), "failed")

    assert (job.error, job.attempts) == ("RuntimeError: the images are gone", 1)
    script.order()
    queueing.wait_for(queueing.submit(1), "finished")


def test_job_survives_the_death_of_what_runs_it(queueing: Queueing, script: Script) -> None:
    script.order(epochs=4)
    script.hold("full")
    job = queueing.submit(1)
    assert eventually(lambda: queueing.job(job).progress.get("epoch") == 3)

    queueing.kill_what_runs(script)

    script.release("full")
    finished = queueing.wait_for(job, "finished")
    assert finished.attempts == 2
    assert [event.epoch for event in script.events("epoch")] == [1, 2, 3, 4], "it goes on from the checkpoint"
    assert queueing.learned(1) == {"1": "Cat"}


@pytest.mark.slow
def test_job_is_not_given_up_as_long_as_each_death_finds_it_further(queueing: Queueing, script: Script) -> None:
    script.order(epochs=2)
    script.hold("full")
    job = queueing.submit(1)
    for epoch in range(1, MAX_ATTEMPTS + 3):
        assert eventually(lambda epoch=epoch: queueing.job(job).furthest == {"training": epoch}, DEADLINE)
        script.order(epochs=epoch + 2)
        queueing.kill_what_runs(script)

    script.release("full")
    assert queueing.wait_for(job, "finished").attempts == MAX_ATTEMPTS + 3


# As the worker's command does, but it ends as soon as no job waits in Redis.
IN_A_BURST = """
from functools import partialmethod
from my_backend.jobs import worker
from my_backend.settings import read_settings

worker.TrainingWorker.work = partialmethod(worker.TrainingWorker.work, burst=True)
worker._work_until_redis_goes(read_settings(), ("head",))
"""


def test_worker_hands_over_what_waited_for_the_end_of_its_job(
    redis: Redis, production: MakeProduction, script: Script, label_studio: AnnotatedProjects
) -> None:
    shared = production(redis)
    queueing = Queueing(Settings(_env_file=None, model_dir=shared.model_dir), label_studio)
    for _ in range(3):  # one after the other, though no server looks for them
        queueing.store.save(new_job(uid(1), "head", "test"))

    command = [sys.executable, "-c", IN_A_BURST]
    subprocess.run(command, cwd=Path.cwd(), env=shared.environment, check=True, timeout=DEADLINE)

    assert [job.status for job in queueing.store.all()] == ["finished"] * 3


CALLED = """
from pathlib import Path

Path(__file__).with_name("was imported").touch()

def call(*anything): pass
"""


def test_worker_imports_nothing_that_redis_names_and_runs_our_job(
    redis: Redis, production: MakeProduction, script: Script, label_studio: AnnotatedProjects, tmp_path: Path
) -> None:
    shared = production(redis)
    queueing = Queueing(Settings(_env_file=None, model_dir=shared.model_dir), label_studio)
    ours = new_job(uid(1), "head", "test")
    queueing.store.save(ours)
    folder = tmp_path / "others"
    folder.mkdir()
    (folder / "others.py").write_text(CALLED)
    foreign = Queue("default-head", connection=redis.client, serializer=JSONSerializer)
    foreign.enqueue_call("others.call", job_id="head-20261126T000000-abcdef")
    left = foreign.enqueue_call("others.call", job_id="head-20261126T000000-fedcba", on_failure=Callback("others.call"))
    # Where RQ looks for jobs that were left, waits for others, or reads orders.
    redis.client.zadd(foreign.started_job_registry.key, {f"{left.id}:1": 1})
    redis.client.lpush(foreign.intermediate_queue_key, left.id, b"\xff")
    redis.client.zadd(ScheduledJobRegistry(queue=foreign).key, {left.id: 1})
    waiting = RqJob.create(
        "others.call", connection=redis.client, id="head-20261126T000000-cafe", serializer=JSONSerializer
    )
    waiting.save()
    redis.client.sadd(RqJob.dependents_key_for(ours.id), waiting.id)
    redis.client.sadd("rq:groups", b"\xff")
    redis.client.sadd("rq:workers:default-head", b"\xff")
    suspend(redis.client)

    environment = {**shared.environment, "PYTHONPATH": f"{shared.environment['PYTHONPATH']}:{folder}"}
    command = [sys.executable, "-c", IN_A_BURST]
    ended = subprocess.run(
        command, cwd=Path.cwd(), env=environment, check=True, timeout=DEADLINE, capture_output=True, text=True
    )

    assert queueing.job(ours).status == "finished", ended.stderr
    assert not (folder / "was imported").exists()
    assert ended.stderr.count("refused a job in Redis") == 2
    assert "Traceback" not in ended.stderr


def test_command_that_someone_publishes_in_redis_reaches_no_worker(
    redis: Redis, production: MakeProduction, script: Script, label_studio: AnnotatedProjects
) -> None:
    shared = production(redis)
    queueing = Queueing(Settings(_env_file=None, model_dir=shared.model_dir), label_studio)
    ours = new_job(uid(1), "head", "test")
    queueing.store.save(ours)
    script.hold("head")
    shared.worker("head")
    assert eventually(lambda: script.events("begin"), DEADLINE)

    [known] = Worker.all(connection=redis.client, serializer=JSONSerializer)
    for command in ("stop-job", "kill-horse", "shutdown"):
        order = json.dumps({"command": command, "job_id": ours.id})
        assert redis.client.publish(PUBSUB_CHANNEL_TEMPLATE % known.name, order) == 0
    script.release("head")

    assert queueing.wait_for(ours, "finished").attempts == 1


def test_worker_runs_jobs_with_the_settings_that_it_started_with(
    redis: Redis, production: MakeProduction, script: Script, label_studio: AnnotatedProjects
) -> None:
    """People change `.env` first, and restart the worker later."""
    shared = production(redis)
    settings = Settings(_env_file=None, model_dir=shared.model_dir, redis_url=redis.url)
    with InWorkers(settings, label_studio).running(shared) as queueing:
        (shared.folder / ".env").write_text("PORT=none")

        assert queueing.wait_for(queueing.submit(1), "finished").attempts == 1


def test_model_dir_is_in_use_until_the_job_of_a_killed_worker_has_ended(
    redis: Redis, production: MakeProduction, script: Script, label_studio: AnnotatedProjects
) -> None:
    shared = production(redis)
    settings = Settings(_env_file=None, model_dir=shared.model_dir, redis_url=redis.url)
    without_redis = settings.model_copy(update={"redis_url": ""})
    queueing = Queueing(settings, label_studio)
    queueing.store.save(new_job(uid(1), "full", "test"))
    script.hold("full")
    worker = shared.worker()
    assert eventually(lambda: script.events("begin", 1))
    work_horse = worker.work_horse()
    assert work_horse is not None

    work_horse.suspend()
    os.kill(worker.pid, signal.SIGKILL)
    try:
        assert not can_be_claimed(without_redis)
    finally:
        work_horse.resume()

    script.release("full")
    assert eventually(lambda: can_be_claimed(without_redis), DEADLINE)


def can_be_claimed(settings: Settings) -> bool:
    try:
        with claimed_model_dir(settings):
            return True
    except Conflict:
        return False
