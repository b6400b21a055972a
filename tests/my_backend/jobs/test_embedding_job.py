"""Embedding jobs: every task is in one range, however many workers there are and whatever interrupts them."""

import errno
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from my_backend.errors import LabelStudioError
from my_backend.jobs import embedding_job
from my_backend.jobs.embedding_job import EmbeddingJob
from my_backend.jobs.embedding_renewal import EmbeddingRenewal
from my_backend.jobs.record import EMBED, Job, new_job
from my_backend.jobs.run import run_job
from my_backend.jobs.store import JobStore
from my_backend.label_studio import task_pages
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects import embeddings as embeddings_module
from my_backend.projects.embeddings import Embeddings
from my_backend.projects.registry import Projects
from my_backend.serving.model_api import Json, ModelAPI
from testing.fake_label_studio.annotated_projects import LABEL_CONFIG, TOKEN, uid
from testing.fake_label_studio.many_tasks import ManyTasks
from testing.http_server import Reply, Seen, json_reply
from tests.my_backend.conftest import MakeSettings

RANGE = 10  # tasks, instead of thousands


class Embedder(ModelAPI):
    """Writes the ids of tasks in place of their embeddings."""

    space = "first"
    unreadable: frozenset[int] = frozenset()
    before_file: Callable[[], None] = staticmethod(lambda: None)

    def embedding_space(self) -> str:
        return self.space

    def embed(self, pages: Iterable[Sequence[Json]], file: Path, check: Callable[[], None]) -> int:
        ids = []
        for tasks in pages:
            check()
            ids += [task["id"] for task in tasks if task["id"] not in self.unreadable]
        self.before_file()
        file.write_text(" ".join(map(str, ids)))
        return len(ids)


class Site:
    """A project with workers, which are threads of the tests."""

    def __init__(self, projects: Projects, connections: Connections, label_studio: ManyTasks) -> None:
        self.projects, self.label_studio, self.connections = projects, label_studio, connections
        self.project = projects.get(uid(1))
        self.store = JobStore(projects.root)
        self.embeddings = Embeddings(self.project.folder)
        self.model = Embedder()
        self.submitted = 0

    def submit(self, project: str) -> None:
        self.submitted += 1

    def run(self) -> Job:
        """What a worker does with one job."""
        job = new_job(uid(1), EMBED, "test")
        self.store.folder(uid(1)).mkdir(exist_ok=True)
        self.store.save(job)
        work = EmbeddingJob(self.projects, self.connections, lambda *_: self.model, self.submit)  # type: ignore[arg-type]
        return run_job(job, self.store, work, lambda: False)

    def embedded(self, space: str = "first") -> list[int]:
        """The ids in all files."""
        files = [one.path for one in self.embeddings.ranges(space).values()]
        return sorted(int(task) for path in files for task in path.read_text().split())

    def is_complete(self) -> bool:
        wanted = self.embeddings.wanted()
        return wanted is not None and wanted.complete


@pytest.fixture
def site(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(embeddings_module, "RANGE_TASKS", RANGE)
    with ManyTasks(range(1, 46)).running() as label_studio:
        settings = make_settings(label_studio_url=label_studio.url, label_studio_api_key=TOKEN)
        projects = Projects.of(settings)
        projects.remember(uid(1), label_config=LABEL_CONFIG)
        site = Site(projects, Connections(settings), label_studio)
        site.embeddings.want()
        yield site


def test_one_job_embeds_all_tasks_and_submits_one_for_others(site: Site) -> None:
    job = site.run()
    assert (job.status, job.result) == ("finished", {"ranges": 5, "images": 45, "tasks": 45})
    assert site.embedded() == [*range(1, 46)]
    assert site.is_complete()
    assert site.submitted == 1


def test_ranges_without_tasks_are_skipped(site: Site) -> None:
    site.label_studio.ids = [3, 4, 57, 1_000_000_007]
    assert site.run().result == {"ranges": 3, "images": 4, "tasks": 4}
    assert site.embedded() == site.label_studio.ids
    assert site.is_complete()


def test_project_without_tasks_is_complete(site: Site) -> None:
    site.label_studio.ids = []
    assert site.run().result["ranges"] == 0
    assert site.is_complete()


def test_ranges_of_another_worker_are_left_to_it(site: Site) -> None:
    (site.project.folder / "embeddings" / "first").mkdir(parents=True)
    with site.embeddings.claimed("first", 2):
        assert site.run().result["ranges"] == 4
        assert not site.is_complete()
    assert site.run().result == {"ranges": 1, "images": 10, "tasks": 10}
    assert site.embedded() == [*range(1, 46)]
    assert site.is_complete()


def test_last_of_several_workers_notes_that_all_is_done(site: Site) -> None:
    """Each comes to a range while the other one has it."""
    is_in_range_0, is_in_range_1, first_has_ended = threading.Event(), threading.Event(), threading.Event()
    first = threading.current_thread()
    second = threading.Thread(target=site.run)

    def wait() -> None:
        if threading.current_thread() is first and not is_in_range_0.is_set():
            is_in_range_0.set()
            second.start()
            assert is_in_range_1.wait(60)
        elif threading.current_thread() is second:
            is_in_range_1.set()
            assert first_has_ended.wait(60)

    site.model.before_file = wait  # type: ignore[method-assign]
    assert site.run().result["ranges"] == 4
    assert not site.is_complete()
    first_has_ended.set()
    second.join()
    assert site.embedded() == [*range(1, 46)]
    assert site.is_complete()


def test_range_that_another_job_has_just_done_is_not_done_again(site: Site) -> None:
    """It is finished between this job's look and its claim."""
    others: list[Job] = []

    def let_another_job_do_all() -> None:
        if not others:
            others.append(new_job(uid(1), EMBED, "other"))
            others[0] = site.run()

    site.model.before_file = let_another_job_do_all  # type: ignore[method-assign]
    first = site.run()
    assert others[0].result["ranges"] == 4
    assert first.result["ranges"] == 1
    assert site.embedded() == [*range(1, 46)]


def test_finished_ranges_cost_few_listings_and_one_request(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: each job walks past all of them."""
    site.run()
    listings, pages = [], []
    ranges, page = Embeddings.ranges, task_pages._page
    monkeypatch.setattr(Embeddings, "ranges", lambda self, space: listings.append(space) or ranges(self, space))
    monkeypatch.setattr(task_pages, "_page", lambda *args, **more: pages.append(args) or page(*args, **more))

    assert site.run().result["ranges"] == 0

    assert len(listings) == 3, "the walk, the look whether none is left, and the number of tasks in them"
    assert len(pages) == 1, "the newest task"
    assert site.submitted == 1


def test_imported_tasks_extend_the_last_range_and_add_others(site: Site) -> None:
    site.run()
    site.label_studio.ids = range(1, 63)
    assert site.run().result == {"ranges": 3, "images": 23, "tasks": 23}
    assert site.embedded() == [*range(1, 63)]
    assert len(site.embeddings.ranges("first")) == 7


def test_new_network_renews_all_ranges_and_old_ones_go_last(site: Site) -> None:
    site.run()
    site.project.versions.publish_first({}, cause="test", choices=("Cat", "Dog"))
    site.model.space = "second"
    kept: list[int] = []
    site.model.before_file = lambda: kept.append(len(site.embedded("first")))  # type: ignore[method-assign]
    assert site.run().result["ranges"] == 5
    assert kept == [45] * 5
    assert site.embedded("second") == [*range(1, 46)]
    assert site.embedded("first") == []


def test_job_ends_when_another_worker_has_begun_with_a_new_network(site: Site) -> None:
    site.model.before_file = lambda: site.embeddings.begin("v2", "second", 45)  # type: ignore[method-assign]
    assert site.run().result["ranges"] == 1
    assert not site.is_complete()


def test_unreadable_images_are_counted_and_tried_again_when_people_ask(site: Site) -> None:
    site.model.unreadable = frozenset({7, 8})
    assert site.run().result == {"ranges": 5, "images": 43, "tasks": 45}
    assert site.is_complete()
    site.model.unreadable = frozenset({8})
    assert site.run().result["ranges"] == 0
    time.sleep(0.01)  # the file's time must be before the next question
    site.embeddings.want()
    assert site.run().result == {"ranges": 1, "images": 8, "tasks": 9}
    assert site.embedded() == [task for task in range(1, 46) if task != 8]


def test_canceling_one_job_stops_the_others(site: Site) -> None:
    def cancel() -> None:
        [running] = site.store.unfinished(uid(1), (EMBED,))
        site.store.request_cancel(running)

    site.model.before_file = cancel  # type: ignore[method-assign]
    assert site.run().status == "canceled"
    assert site.embeddings.wanted() is None
    done = site.embedded()
    assert site.run().result["ranges"] == 0
    assert site.embedded() == done


def test_job_ends_after_its_turn_and_submits_the_next(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_job, "TURN_SECONDS", -1.0)
    for job in range(1, 5):
        assert site.run().result["ranges"] == 1
        assert site.submitted == 2 * job
        assert not site.is_complete()
    assert site.run().result["ranges"] == 1
    assert site.is_complete()


def test_full_disk_fails_the_job_with_the_reason_and_leaves_no_half_file(site: Site) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    site.model.before_file = fail  # type: ignore[method-assign]
    job = site.run()
    assert (job.status, job.error) == ("failed", "Can't write embeddings to MODEL_DIR: No space left on device")
    assert site.embedded() == []
    site.model.before_file = lambda: None  # type: ignore[method-assign]
    site.run()
    assert site.is_complete()


def test_label_studio_that_goes_away_within_a_range_costs_only_that_range(site: Site) -> None:
    asked = site.label_studio.answer

    def answer(seen: Seen) -> Reply:
        is_down = len(site.embeddings.ranges("first")) == 2 and "less" in unquote(seen.path)
        return json_reply({"detail": "restarting"}, 503) if is_down else asked(seen)

    site.label_studio.answer = answer  # type: ignore[method-assign]
    job = site.run()
    assert job.status == "failed"
    assert "503" in str(job.error)
    assert site.embedded() == [*range(1, 20)]
    assert [path.name for path in (site.embeddings._folder / "first").iterdir() if path.name.startswith(".")] == []

    site.label_studio.answer = asked  # type: ignore[method-assign]
    assert site.run().result == {"ranges": 3, "images": 26, "tasks": 26}
    assert site.embedded() == [*range(1, 46)]
    assert site.is_complete()


def test_model_class_without_embeddings_says_so_and_is_not_asked_again(site: Site) -> None:
    site.model.space = ""
    job = site.run()
    assert job.status == "failed"
    assert "has no embeddings to share" in job.error
    assert site.embeddings.wanted() is None


def test_progress_counts_tasks_of_all_workers(site: Site) -> None:
    seen: list[Any] = []

    def look() -> None:
        [running] = site.store.unfinished(uid(1), (EMBED,))
        seen.append((running.progress["image"], running.progress["images"]))

    with site.embeddings.claimed("first", 0):  # the folder appears
        written = site.embeddings.new_file("first")
        written.write_text(" ".join(map(str, range(1, 10))))
        site.embeddings.add(written, 0, RANGE - 1, 9, 9)
    site.model.before_file = look  # type: ignore[method-assign]
    site.run()
    assert seen[0] == (9, 45)


def test_renewal_submits_only_if_there_is_something_to_do(site: Site) -> None:
    causes: list[str] = []

    class Queue:
        def submit(self, project: str, kind: str, cause: str) -> None:
            assert (project, kind) == (uid(1), EMBED)
            causes.append(cause)

    renewal = EmbeddingRenewal(Queue())  # type: ignore[arg-type]
    client = site.connections.needed(None)

    def look() -> str:
        causes.clear()
        renewal.visit(site.project, Snapshot(client, 1))
        return causes[0] if causes else ""

    assert look() == "embeddings are missing"
    site.run()
    assert look() == ""
    site.label_studio.ids = range(1, 63)
    assert look() == "tasks were imported or deleted"
    site.run()
    assert look() == ""
    next(iter(site.embeddings.ranges("first").values())).path.unlink()
    assert look() == "a damaged file was removed"
    site.run()
    site.project.versions.publish_first({}, cause="test", choices=("Cat", "Dog"))
    assert look() == "another version is live"
    site.run()
    assert look() == ""
    site.embeddings.stop()
    assert look() == ""


def test_renewal_waits_while_label_studio_is_unreachable(site: Site) -> None:
    class Down(Snapshot):
        def project(self) -> Json:
            raise LabelStudioError("down")

    site.run()
    EmbeddingRenewal(None).visit(site.project, Down(site.connections.needed(None), 1))  # type: ignore[arg-type]
    EmbeddingRenewal(None).visit(site.project, None)  # type: ignore[arg-type]
