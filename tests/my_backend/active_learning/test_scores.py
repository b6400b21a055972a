"""What the page and the doctor say about scores in Label Studio."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from my_backend.active_learning.scores import Scores, examine_scores
from my_backend.active_learning.title import Remembered, remembered_title
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.connection import examine_connection
from my_backend.label_studio.safe_http import SafeSession
from my_backend.projects.registry import Project
from my_backend.projects.versions import Versions
from tests.my_backend.conftest import PROJECT, MakeSettings
from tests.my_backend.fake_server import FakeLabelStudio


@pytest.fixture
def scores(label_studio: FakeLabelStudio, make_settings: MakeSettings, tmp_path: Path) -> Callable[..., Scores]:
    """Checks the scores, with a live version that has a prediction; the arguments are settings."""
    live = Versions(tmp_path).publish({}, tmp_path, cause="", choices=()).name
    label_studio.backends[0] |= {"title": "Mine", "model_version": live, "project": 7}
    label_studio.project["model_version"] = "Mine"
    label_studio.predicted.add((live, 0.5))

    def scores(**settings: Any) -> Scores:
        client = LabelStudio(label_studio.url, label_studio.pat, SafeSession(["127.0.0.1"]))
        found = examine_connection(client, Project(PROJECT), None)
        return examine_scores(make_settings(**settings), client, Project(PROJECT), tmp_path, found)

    return scores


def test_blank_scores_are_told_and_are_a_problem_where_tasks_are_sampled_by_them(
    label_studio: FakeLabelStudio, scores: Callable[..., Scores], tmp_path: Path
) -> None:
    live = label_studio.backends[0]["model_version"]
    assert scores().problems == scores().fixes == ()
    assert "TITLE_IS_VERSION=true" in scores().said

    label_studio.project["sampling"] = "Uncertainty sampling"
    [mend] = scores().fixes
    assert (mend.problem.code, mend.offer) == ("scores-blank", f"rename the model “Mine” to {live}")
    assert scores().problems == (mend.problem,)
    mend.do()
    assert label_studio.backends[0]["title"] == label_studio.project["model_version"] == live
    assert remembered_title(tmp_path) == Remembered(1, "Mine", kept=False)
    assert scores() == Scores("Label Studio shows the live version's scores")


def test_choice_of_other_predictions_is_a_problem_only_where_the_own_ones_are_wanted(
    label_studio: FakeLabelStudio, scores: Callable[..., Scores]
) -> None:
    label_studio.project |= {"model_version": "Other", "sampling": "Uncertainty sampling"}
    assert scores() == Scores("another model's, as chosen in the project's settings")

    found = scores(title_is_version=True)
    assert [problem.code for problem in found.problems] == ["scores-elsewhere"]
    assert found.fixes == ()


def test_blank_scores_are_a_problem_where_the_server_should_have_mended_them(scores: Callable[..., Scores]) -> None:
    [mend] = scores(title_is_version=True).fixes
    assert mend.problem.code == "scores-blank"
    assert "`/problems` says why" in mend.problem.hint


def test_without_a_version_or_its_predictions_there_is_nothing_to_rename(
    label_studio: FakeLabelStudio, scores: Callable[..., Scores], tmp_path: Path
) -> None:
    label_studio.project["sampling"] = "Uncertainty sampling"
    label_studio.predicted.all.clear()
    assert "Retrieve Predictions" in scores().said
    (tmp_path / "live").unlink()
    assert scores() == Scores("none before the first training")
