"""The doctor's checks of one project."""

from pathlib import Path
from typing import Any

import pytest

from my_backend.diagnostics.doctor import project_checks
from my_backend.diagnostics.doctor.check import Check
from my_backend.label_studio.project_connection import ProjectConnection
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from my_backend.projects.versions import Versions
from tests.my_backend.conftest import PROJECT
from tests.my_backend.fake_model import LABEL_CONFIG

OURS = {"id": 1, "title": "ours", "url": "http://127.0.0.1:9090", "state": "CO", "model_version": "v7-20261120T132501"}
OTHER = {**OURS, "id": 2, "title": "other", "url": "http://me:secret@10.0.0.9:9090", "model_version": "1.0"}
LIVE = "v7-20261120T132501"
OLD = "v3-20261101T132501"


def codes(check: Check) -> list[str]:
    return [problem.code for problem in check.problems]


def connection(*backends: dict[str, Any], **project: Any) -> ProjectConnection:
    return ProjectConnection(project, backends)


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    projects = Projects(tmp_path / "projects")
    projects.remember(PROJECT, label_config=LABEL_CONFIG)
    (tmp_path / "work").mkdir()
    versions = Versions(projects.folder(PROJECT))
    versions.publish({"unknown_choices": {"Bird": 3}}, tmp_path / "work", cause="", choices=["Cat"])
    return versions


def test_live_version_that_is_gone_and_names_that_are_no_choice(versions: Versions, tmp_path: Path) -> None:
    projects = Projects(tmp_path / "projects")
    project = projects.all()[0]
    [problem] = project_checks.check_version(project, "").problems
    assert (problem.code, problem.message) == (
        "choices-unknown",
        "Some annotations use choices that no longer exist: Bird (3×).",
    )

    versions.pointer.write_text("v9-20261120T132501\n")
    assert codes(project_checks.check_version(project, "")) == ["version-missing"]


def test_wrong_models_folder_is_known_by_label_studios_predictions(versions: Versions, tmp_path: Path) -> None:
    empty = Versions(tmp_path / "empty")
    check = project_checks.check_lost_versions
    assert codes(check(Project(PROJECT), empty, ["backend", "1.0"])) == []
    assert codes(check(Project(PROJECT), versions, [OLD])) == []

    [problem] = check(Project(PROJECT), empty, ["backend", OLD]).problems
    assert (problem.code, OLD in problem.message) == ("version-missing", True)


@pytest.mark.parametrize(
    ("backends", "said", "found"),
    [
        ([], "none", []),
        ([OURS], "one", []),
        ([OURS, OTHER], "2; Label Studio gets predictions from the first, ours at 127.0.0.1:9090", []),
        ([OTHER, OURS], "2; Label Studio gets predictions from the first, other at 10.0.0.9:9090", ["several-models"]),
    ],
)
def test_model_that_is_asked_is_said(backends: list[Any], said: str, found: list[str]) -> None:
    check = project_checks.check_models(Project(PROJECT), connection(*backends), LIVE)

    assert (check.said, codes(check)) == (said, found)
    assert check.record()["said"] == ("" if found else said), "only a check without problems says what it found"


@pytest.mark.parametrize(
    ("project", "said", "found"),
    [
        ({}, "none chosen yet", []),
        ({"model_version": "ours"}, "those from ours", []),
        ({"show_collab_predictions": False}, "none, as chosen in the project's Settings → Annotation", []),
        ({"model_version": OLD}, f"those from {OLD}", ["predictions-pinned"]),
    ],
)
def test_predictions_that_annotators_see_are_said(project: dict[str, Any], said: str, found: list[str]) -> None:
    check = project_checks.check_shown(Project(PROJECT), connection(OURS, **project), LIVE)

    assert (check.said, codes(check)) == (said, found)


def test_training_at_every_annotation_is_named() -> None:
    told = connection(OURS, min_annotations_to_start_training=1)

    assert codes(project_checks.check_training_rule(Project(PROJECT), told)) == ["trains-on-submission"]
