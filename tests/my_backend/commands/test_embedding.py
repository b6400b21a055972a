"""`python -m my_backend embed`: it only writes records, which workers and servers follow."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from my_backend.commands.cli import app
from my_backend.jobs.record import EMBED, Job
from my_backend.jobs.store import JobStore
from my_backend.projects.embeddings import Embeddings
from my_backend.projects.registry import Projects
from tests.my_backend.conftest import PROJECT, MakeSettings
from tests.my_backend.embedded_ranges import SPACE, add_range


class Site:
    """The project's files."""

    def __init__(self, projects: Projects) -> None:
        self.embeddings = Embeddings(projects.folder(PROJECT))
        self.store = JobStore(projects.root)

    def jobs(self) -> list[Job]:
        return self.store.newest(PROJECT, 10, (EMBED,))


@pytest.fixture
def site(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> Site:
    settings = make_settings()
    monkeypatch.setenv("MODEL_DIR", str(settings.model_dir))
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")  # nothing listens there, and no command asks
    projects = Projects.of(settings)
    projects.remember(PROJECT)
    return Site(projects)


def embed(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["embed", *arguments])
    return result.exit_code, result.output


def shown() -> dict[str, Any]:
    code, output = embed("show", "--json")
    assert code == 0
    return dict(json.loads(output))


def test_start_submits_one_job_however_often_it_is_repeated(site: Site) -> None:
    assert embed("show") == (0, "The embeddings aren't shared. To start: python -m my_backend embed start\n")
    assert embed("start")[0] == embed("start")[0] == 0
    [job] = site.jobs()
    assert (job.kind, job.status, job.project) == (EMBED, "queued", PROJECT)
    assert shown()["wanted"] is True


def test_stop_cancels_waiting_jobs_and_keeps_embeddings(site: Site) -> None:
    embed("start")
    add_range(site.embeddings, 0, 10**6)
    assert embed("stop") == (0, "Stopped\n")
    assert [job.status for job in site.jobs()] == ["canceled"]
    assert site.embeddings.wanted() is None
    assert site.embeddings.ranges(SPACE).keys() == {0}
    assert embed("stop") == (0, "Stopped\n")


def test_show_counts_tasks_and_unreadable_images_of_all_ranges(site: Site) -> None:
    embed("start")
    add_range(site.embeddings, 0, 10**6)
    add_range(site.embeddings, 1, 10**6, images=3, tasks=4)
    begun = site.embeddings.begin("v1", SPACE, 12)
    assert begun is not None
    assert embed("show") == (
        0,
        "9 of 12 tasks, 1 of them without a readable image; not complete, jobs running: 0\n",
    )
    site.embeddings.note_complete(begun)
    assert shown() == {
        "wanted": True,
        "complete": True,
        "tasks": 12,
        "embedded": 9,
        "unreadable": 1,
        "ranges": 2,
        "running": 0,
        "error": None,
    }


def test_without_redis_start_says_that_nobody_would_share(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL")
    code, output = embed("start")
    assert code == 1
    assert output.startswith("Error: Can't share embeddings: neither REDIS_URL nor REDIS_HOST is set")
    assert site.jobs() == []
    assert site.embeddings.wanted() is None


def test_unknown_project_is_an_error(site: Site) -> None:
    assert embed("start", "--project", "99")[0] == 1
