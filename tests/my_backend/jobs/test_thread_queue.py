"""What is special about the queue in the server's process; what both queues promise is in production/test_queues.py."""

import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from my_backend.errors import NotFound
from my_backend.jobs.record import EMBED, Job, Kind, Status, new_job
from my_backend.jobs.run import RunningJob
from my_backend.jobs.store import JobStore
from my_backend.jobs.thread_queue import NO_WORKERS, ThreadQueue
from testing.waiting import eventually

SECONDS = 30.0


class Work:
    """Jobs that go from step to step as the test says."""

    def __init__(self) -> None:
        self.runs: list[RunningJob] = []
        self.may_read, self.may_end = threading.Event(), threading.Event()

    def __call__(self, running: RunningJob) -> dict[str, Any]:
        self.runs.append(running)
        self._wait(self.may_read, running)
        running.annotations_were_read()
        self._wait(self.may_end, running)
        return {"done": True}

    def _wait(self, event: threading.Event, running: RunningJob) -> None:
        while not event.wait(0.005):
            running.check()

    def release(self) -> None:
        self.may_read.set()
        self.may_end.set()

    @property
    def started(self) -> list[str]:
        return [running.job.id for running in self.runs]


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    for project in ("7.1", "8.1", "9.1"):
        (tmp_path / project / "jobs").mkdir(parents=True)
    return JobStore(tmp_path)


@pytest.fixture
def work() -> Work:
    return Work()


StartQueue = Callable[..., ThreadQueue]


@pytest.fixture
def start_queue(store: JobStore) -> Iterator[StartQueue]:
    queues: list[ThreadQueue] = []

    def start(work: Callable[[RunningJob], dict[str, Any]]) -> ThreadQueue:
        queues.append(ThreadQueue(store, work))
        queues[-1].start()
        return queues[-1]

    yield start
    for queue in queues:
        queue.stop()


@pytest.fixture
def queue(start_queue: StartQueue, work: Work) -> ThreadQueue:
    return start_queue(work)


def status(store: JobStore, job: Job) -> str:
    return store.get(job.id).status


def test_storm_of_submits_runs_one_at_a_time_and_each_is_learned(start_queue: StartQueue, store: JobStore) -> None:
    count = threading.Lock()
    running_now: Counter[tuple[str, Kind]] = Counter()
    most_running, most_waiting = 0, 0
    read_at: dict[str, float] = {}

    def work(running: RunningJob) -> dict[str, Any]:
        nonlocal most_running
        key = (running.job.project, running.job.kind)
        with count:
            running_now[key] += 1
            most_running = max(most_running, running_now[key])
        running.annotations_were_read()
        read_at[running.job.id] = time.monotonic()
        time.sleep(0.002)
        with count:
            running_now[key] -= 1
        return {}

    queue = start_queue(work)
    asked: list[tuple[str, float]] = []
    start = threading.Barrier(8)

    def storm(project: str, kind: Kind) -> None:
        nonlocal most_waiting
        start.wait()
        for _ in range(25):
            at = time.monotonic()
            asked.append((queue.submit(project, kind, "storm").id, at))
            with queue._lock:
                waiting = Counter(job.project for job in queue._waiting[kind])
            most_waiting = max(most_waiting, *waiting.values(), 0)

    places: list[tuple[str, Kind]] = [("7.1", "head"), ("7.1", "full"), ("8.1", "head"), ("8.1", "full")]
    threads = [threading.Thread(target=storm, args=place) for place in places * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert eventually(lambda: all(not job.unfinished for job in store.all()))
    assert (len(asked), most_running, most_waiting) == (200, 1, 1)
    assert [job for job, at in asked if read_at[job] < at] == []


def test_shutdown_keeps_jobs_and_the_next_start_takes_them_up_in_order(
    start_queue: StartQueue, queue: ThreadQueue, work: Work, store: JobStore
) -> None:
    running = queue.submit("7.1", "full", "test")
    assert eventually(lambda: work.started == [running.id])
    waiting = queue.submit("8.1", "full", "test")

    queue.stop()

    assert [(job.id, job.status) for job in store.all()] == [(running.id, "queued"), (waiting.id, "queued")]
    again = Work()
    again.release()
    start_queue(again)
    assert eventually(lambda: status(store, waiting) == "finished")
    assert again.started == [running.id, waiting.id]
    assert [job.attempts for job in store.all()] == [1, 1]


def test_start_takes_up_what_a_killed_process_left(
    start_queue: StartQueue, work: Work, store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    killed = replace(new_job("7.1", "full", "test"), status="started", attempts=1, progress={"epoch": 3})
    hopeless = replace(new_job("8.1", "head", "test"), status="started", attempts=3, futile=3)
    ended = replace(new_job("9.1", "head", "test"), status="failed")
    for job in (killed, hopeless, ended):
        store.save(job)
    work.release()

    with caplog.at_level(logging.WARNING):
        start_queue(work)

    assert eventually(lambda: status(store, killed) == "finished" and status(store, hopeless) == "failed")
    assert work.started == [killed.id]
    assert (store.get(killed.id).attempts, store.get(killed.id).progress) == (2, {})
    assert store.get(ended.id) == ended
    assert f"{killed.id} was running when the process died" in caplog.text


@pytest.mark.parametrize("found", ["queued", "started"])
def test_embedding_job_of_former_workers_ends(
    start_queue: StartQueue, work: Work, store: JobStore, found: Status
) -> None:
    left = replace(new_job("7.1", EMBED, "test"), status=found)
    store.save(left)
    work.release()
    queue = start_queue(work)

    assert (store.get(left.id).status, store.get(left.id).error) == ("failed", NO_WORKERS)
    assert queue.cancel(left.id).status == "failed"

    training = queue.submit("7.1", "head", "test")
    assert eventually(lambda: status(store, training) == "finished")
    assert work.started == [training.id]


def test_embedding_job_whose_record_cannot_be_written_neither_ends_the_start_nor_breaks_canceling(
    start_queue: StartQueue, work: Work, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = new_job("7.1", EMBED, "test")
    store.save(left)
    work.release()

    def fail(job: Job, **_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "keep", fail)
        queue = start_queue(work)

    assert queue.cancel(left.id) == left
    training = queue.submit("7.1", "head", "test")
    assert eventually(lambda: status(store, training) == "finished")


def test_job_whose_record_cannot_be_written_does_not_end_the_queue(
    queue: ThreadQueue, work: Work, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.may_read.set()
    first = queue.submit("7.1", "full", "test")
    assert eventually(lambda: work.runs and work.runs[0].job.annotations_read)

    def fail(job: Job, **_: object) -> None:
        failed.append(job.id)
        raise OSError("disk full")

    failed: list[str] = []
    with monkeypatch.context() as patch:
        for name in ("save", "update", "keep"):
            patch.setattr(store, name, fail)
        work.may_end.set()
        assert eventually(lambda: queue._running["full"] is None)

    assert failed and set(failed) == {first.id}
    assert status(store, first) == "started"  # the next start runs it again
    second = queue.submit("7.1", "full", "test")
    assert eventually(lambda: status(store, second) == "finished")
    assert first.id != second.id


def test_job_of_a_deleted_project_is_refused_and_does_not_bring_it_back(
    start_queue: StartQueue, work: Work, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "8.1")
    with pytest.raises(NotFound, match=r"project 8\.1 was deleted"):
        start_queue(work).submit("8.1", "head", "test")
    assert not (tmp_path / "8.1").exists()


def test_job_is_refused_if_only_traces_of_its_project_are_left(
    start_queue: StartQueue, work: Work, tmp_path: Path
) -> None:
    """A training that ends after the deletion locks what it has learned, and asks for a correction."""
    shutil.rmtree(tmp_path / "8.1")
    (tmp_path / "8.1").mkdir()
    (tmp_path / "8.1" / ".learned").touch()
    with pytest.raises(NotFound, match=r"project 8\.1 was deleted"):
        start_queue(work).submit("8.1", "head", "test")
    assert not (tmp_path / "8.1" / "jobs").exists()


def test_submit_after_the_cancel_of_a_job_that_still_reads_is_another_job(
    queue: ThreadQueue, store: JobStore, work: Work
) -> None:
    running = queue.submit("7.1", "full", "test")
    assert eventually(lambda: work.started)
    assert queue.submit("7.1", "full", "test").id == running.id

    with queue._lock:  # so that the job hasn't noticed it yet
        queue.cancel(running.id)
        waiting = queue.submit("7.1", "full", "test")

    assert eventually(lambda: status(store, running) == "canceled")
    work.release()
    assert eventually(lambda: status(store, waiting) == "finished")


def test_submit_while_the_record_of_a_failed_job_is_written_is_another_job(
    start_queue: StartQueue, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job failed before it had read the annotations."""
    writing, may_write = threading.Event(), threading.Event()
    keep = store.keep

    def slow(job: Job, **options: Any) -> None:
        if job.status == "failed":
            writing.set()
            may_write.wait(SECONDS)
        keep(job, **options)

    def fail(running: RunningJob) -> dict[str, Any]:
        raise RuntimeError("no")

    monkeypatch.setattr(store, "keep", slow)
    queue = start_queue(fail)
    failed = queue.submit("7.1", "full", "test")
    assert writing.wait(SECONDS)

    waiting = queue.submit("7.1", "full", "test")

    may_write.set()
    assert waiting.id != failed.id
    assert eventually(lambda: status(store, waiting) == "failed")
