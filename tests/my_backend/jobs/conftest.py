from pathlib import Path
from typing import Any

import pytest

from my_backend.jobs.record import Job, new_job
from my_backend.jobs.store import JobStore


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path)


def submitted(store: JobStore, project: str = "7.1", **fields: Any) -> Job:
    job = Job(**{**vars(new_job(project, "head", "test")), **fields})
    store.folder(project).mkdir(parents=True, exist_ok=True)
    store.save(job)
    return job
