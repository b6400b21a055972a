"""Annotations whose events were lost are found by comparing with Label Studio."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from my_backend.jobs import reconciliation
from my_backend.jobs.learned import LEARNED_FILE, Learned, learned_state, note, noting
from my_backend.jobs.reconciliation import Reconciliation
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects.packed_tasks import PackedTasks
from my_backend.projects.registry import Projects
from my_backend.projects.versions import Versions
from safe_http.session import SafeSession
from testing.fake_label_studio.server import FakeLabelStudio

PROJECT = "7.1"


@pytest.fixture
def projects(tmp_path: Path, label_studio: FakeLabelStudio) -> Projects:
    """A project with a version that has learned everything."""
    projects = Projects(tmp_path / "projects")
    projects.remember(PROJECT)
    folder = projects.folder(PROJECT)
    Versions(folder).publish({}, folder, cause="", choices=())
    learned = {"watermark": snapshot(label_studio.url, label_studio.pat).watermark(), "digest": ""}
    (folder / LEARNED_FILE).write_text(json.dumps(learned))
    projects.annotation_log(PROJECT).keep_tasks(PackedTasks([]), projects.annotation_log(PROJECT).begin_reading())
    label_studio.server.seen.clear()
    return projects


def snapshot(url: str, token: str = "") -> Snapshot:
    return Snapshot(LabelStudio(url, token, SafeSession(["127.0.0.1"])), 7)


def trained(projects: Projects, seen: Snapshot | None) -> list[str]:
    """The projects that a visit has trained."""
    found: list[str] = []
    Reconciliation(found.append).visit(projects.get(PROJECT), seen)
    return found


def test_changed_annotations_are_read_and_learned(projects: Projects, label_studio: FakeLabelStudio) -> None:
    assert trained(projects, snapshot(label_studio.url, label_studio.pat)) == []
    assert projects.annotation_log(PROJECT).tasks() is not None

    label_studio.updated_at = "2026-11-27T00:00:00Z"
    assert trained(projects, snapshot(label_studio.url, label_studio.pat)) == [PROJECT]
    assert projects.annotation_log(PROJECT).tasks() is None


def test_version_that_is_being_published_is_compared_at_the_next_visit(
    projects: Projects, label_studio: FakeLabelStudio
) -> None:
    """Until its job has noted what it has learned, only the lock tells that it will; nobody waits for the lock."""
    label_studio.updated_at = "2026-11-27T00:00:00Z"

    with noting(projects.folder(PROJECT)):
        assert trained(projects, snapshot(label_studio.url, label_studio.pat)) == []
        assert label_studio.server.paths() != []
    assert trained(projects, snapshot(label_studio.url, label_studio.pat)) == [PROJECT]


def test_version_that_a_job_has_noted_meanwhile_is_not_behind(
    projects: Projects, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first comparison saw what was learned before."""
    label_studio.updated_at = "2026-11-27T00:00:00Z"
    folder = projects.folder(PROJECT)
    seen = snapshot(label_studio.url, label_studio.pat)

    @contextmanager
    def noting_after_the_job(folder: Path, *, wait: bool = True) -> Iterator[None]:
        with noting(folder, wait=wait):
            note(folder, Learned(seen.watermark()))
            yield

    monkeypatch.setattr(reconciliation, "noting", noting_after_the_job)
    assert trained(projects, seen) == []
    assert learned_state(folder).watermark == seen.watermark()


def test_first_training_is_left_to_users_and_events(projects: Projects, label_studio: FakeLabelStudio) -> None:
    (projects.folder(PROJECT) / "live").unlink()
    label_studio.updated_at = "2026-11-27T00:00:00Z"

    assert trained(projects, snapshot(label_studio.url, label_studio.pat)) == []
    assert label_studio.server.paths() == []


@pytest.mark.parametrize("labels", [0, 30])
def test_first_guess_is_compared_once_labels_have_calibrated_it(
    projects: Projects, label_studio: FakeLabelStudio, labels: int
) -> None:
    folder = projects.folder(PROJECT)
    output = {"first_guess": {"classes": []}, "figures": {"accuracy": 0.5} if labels else None}
    Versions(folder).publish(output, folder, cause="", choices=())
    label_studio.updated_at = "2026-11-27T00:00:00Z"

    assert trained(projects, snapshot(label_studio.url, label_studio.pat)) == ([PROJECT] if labels else [])


def test_nothing_is_trained_if_label_studio_cannot_be_asked(
    projects: Projects, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert trained(projects, snapshot("http://127.0.0.1:1")) == []
    assert "can't compare project 7.1 with Label Studio: Can't reach Label Studio" in caplog.text
    assert trained(projects, None) == []
