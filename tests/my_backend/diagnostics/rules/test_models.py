"""Models and versions that can't be loaded or have disappeared → what is wrong."""

import pytest

from my_backend.diagnostics.rules.models import model_problems, model_warning
from my_backend.diagnostics.rules.versions import all_versions_missing, live_version_missing
from my_backend.serving.live_models import Failure, ServingStatus, Wanted
from tests.my_backend.conftest import PROJECT

LIVE = "v7-20261120T132501"


@pytest.mark.parametrize(
    ("status", "said", "project"),
    [
        (ServingStatus("can't load MODEL_CLASS=a:B: gone"), "can't load MODEL_CLASS=a:B: gone", ""),
        (ServingStatus(warnings=("no weights",)), "no weights", ""),
        (
            ServingStatus(failures=(Failure(PROJECT, Wanted(LIVE, None), "no file", 0.0),)),
            f"Can't load version {LIVE} (no file). Start training, or activate another version.",
            PROJECT,
        ),
        (
            ServingStatus(failures=(Failure(PROJECT, Wanted("", None), "stale handle", 0.0),)),
            "Can't read the project's files (stale handle).",
            PROJECT,
        ),
    ],
)
def test_model_that_cannot_be_loaded(status: ServingStatus, said: str, project: str) -> None:
    [problem] = model_problems(status)

    assert (problem.code, str(problem), problem.project) == ("model", said, project)


def test_models_that_are_loaded() -> None:
    assert model_problems(ServingStatus()) == []


def test_misspelled_setting_is_a_problem() -> None:
    [problem] = model_problems(ServingStatus(misspelled={"EPOCH": "EPOCHS"}))

    assert (problem.code, problem.message) == (
        "settings",
        "EPOCH is ignored: there is no such setting. Did you mean EPOCHS?",
    )
    assert "If so, correct the name" in problem.hint
    assert model_warning("no weights").code == "model"


def test_versions_that_have_disappeared() -> None:
    told = [live_version_missing(PROJECT, LIVE), all_versions_missing(PROJECT, LIVE)]

    assert [(problem.code, problem.project) for problem in told] == [("version-missing", PROJECT)] * 2
    assert all(LIVE in problem.message and "Restore MODEL_DIR" in problem.hint for problem in told)
