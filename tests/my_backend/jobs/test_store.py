from pathlib import Path

import pytest

from my_backend.errors import NotFound
from my_backend.jobs.record import new_job
from my_backend.jobs.store import JobStore
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
