"""Labeling runs that don't go on, and refused requests → what is wrong."""

from typing import get_args

import pytest

from my_backend.diagnostics.rules.labeling import audit_contradicts, request_refused, run_halted
from my_backend.labeling.auto_accept.checks import Checks, Contradiction
from my_backend.labeling.auto_accept.guarantee import audit
from my_backend.labeling.auto_accept.records import Acceptance
from my_backend.labeling.runs.records import Run
from my_backend.labeling.runs.writer import HaltedRun, HaltedState
from my_backend.token_gate import Refusal
from tests.my_backend.conftest import PROJECT

TABLE: list[tuple[HaltedState, str, str]] = [
    ("failed", "(1,200 tasks) stopped: it is gone.", "resume the run"),
    ("needs a token", "needs a token", "with a token"),
    ("waits", "has to wait: it is gone.", "keeps trying"),
]


@pytest.mark.parametrize(("state", "said", "hint"), TABLE)
def test_run_that_does_not_go_on(state: HaltedState, said: str, hint: str) -> None:
    run = Run(id="run-1", project=PROJECT, tasks=1200, error="it is gone")

    problem = run_halted(HaltedRun(run, state))

    assert (problem.code, problem.project) == ("labeling", PROJECT)
    assert "run-1" in problem.message
    assert said in problem.message
    assert hint in problem.hint


def test_all_states_are_in_the_table() -> None:
    assert [state for state, _, _ in TABLE] == list(get_args(HaltedState))


def test_contradicting_audit_is_a_problem() -> None:
    checks = Checks(1000, 10, 6, audit(0.02, 1000, 10, 6), {}, overtaken=0, is_shown=True)

    problem = audit_contradicts(Contradiction(Acceptance("plan-1", PROJECT, 0.02), checks))

    assert (problem.code, problem.project) == ("accepted-wrong", PROJECT)
    assert "of the labels that were accepted without review are wrong, but the limit is 2%" in problem.message
    assert "6 of 10 randomly checked labels are wrong" in problem.message
    assert "label accept undo --project 7`" in problem.hint


def test_promise_that_the_sample_no_longer_shows_is_a_problem() -> None:
    checks = Checks(20, 0, 0, audit(0.02, 20, 0, 0), {}, overtaken=980, is_shown=False)

    problem = audit_contradicts(Contradiction(Acceptance("plan-1", PROJECT, 0.02), checks))

    assert problem.code == "accepted-wrong"
    assert "The sample no longer shows that at most 2% of the labels" in problem.message
    assert "980 of the images were labeled or deleted" in problem.message


def test_request_with_a_token_that_allows_nothing() -> None:
    problem = request_refused(PROJECT, Refusal("Deleting the project", "no rights"))

    assert (problem.code, problem.message) == ("refused", "Deleting the project was refused: no rights.")
    assert "password" in problem.hint
