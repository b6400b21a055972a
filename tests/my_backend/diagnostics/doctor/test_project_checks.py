"""The doctor's checks of one project."""

from pathlib import Path
from typing import Any

import pytest

from my_backend.diagnostics.doctor import project_checks
from my_backend.diagnostics.doctor.check import Check
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.connection import Connection
from my_backend.label_studio.safe_http import SafeSession
from my_backend.projects.registry import Project, Projects
from my_backend.projects.versions import Versions
from tests.my_backend.conftest import PROJECT
from tests.my_backend.fake_model import LABEL_CONFIG
from tests.my_backend.fake_server import FakeLabelStudio

OURS = {"id": 1, "title": "ours", "url": "http://127.0.0.1:9090", "state": "CO", "model_version": "v7-20261120T132501"}
OTHER = {**OURS, "id": 2, "title": "other", "url": "http://me:secret@10.0.0.9:9090", "model_version": "1.0"}
LIVE = "v7-20261120T132501"
OLD = "v3-20261101T132501"


def codes(check: Check) -> list[str]:
    return [problem.code for problem in check.problems]


def connection(*backends: dict[str, Any], **project: Any) -> Connection:
    return Connection(project, connected=True, problems=(), fixes=(), backends=backends)


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
    [problem] = project_checks.check_version(projects, project, "").problems
    assert (problem.code, problem.message) == (
        "choices-unknown",
        "Some annotations use choices that no longer exist: Bird (3×).",
    )

    versions.pointer.write_text("v9-20261120T132501\n")
    assert codes(project_checks.check_version(projects, project, "")) == ["version-missing"]


def test_models_folder_that_is_another_one_is_known_by_label_studios_predictions(
    versions: Versions, tmp_path: Path
) -> None:
    empty = Versions(tmp_path / "empty")
    check = project_checks.check_lost_versions
    assert codes(check(Project(PROJECT), empty, ["backend", "1.0"])) == []
    assert codes(check(Project(PROJECT), versions, [OLD])) == []

    [problem] = check(Project(PROJECT), empty, ["backend", OLD]).problems
    assert (problem.code, OLD in problem.message) == ("version-missing", True)


@pytest.mark.parametrize(
    ("backends", "live", "said"),
    [
        ([], LIVE, ""),
        ([OURS], LIVE, ""),
        ([OURS, OTHER], LIVE, ""),
        ([OTHER, OURS], "untrained", ""),
        ([OTHER, OURS], LIVE, "gets predictions from another one: other at 10.0.0.9:9090."),
        ([OURS, {**OURS, "id": 3}], LIVE, "has the model ours at 127.0.0.1:9090 twice"),
    ],
)
def test_several_models(backends: list[Any], live: str, said: str) -> None:
    found = project_checks.check_models(Project(PROJECT), connection(*backends), live)

    assert codes(found) == (["several-models"] if said else [])
    assert said in "".join(map(str, found.problems))
    assert "secret" not in str(found)


@pytest.mark.parametrize(("every", "found"), [(0, []), (1, ["trains-on-submission"]), (50, [])])
def test_training_at_every_annotation_is_named(every: int, found: list[str]) -> None:
    told = connection(OURS, min_annotations_to_start_training=every)

    assert codes(project_checks.check_training_rule(Project(PROJECT), told)) == found


@pytest.mark.parametrize(
    ("shown", "found"), [("", []), ("ours", []), (LIVE, []), ("1.0", []), (OLD, ["predictions-pinned"])]
)
def test_version_that_label_studio_goes_on_showing(label_studio: FakeLabelStudio, shown: str, found: list[str]) -> None:
    client = LabelStudio(label_studio.url, label_studio.pat, SafeSession(["127.0.0.1"]))
    check = project_checks.check_shown(client, Project(PROJECT), connection(OURS, model_version=shown), LIVE)
    for fix in check.fixes:
        fix.do()

    assert codes(check) == found
    assert label_studio.patched == ([("/api/projects/7/", {"model_version": "ours"})] if found else [])
