"""Ranges of tasks that real workers embed: killed workers lose none, and every idle worker takes part."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from my_backend.jobs.record import EMBED, Job
from my_backend.jobs.rq_queue import RqQueue
from my_backend.jobs.store import JobStore
from my_backend.projects.embeddings import RANGE_TASKS, Embeddings
from my_backend.projects.registry import Projects
from my_backend.settings import Settings
from testing.fake_label_studio.annotated_projects import LABEL_CONFIG, TOKEN, uid
from testing.fake_label_studio.many_tasks import ManyTasks
from testing.production import Production, Redis, Worker
from testing.sleeping_model import MODEL_CLASS, SECONDS, SPACE
from testing.waiting import eventually
from tests.production.conftest import ROOT, MakeProduction

RANGES = 8
DEADLINE = 120.0


class Site:
    """A project whose tasks are embedded by workers."""

    def __init__(self, production: Production, queue: RqQueue, store: JobStore) -> None:
        self.production, self.queue, self.store = production, queue, store
        self.folder = production.model_dir / "projects" / uid(1)
        self.embeddings = Embeddings(self.folder)

    def start(self) -> Job:
        self.embeddings.want()
        return self.queue.submit(uid(1), EMBED, "test")

    def ranges(self) -> dict[int, list[int]]:
        """The task ids in the file of each range."""
        found = self.embeddings.ranges(SPACE).items()
        return {number: [int(task) for task in one.path.read_text().split()] for number, one in found}

    def running(self) -> list[Job]:
        return [job for job in self.store.unfinished(uid(1), (EMBED,)) if job.status == "started"]

    def is_complete(self) -> bool:
        wanted = self.embeddings.wanted()
        return wanted is not None and wanted.complete


@pytest.fixture
def site(redis: Redis, production: MakeProduction) -> Iterator[Site]:
    with (
        ManyTasks(range(1, RANGES * RANGE_TASKS)).running() as label_studio,
        _site(redis, production, label_studio) as s,
    ):
        yield s


@contextmanager
def _site(redis: Redis, production: MakeProduction, label_studio: ManyTasks) -> Iterator[Site]:
    made = production(
        redis,
        MODEL_CLASS=MODEL_CLASS,
        PYTHONPATH=str(ROOT),
        LABEL_STUDIO_URL=label_studio.url,
        LABEL_STUDIO_API_KEY=TOKEN,
        **{SECONDS: str(2 / RANGE_TASKS)},
    )
    settings = Settings(_env_file=None, model_dir=made.model_dir, redis_url=redis.url)
    Projects(settings.model_dir / "projects").remember(uid(1), label_config=LABEL_CONFIG)
    store = JobStore(settings.model_dir / "projects")
    queue = RqQueue(settings, store)
    queue.start()
    try:
        yield Site(made, queue, store)
    finally:
        queue.stop()


def kill(worker: Worker) -> None:
    """Kills a worker and the process of its job at once, as if its host lost power."""
    work_horse = worker.work_horse()
    worker.kill()
    if work_horse is not None:
        with suppress(ProcessLookupError):
            os.kill(work_horse.pid, signal.SIGKILL)


@pytest.mark.slow
def test_killed_workers_lose_no_range(site: Site) -> None:
    workers = site.production.workers(("full", "full"))
    site.start()
    assert eventually(lambda: len(site.running()) == 2, DEADLINE), site.production.logs()
    for worker in workers:
        assert eventually(lambda: bool(site.ranges()), DEADLINE)
        kill(worker)
        site.production.worker("full")
    assert eventually(site.is_complete, DEADLINE), (site.ranges().keys(), site.production.logs()[-3000:])
    first = [*range(1, RANGE_TASKS)]
    assert site.ranges() == {
        number: first if number == 0 else [*range(number * RANGE_TASKS, (number + 1) * RANGE_TASKS)]
        for number in range(RANGES)
    }
    assert eventually(lambda: not site.store.unfinished(uid(1), (EMBED,)), DEADLINE)
    assert [job for job in site.store.newest(uid(1), 1000, (EMBED,)) if job.status != "finished"] == []
    assert eventually(lambda: not [*(site.folder / "work").iterdir()])


@pytest.mark.slow
def test_worker_that_comes_later_takes_part_and_canceling_stops_all(site: Site) -> None:
    site.production.worker("full")
    site.start()
    assert eventually(lambda: len(site.running()) == 1, DEADLINE)
    site.production.worker("full")
    assert eventually(lambda: len(site.running()) == 2, DEADLINE)

    site.queue.cancel(site.running()[0].id)

    assert eventually(lambda: not site.store.unfinished(uid(1), (EMBED,)), DEADLINE)
    assert site.embeddings.wanted() is None
    assert not site.is_complete()
    assert len(site.ranges()) < RANGES
