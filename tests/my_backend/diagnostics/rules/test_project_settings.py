"""A project's settings in Label Studio → what is wrong and what would fix it."""

from typing import Any

import pytest

from my_backend.diagnostics.actions import ChooseModel
from my_backend.diagnostics.problem import Fix
from my_backend.diagnostics.rules.project_settings import (
    model_count_problems,
    shown_version_problems,
    training_rule_problems,
)
from my_backend.label_studio.project_connection import ProjectConnection
from my_backend.projects.project import Project
from tests.my_backend.conftest import PROJECT

LIVE = "v7-20261120T132501"
OLD = "v3-20261101T132501"
OURS = {"id": 1, "title": "ours", "url": "http://127.0.0.1:9090", "state": "CO", "model_version": LIVE}
OTHER = {**OURS, "id": 2, "title": "other", "url": "http://me:secret@10.0.0.9:9090", "model_version": "1.0"}


@pytest.mark.parametrize(
    ("models", "live", "said"),
    [
        ([], LIVE, ""),
        ([OURS], LIVE, ""),
        ([OURS, OTHER], LIVE, ""),
        ([OTHER, OURS], "untrained", ""),
        (
            [OTHER, OURS],
            LIVE,
            "has 2 models, and Label Studio gets its predictions from other at 10.0.0.9:9090 instead of from this "
            "backend.",
        ),
        ([OURS, {**OURS, "id": 3}], LIVE, "has the model ours at 127.0.0.1:9090 twice"),
    ],
)
def test_several_models(models: list[Any], live: str, said: str) -> None:
    told = model_count_problems(Project(PROJECT), ProjectConnection({}, tuple(models)), live)

    assert [problem.code for problem in told] == (["several-models"] if said else [])
    assert said in "".join(map(str, told))
    assert "secret" not in str(told)


@pytest.mark.parametrize(
    ("project", "models", "pinned"),
    [
        ({"model_version": ""}, [OURS], False),
        ({"model_version": "ours"}, [OURS], False),
        ({"model_version": LIVE}, [OURS], False),
        ({"model_version": "1.0"}, [OURS], False),
        ({"model_version": OLD}, [], False),
        ({"model_version": OLD}, [{**OURS, "title": OLD}], False),
        ({"model_version": OLD, "show_collab_predictions": False}, [OURS], False),
        ({"model_version": OLD}, [OURS], True),
    ],
)
def test_version_that_label_studio_goes_on_showing(project: dict[str, Any], models: list[Any], pinned: bool) -> None:
    told = shown_version_problems(Project(PROJECT), ProjectConnection(project, tuple(models)), LIVE)

    assert [problem.code for problem in told] == (["predictions-pinned"] if pinned else [])
    fixes = [fix for problem in told for fix in problem.fixes]
    assert fixes == ([Fix("choose the model “ours”", ChooseModel(7, "ours"))] if pinned else [])


@pytest.mark.parametrize(("every", "found"), [(0, []), (1, ["trains-on-submission"]), (50, [])])
def test_training_at_every_annotation(every: int, found: list[str]) -> None:
    told = training_rule_problems(
        Project(PROJECT), ProjectConnection({"min_annotations_to_start_training": every}, (OURS,))
    )

    assert [problem.code for problem in told] == found
