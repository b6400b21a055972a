import time
from pathlib import Path

import pytest

from my_backend.errors import NotFound
from my_backend.jobs.record import EMBED, KINDS, Kind, new_job
from my_backend.jobs.store import KEPT_JOBS, JobStore
from tests.my_backend.jobs.conftest import submitted


def test_records_outlive_the_process(store: JobStore, tmp_path: Path) -> None:
    first = submitted(store, progress={"phase": "training", "loss": 0.5}, status="started", attempts=2)
    second = submitted(store)
    other = submitted(store, project="8.1")

    again = JobStore(tmp_path)

    assert again.of_project("7.1") == [first, second]
    assert again.all() == [first, second, other]
    assert again.get(other.id) == other


@pytest.mark.parametrize("job_id", ["head-1", "", "*", "../x", "a/b", "[a-z]*", "x" * 5000, "\0", "é", "a\n"])
def test_unknown_job_is_refused(store: JobStore, job_id: str) -> None:
    submitted(store)

    with pytest.raises(NotFound, match="no job"):
        store.get(job_id)


def test_ids_differ_within_a_second() -> None:
    assert len({new_job("7.1", "head", "test").id for _ in range(200)}) == 200


def test_lists_have_trainings_alone_unless_embedding_jobs_are_asked_for(store: JobStore) -> None:
    training, embedding = submitted(store), submitted(store, **vars(new_job("7.1", EMBED, "test")))
    assert store.of_project("7.1") == store.all() == store.newest("7.1", 5) == store.unfinished() == [training]
    assert store.newest("7.1", 5, (EMBED,)) == store.unfinished("7.1", (EMBED,)) == [embedding]
    assert {job.id for job in store.unfinished(kinds=(*KINDS, EMBED))} == {training.id, embedding.id}
    assert store.get(embedding.id) == embedding


@pytest.mark.parametrize("kind", ["head", EMBED])
def test_ended_jobs_do_not_crowd_out_those_of_another_kind(store: JobStore, kind: Kind) -> None:
    training = submitted(store, **{**vars(new_job("7.1", "full", "test")), "status": "finished"})
    for number in range(KEPT_JOBS + 3):
        job = new_job("7.1", kind, "test")
        submitted(store, **{**vars(job), "created": job.created + number, "status": "finished"})
    store.thin_out("7.1")
    assert store.newest("7.1", 5, ("full",)) == [training]
    assert len(store.newest("7.1", KEPT_JOBS + 3, (kind,))) == KEPT_JOBS


def test_job_that_ends_after_the_clock_was_set_back_keeps_its_record(store: JobStore) -> None:
    """Its record seems older than all others; people still want to know how it ended."""
    ahead = time.time() + 24 * 3600
    before = [submitted(store, created=ahead + number, status="finished") for number in range(KEPT_JOBS)]
    ended = submitted(store, status="finished")

    store.thin_out("7.1")

    assert store.get(ended.id) == ended
    with pytest.raises(NotFound):
        store.get(before[0].id)
    assert len(store.of_project("7.1")) == KEPT_JOBS


def test_job_from_before_the_clock_was_set_back_is_not_the_newest(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, how it ended would be shown, and count, until the clock gets there."""
    now = time.time()
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time", lambda: now + 7200)
        canceled = [submitted(store, status="canceled") for _ in range(2)]
    finished = submitted(store, status="finished")

    assert store.newest("7.1", 1) == [finished]
    assert store.newest("7.1", 3) == store.newest("7.1", 5) == [finished, *store.newest("7.1", 5)[1:]]
    assert {job.id for job in store.newest("7.1", 5)[1:]} == {job.id for job in canceled}


def test_job_that_is_canceled_while_it_ends_leaves_no_file_forever(store: JobStore) -> None:
    ended = submitted(store, created=1.0, status="finished")
    store.request_cancel(ended)
    for number in range(KEPT_JOBS):
        submitted(store, created=2.0 + number, status="finished")

    store.thin_out("7.1")

    assert not [path for path in store.folder("7.1").iterdir() if ended.id in path.name]
