"""Label Studio, its version, its clock and the token → what is wrong."""

import pytest

from my_backend.diagnostics.rules.label_studio import (
    access_token,
    clock_problems,
    no_token,
    release_problems,
    token_life_problems,
    token_right_problems,
    unknown_url,
    unreachable,
)
from my_backend.errors import LabelStudioError, TokenRefused
from tests.my_backend.conftest import PROJECT


@pytest.mark.parametrize(
    ("error", "code", "message", "hint"),
    [
        (
            TokenRefused("Label Studio rejected it", "create a token; set it"),
            "token",
            "Label Studio rejected it.",
            "Create a token; set it.",
        ),
        (
            LabelStudioError("Can't reach it (a; b)", "set LABEL_STUDIO_URL"),
            "label-studio",
            "Can't reach it (a; b).",
            "including its sub-path if it has one. In a container, localhost is the container itself.",
        ),
        (
            LabelStudioError("http://127.0.0.1 returned no JSON: is it a Label Studio server?", ""),
            "label-studio",
            "http://127.0.0.1 returned no JSON: is it a Label Studio server?",
            "In a container, localhost is the container itself.",
        ),
    ],
)
def test_label_studio_that_does_not_answer(error: LabelStudioError, code: str, message: str, hint: str) -> None:
    problem = unreachable(error, PROJECT)

    assert (problem.code, problem.message, problem.project) == (code, message, PROJECT)
    assert problem.hint.endswith(hint)


def test_token_and_url_that_are_missing() -> None:
    assert "`LABEL_STUDIO_URL=http://localhost:8080 LABEL_STUDIO_API_KEY=<the token>`" in no_token().hint
    assert "With Docker Compose, put them into `.env` next to `docker-compose.yml`" in no_token().hint
    assert "`LABEL_STUDIO_URL=http://ls:8080 LABEL_STUDIO_API_KEY" in no_token("http://ls:8080").hint
    assert (no_token().code, access_token().code) == ("no-token", "token-short")
    assert (unknown_url(PROJECT).code, unknown_url(PROJECT).project) == ("label-studio-unknown", PROJECT)


@pytest.mark.parametrize(
    ("permissions", "lacking"),
    [
        (None, ""),
        (["projects.view", "projects.change", "webhooks.change"], ""),
        (["projects.view", "projects.change"], "allowed to change webhooks in"),
        ([], "allowed to change webhooks or projects in"),
    ],
)
def test_token_of_somebody_who_may_not_write(permissions: list[str] | None, lacking: str) -> None:
    told = token_right_problems(permissions)

    assert [problem.code for problem in told] == (["token-rights"] if lacking else [])
    assert lacking in "".join(map(str, told))


@pytest.mark.parametrize(("days", "said"), [(3.2, "expires in 3 days"), (14, ""), (float("inf"), "")])
def test_token_that_ends_soon(days: float, said: str) -> None:
    told = token_life_problems(days)

    assert [problem.code for problem in told] == (["token-ends"] if said else [])
    assert said in "".join(map(str, told))


@pytest.mark.parametrize(
    ("version", "found"),
    [((1, 23, 2), []), ((1, 13), []), ((1, 12, 9), ["label-studio-old"]), ((), [])],
)
def test_version_that_is_too_old(version: tuple[int, ...], found: list[str]) -> None:
    assert [problem.code for problem in release_problems(version, "1.12")] == found


@pytest.mark.parametrize(
    ("ahead", "said"),
    [(0, ""), (59, ""), (300, "300 s behind Label Studio's"), (-300, "300 s ahead of Label Studio's")],
)
def test_clock_is_compared(ahead: float, said: str) -> None:
    told = clock_problems(ahead)

    assert [problem.code for problem in told] == (["clock"] if said else [])
    assert said in "".join(map(str, told))
