import errno
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from my_backend.errors import Stopped, TrainingError
from my_backend.jobs.record import Job, new_job
from my_backend.jobs.run import CANCELED, MAX_ATTEMPTS, RunningJob, Work, cancel_waiting, run_job, yield_to_others
from my_backend.jobs.store import KEPT_JOBS, JobStore
from my_backend.projects.registry import Projects
from tests.broken_disk import failing
from tests.my_backend.jobs.conftest import submitted


def run(job: Job, store: JobStore, work: Work = lambda running: {}, shutting_down: bool = False) -> Job:
    return run_job(job, store, work, lambda: shutting_down)


def test_job_that_ends_well_keeps_its_result(store: JobStore) -> None:
    job = submitted(store)

    ended = run(job, store, lambda running: {"versions": ["v1"]})

    assert (ended.status, ended.result, ended.error, ended.attempts) == ("finished", {"versions": ["v1"]}, "", 1)
    assert ended.started is not None
    assert ended.ended is not None
    assert job.created <= ended.started <= ended.ended
    assert store.get(job.id) == ended


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TrainingError("Label more images."), "Label more images."),
        (KeyError("x"), "KeyError: 'x'"),
        (Stopped(CANCELED), CANCELED),
    ],
)
def test_job_that_ends_badly_says_why_in_one_line(store: JobStore, error: Exception, said: str) -> None:
    def fail(running: RunningJob) -> dict[str, Any]:
        raise error

    ended = run(submitted(store), store, fail)

    assert ended.status == ("canceled" if said == CANCELED else "failed")
    assert (ended.error, store.get(ended.id)) == (said, ended)


def test_shutdown_leaves_the_job_queued_with_its_folder_at_no_attempt(store: JobStore) -> None:
    job = submitted(store, attempts=1, futile=1)

    def work(running: RunningJob) -> dict[str, Any]:
        store.workdir(running.job).mkdir(parents=True)
        (store.workdir(running.job) / "checkpoint").touch()
        running.check()
        raise AssertionError("the check must end the job")

    run(job, store, work, shutting_down=True)

    kept = store.get(job.id)
    assert (kept.status, kept.attempts, kept.futile, kept.ended) == ("queued", 1, 1, None)
    assert (store.workdir(kept) / "checkpoint").exists()


def test_job_that_took_its_process_down_too_often_is_given_up(store: JobStore) -> None:
    job = submitted(store, status="started", attempts=5, futile=MAX_ATTEMPTS)

    ended = run(job, store, lambda running: pytest.fail("must not run"))

    assert ended.status == "failed"
    assert f"died {MAX_ATTEMPTS} times" in ended.error


def test_job_killed_now_and_then_continues_as_long_as_it_makes_progress(store: JobStore) -> None:
    """As where workers are taken away at any time, hour after hour."""
    job = submitted(store)

    def runs_to(*epochs: int) -> int:
        def killed(running: RunningJob) -> dict[str, Any]:
            for epoch in epochs:
                running.progress({"phase": "all layers", "epoch": epoch})
            store.save(running.job)
            raise KeyboardInterrupt  # nothing is written after it, as after a kill

        with pytest.raises(KeyboardInterrupt):
            run(store.get(job.id), store, killed)
        return store.get(job.id).futile

    further = [runs_to(1), runs_to(2), runs_to(3, 4), runs_to(5)]
    stuck = [runs_to(), runs_to(1, 2), runs_to(3)]  # the last one further than the one before, not than all

    assert (further, stuck) == ([0, 0, 0, 0], [1, 2, 3])
    assert run(store.get(job.id), store).status == "failed"
    assert store.get(job.id).attempts == 7


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
@pytest.mark.parametrize(("before", "after"), [(0, 10), (15, 15)])
def test_long_training_lowers_its_priority_and_never_raises_it(before: int, after: int) -> None:
    found = []

    def work() -> None:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(before, os.getpriority(os.PRIO_PROCESS, thread)))
        yield_to_others()
        found.append(os.getpriority(os.PRIO_PROCESS, thread))

    own = threading.Thread(target=work)
    own.start()
    own.join()

    assert found == [max(after, os.getpriority(os.PRIO_PROCESS, 0))]


@pytest.mark.parametrize("fails", [False, True])
def test_ended_job_leaves_no_folder(store: JobStore, fails: bool) -> None:
    job = submitted(store)

    def work(running: RunningJob) -> dict[str, Any]:
        store.workdir(running.job).mkdir(parents=True)
        store.request_cancel(running.job)  # too late
        return {"a": 1 / (not fails)}

    ended = run(job, store, work)

    assert list(store.workdir(ended).parent.iterdir()) == []
    assert [path.name for path in store.workdir(ended).parents[1].glob("jobs/*")] == [f"{job.id}.json"]


def checkpoint(store: JobStore, running: RunningJob) -> Path:
    return store.workdir(running.job) / "checkpoint"


@pytest.mark.parametrize(
    "comes_back",
    [
        pytest.param(lambda running, store: running.progress({"phase": "another"}), id="tells of progress"),
        pytest.param(lambda running, store: running.annotations_were_read(), id="has read"),
        pytest.param(lambda running, store: running.check_runner(), id="would publish"),
        pytest.param(lambda running, store: checkpoint(store, running).write_text("old"), id="writes"),
        pytest.param(lambda running, store: {"versions": []}, id="ends"),
        pytest.param(lambda running, store: 1 / 0, id="fails"),
        pytest.param(lambda running, store: store.request_cancel(running.job) or running.check(), id="is canceled"),
    ],
)
def test_job_that_another_took_over_no_longer_changes_anything(
    store: JobStore, comes_back: Callable[[RunningJob, JobStore], Any]
) -> None:
    """As where a file server gave up the locks of a host that it did not hear of."""
    at_it, may_end = threading.Event(), threading.Event()

    def second(running: RunningJob) -> dict[str, Any]:
        assert checkpoint(store, running).read_text() == "of the first"
        checkpoint(store, running).write_text("of the second")
        at_it.set()
        assert may_end.wait(60)
        assert checkpoint(store, running).read_text() == "of the second"
        running.check_runner()
        return {"versions": ["v2"]}

    def first(running: RunningJob) -> Any:
        store.workdir(running.job).mkdir(parents=True)
        checkpoint(store, running).write_text("of the first")
        other.submit(run, store.get(running.job.id), store, second)
        assert at_it.wait(60)
        return comes_back(running, store)

    with ThreadPoolExecutor(1) as other:
        job = submitted(store)
        run(job, store, first)
        kept = store.get(job.id)
        may_end.set()
    assert (kept.status, kept.attempts) == ("started", 2)
    ended = store.get(job.id)
    assert (ended.status, ended.result, ended.error) == ("finished", {"versions": ["v2"]}, "")
    assert list(store.workdir(ended).parent.iterdir()) == []


@pytest.mark.parametrize("last", ["aaaaaaaa", "bbbbbbbb"])
def test_job_continues_the_last_run_if_several_left_their_folder(store: JobStore, last: str) -> None:
    """As where a process that another one took over created its folder again, and was killed then."""
    job = submitted(store, status="started", runner=last)
    for runner in ("aaaaaaaa", "bbbbbbbb"):
        left = RunningJob(replace(job, runner=runner), store, lambda: False)
        store.workdir(left.job).mkdir(parents=True)
        checkpoint(store, left).write_text(runner)

    ended = run(job, store, lambda running: {"found": checkpoint(store, running).read_text()})

    assert ended.result == {"found": last}
    assert list(store.workdir(ended).parent.iterdir()) == []


def test_ended_job_leaves_no_folder_of_another_run(store: JobStore) -> None:
    def work(running: RunningJob) -> dict[str, Any]:
        store.workdir(replace(running.job, runner="aaaaaaaa")).mkdir(parents=True)
        return {}

    ended = run(submitted(store), store, work)

    assert list(store.workdir(ended).parent.iterdir()) == []


def test_cancel_ends_a_running_job_at_its_next_step(store: JobStore) -> None:
    def work(running: RunningJob) -> dict[str, Any]:
        running.progress({"phase": "training"})
        store.request_cancel(running.job)
        running.progress({"loss": 1})
        raise AssertionError("the step must end the job")

    ended = run(submitted(store), store, work)

    assert (ended.status, ended.error, ended.progress) == ("canceled", CANCELED, {"phase": "training"})


def test_cancel_goes_before_a_shutdown(store: JobStore) -> None:
    job = submitted(store)
    store.request_cancel(job)

    def work(running: RunningJob) -> dict[str, Any]:
        running.check()
        return {}

    assert run(job, store, work, shutting_down=True).status == "canceled"


def test_cancelled_job_that_waits_is_never_run(store: JobStore) -> None:
    job = submitted(store)

    assert cancel_waiting(job, store).status == "canceled"
    assert store.get(job.id).status == "canceled"


def test_job_of_a_deleted_project_ends_and_leaves_nothing(store: JobStore, tmp_path: Path) -> None:
    projects = Projects(tmp_path)

    def work(running: RunningJob) -> dict[str, Any]:
        running.progress({"phase": "training"})
        projects.delete("7.1")
        running.progress({"phase": "evaluating"})
        raise AssertionError("the step must end the job")

    assert run(submitted(store), store, work).status == "canceled"
    assert run(new_job("7.1", "head", "test"), store, work).status == "canceled"
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".tally")] == []


@pytest.mark.parametrize("comes_back", [False, True])
def test_traces_of_a_job_whose_project_was_deleted_are_removed(
    store: JobStore, tmp_path: Path, comes_back: bool
) -> None:
    projects = Projects(tmp_path)
    folder = projects.folder("7.1")

    def work(running: RunningJob) -> dict[str, Any]:
        projects.delete("7.1")
        (store.workdir(running.job) / "model").mkdir(parents=True)  # as a model class does
        if comes_back:
            projects.remember("7.1", label_config="<View/>")
        return {}

    run(submitted(store), store, work)

    assert folder.exists() == comes_back


def test_project_is_not_removed_if_its_record_and_jobs_are_missing(store: JobStore, tmp_path: Path) -> None:
    """So many jobs ended during a long one that its record was thinned out, and project.json was lost."""
    version = tmp_path / "7.1" / "versions" / "v1-20261120T132501"
    version.mkdir(parents=True)

    def work(running: RunningJob) -> dict[str, Any]:
        for number in range(KEPT_JOBS + 1):
            submitted(store, "7.1", id=f"head-{number}", created=running.job.created + 1 + number, status="finished")
        return {}

    ended = run(submitted(store), store, work)

    assert not store.has(ended)
    assert version.exists()


def test_nothing_is_removed_of_a_project_whose_folder_cannot_be_listed(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submitted(store)
    shutil.rmtree(tmp_path / "7.1")
    work = store.workdir(job).parent
    work.mkdir(parents=True)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "iterdir", failing(errno.EIO))
        store.remove_traces_if_deleted(job)
    assert work.exists()

    store.remove_traces_if_deleted(job)
    assert not (tmp_path / "7.1").exists()


def test_project_that_is_just_being_connected_again_is_kept(store: JobStore, tmp_path: Path) -> None:
    job = submitted(store)
    shutil.rmtree(tmp_path / "7.1")
    store.workdir(job).parent.mkdir(parents=True)
    half = tmp_path / "7.1" / ".part-0a1b2c3d"  # of project.json
    half.touch()

    store.remove_traces_if_deleted(job)

    assert half.exists()


def test_job_is_not_refused_because_the_disk_fails(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "7.1").mkdir()

    with monkeypatch.context() as broken, pytest.raises(OSError, match="Input/output error"):
        broken.setattr(Path, "iterdir", failing(errno.EIO))
        broken.setattr(Path, "exists", lambda path: False)  # what Python 3.14 says after an error
        store.add(new_job("7.1", "head", "test"))


def test_progress_keeps_what_was_said_of_the_same_phase(store: JobStore) -> None:
    running = RunningJob(submitted(store), store, lambda: False)

    running.progress({"phase": "training", "epoch": 1, "epochs": 2})
    running.progress({"loss": 0.5})
    assert running.job.progress == {"phase": "training", "epoch": 1, "epochs": 2, "loss": 0.5}
    running.progress({"phase": "evaluating"})

    assert running.job.progress == store.get(running.job.id).progress == {"phase": "evaluating"}


@pytest.mark.parametrize("number", [np.float32(0.5), np.array(0.5), torch.tensor(0.5)])
def test_progress_takes_the_numbers_of_numpy_and_torch(store: JobStore, number: Any) -> None:
    def work(running: RunningJob) -> dict[str, Any]:
        running.progress({"phase": "training", "epoch": np.int64(1), "loss": number})
        return {}

    ended = run(submitted(store), store, work)

    assert (ended.status, ended.progress["loss"], ended.furthest) == ("finished", 0.5, {"training": 1})
    assert store.get(ended.id) == ended


@pytest.mark.parametrize("value", [np.zeros(2), Path(), {1, 2}])
def test_progress_that_cannot_be_stored_fails_the_job(store: JobStore, value: Any) -> None:
    def work(running: RunningJob) -> dict[str, Any]:
        running.progress({"phase": "training", "loss": value})
        return {}

    ended = run(submitted(store), store, work)

    assert ended.status == "failed"
    assert ended.error.startswith("fit() reported progress that can't be stored as JSON: ")
    assert store.get(ended.id) == ended


def test_error_that_is_not_valid_unicode_is_stored(store: JobStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # a process of pytest couldn't report the captured log to another one

    def fail(running: RunningJob) -> dict[str, Any]:
        raise ValueError("can't read caf\udce9.jpg")  # as Python decodes the name of a file in Latin-1

    ended = run(submitted(store), store, fail)

    assert store.get(ended.id).error == "ValueError: can't read caf?.jpg"


def test_progress_does_not_wear_out_the_disk(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    running = RunningJob(submitted(store), store, lambda: False)
    monkeypatch.setattr("my_backend.jobs.run.time.monotonic", lambda: 1000.0)
    for step in range(100):
        running.progress({"phase": "training", "epoch": step})
    assert store.get(running.job.id).progress["epoch"] == 0

    monkeypatch.setattr("my_backend.jobs.run.time.monotonic", lambda: 1001.0)
    running.progress({"epoch": 100})

    assert store.get(running.job.id).progress["epoch"] == 100


def test_annotations_that_were_read_are_noted_until_the_job_starts_again(store: JobStore) -> None:
    running = RunningJob(submitted(store), store, lambda: False)
    running.annotations_were_read()
    assert store.get(running.job.id).annotations_read

    seen: list[bool] = []
    run(running.job, store, lambda running: {"n": seen.append(store.get(running.job.id).annotations_read)})

    assert seen == [False]


def test_only_the_newest_ended_records_are_kept(store: JobStore) -> None:
    waiting = submitted(store, created=0.5)
    other = submitted(store, project="8.1", created=0.5, status="finished")
    for number in range(KEPT_JOBS + 5):
        submitted(store, created=float(number + 1), status="finished")

    newest = run(submitted(store, created=1000.0), store)

    kept = store.of_project("7.1")
    assert (kept[0], kept[-1], len(kept)) == (waiting, newest, KEPT_JOBS + 1)
    assert store.get(other.id) == other
