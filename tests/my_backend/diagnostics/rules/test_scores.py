"""What Label Studio shows and samples by → what is wrong and what would fix it."""

import pytest

from my_backend.active_learning.scores import ScoresStatus
from my_backend.active_learning.title import TitleState, TitleStatus
from my_backend.diagnostics.actions import RenameModel
from my_backend.diagnostics.problem import Fix
from my_backend.diagnostics.rules.scores import refresh_failed, score_problems, title_problems
from my_backend.projects.project import Project
from tests.my_backend.conftest import PROJECT

LIVE = "v7-20261120T132501"
MINE = {"id": 1, "title": "Mine"}
RENAMED = {"id": 1, "title": LIVE}


def scores(title: TitleStatus, *, kept: bool = False) -> ScoresStatus:
    return ScoresStatus(title.state, LIVE, kept, title)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (ScoresStatus("untrained"), "", ""),
        (ScoresStatus("blank"), "", ""),
        (ScoresStatus("in sync"), "", ""),
        (scores(TitleStatus("in sync", RENAMED, LIVE), kept=True), "", ""),
        (scores(TitleStatus("waiting", MINE, "Mine"), kept=True), "", ""),
        (scores(TitleStatus("unknown"), kept=True), "", ""),
        (
            scores(TitleStatus("out of sync", MINE, "Mine")),
            "scores-blank",
            "“Mine”, isn't the name of the live version, v7",
        ),
        (scores(TitleStatus("out of sync", MINE, "Mine")), "scores-blank", "Set TITLE_IS_VERSION=true"),
        (scores(TitleStatus("out of sync", MINE, "Mine"), kept=True), "scores-blank", "`/problems` says why"),
        (scores(TitleStatus("out of sync", RENAMED, "v3")), "scores-blank", "uses “v3” instead of the live version"),
        (scores(TitleStatus("elsewhere", MINE, "Other")), "", ""),
        (scores(TitleStatus("elsewhere", MINE, "Other"), kept=True), "scores-elsewhere", "predictions from “Other”"),
        (scores(TitleStatus("unused", MINE, "Mine")), "", ""),
        (scores(TitleStatus("unused", MINE, "Mine"), kept=True), "scores-elsewhere", "uses no predictions"),
    ],
)
def test_scores_that_somebody_needs(status: ScoresStatus, code: str, said: str) -> None:
    told = score_problems(Project(PROJECT), status)

    assert [(problem.code, problem.project) for problem in told] == ([(code, PROJECT)] if code else [])
    assert said in "".join(map(str, told))
    assert any(problem.fixes for problem in told) == (code == "scores-blank")


def test_fix_gives_the_model_the_version_as_its_title() -> None:
    status = scores(TitleStatus("out of sync", MINE, "Mine"))
    [problem] = score_problems(Project(PROJECT), status)

    action = RenameModel(Project(PROJECT), TitleStatus("out of sync", MINE, "Mine"), LIVE, kept=False)
    assert problem.fixes == (Fix(f"rename the model “Mine” to {LIVE}", action),)


@pytest.mark.parametrize(
    ("state", "code", "said"),
    [
        ("failed", "title", "Can't change the model's title in Label Studio: no luck. The backend keeps trying"),
        ("elsewhere", "scores-elsewhere", "predictions from “Other”"),
        ("unused", "scores-elsewhere", "turn on “Use predictions to prelabel tasks”"),
        ("in sync", "", ""),
        ("out of sync", "", ""),
        ("waiting", "", ""),
        ("unknown", "", ""),
    ],
)
def test_title_that_the_server_keeps(state: TitleState, code: str, said: str) -> None:
    told = title_problems(PROJECT, TitleStatus(state, MINE, "Other", "no luck"))

    assert [problem.code for problem in told] == ([code] if code else [])
    assert said in "".join(map(str, told))


def test_predictions_that_are_not_refreshed() -> None:
    problem = refresh_failed(PROJECT, "no luck")

    assert (problem.code, problem.project) == ("renewal", PROJECT)
    assert "Can't refresh the predictions stored in Label Studio: no luck. The backend keeps trying" in str(problem)
