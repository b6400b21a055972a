"""Whether Label Studio shows the live version's scores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from my_backend.active_learning.scores import ScoresStatus, read_scores
from my_backend.active_learning.title import TitleStatus
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects.versions import Versions
from safe_http.session import SafeSession
from testing.fake_label_studio.server import FakeLabelStudio
from tests.my_backend.conftest import MakeSettings

Scores = Callable[..., ScoresStatus]


@pytest.fixture
def scores(label_studio: FakeLabelStudio, make_settings: MakeSettings, tmp_path: Path) -> Scores:
    """Reads the scores, with a live version that has a prediction; the arguments are settings."""
    live = Versions(tmp_path).publish({}, tmp_path, cause="", choices=()).name
    label_studio.backends[0] |= {"title": "Mine", "model_version": live, "project": 7}
    label_studio.project["model_version"] = "Mine"
    label_studio.predicted.add((live, 0.5))

    def scores(**settings: Any) -> ScoresStatus:
        client = LabelStudio(label_studio.url, label_studio.pat, SafeSession(["127.0.0.1"]))
        return read_scores(make_settings(**settings), Snapshot(client, 7), tmp_path)

    return scores


def test_title_matters_only_if_scores_order_tasks_or_the_server_keeps_it(
    label_studio: FakeLabelStudio, scores: Scores
) -> None:
    model = label_studio.backends[0]
    live = model["model_version"]
    title = TitleStatus("out of sync", model, "Mine")
    assert scores() == ScoresStatus("blank")
    assert scores(title_is_version=True) == ScoresStatus("out of sync", live, True, title)

    label_studio.project["sampling"] = "Uncertainty sampling"
    assert scores() == ScoresStatus("out of sync", live, False, title)

    label_studio.project |= {"sampling": "Sequential sampling", "model_version": live}
    assert scores() == ScoresStatus("in sync")


def test_choice_of_other_predictions_is_told(label_studio: FakeLabelStudio, scores: Scores) -> None:
    label_studio.project |= {"model_version": "Other", "sampling": "Uncertainty sampling"}

    assert scores().state == scores(title_is_version=True).state == "elsewhere"


def test_without_a_version_or_its_predictions_there_is_nothing_to_rename(
    label_studio: FakeLabelStudio, scores: Scores, tmp_path: Path
) -> None:
    label_studio.project["sampling"] = "Uncertainty sampling"
    label_studio.predicted.all.clear()
    assert scores().state == "waiting"
    (tmp_path / "live").unlink()
    assert scores() == ScoresStatus("untrained")
