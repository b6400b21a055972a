"""The doctor's command, with problems caused on purpose; tests/e2e runs it with a real Label Studio."""

import json
import re
import time
from pathlib import Path

import jwt
import pytest
from typer.testing import CliRunner

from my_backend.commands.cli import app
from my_backend.diagnostics.doctor import all_checks
from my_backend.diagnostics.doctor.check import Check
from my_backend.diagnostics.problem import Problem
from my_backend.projects.registry import Projects
from testing.fake_label_studio.server import JWT_KEY, FakeLabelStudio
from tests.my_backend.conftest import FAKE_MODEL, PROJECT
from tests.my_backend.fake_model import LABEL_CONFIG, Script

TROUBLESHOOTING = (Path(__file__).parents[4] / "docs" / "reference" / "troubleshooting.md").read_text("utf-8")
NOBODY = 1  # a port on which nothing listens


@pytest.fixture
def environment(
    label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch, script: Script, tmp_path: Path
) -> FakeLabelStudio:
    """A backend with a known project whose server isn't running."""
    given = {
        "MODEL_CLASS": FAKE_MODEL,
        "PORT": str(NOBODY),
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.pat,
        "MODEL_DIR": str(tmp_path / "models"),
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    label_studio.pat = jwt.encode({"token_type": "refresh", "exp": time.time() + 1e8}, JWT_KEY)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.pat)
    label_studio.project["created_at"] = "2026-11-20T13:35:51Z"
    Projects(tmp_path / "models" / "projects").remember(PROJECT, label_config=LABEL_CONFIG, title="Pets")
    return label_studio


def run(*arguments: str, answer: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *arguments], input=answer)
    return result.exit_code, result.output


def test_new_installation_has_steps_to_do_and_nothing_wrong(
    environment: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "new"))
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "")
    monkeypatch.setattr(all_checks, "check_server", lambda settings: (Check("server"), {}))
    status, output = run()
    assert status == 1
    assert "to do   token\n" in output
    assert "to do   projects\n" in output
    assert "PROBLEM" not in output
    assert "No problems found. Next steps:\n\n1. LABEL_STUDIO_API_KEY is not set" in output


def test_command_names_what_is_wrong_and_fixes_it_after_asking(environment: FakeLabelStudio) -> None:
    environment.webhooks = []
    status, output = run()
    assert status == 1
    assert "PROBLEM project 7 (Pets): connection" in output
    assert "ok      token: a personal access token that Label Studio accepts" in output
    # Causes come first.
    assert "2 problems. Fix them in this order:\n\n1. Can't find the backend's server" in output
    assert "2. Project 7 (Pets): Label Studio doesn't send annotation events to this backend" in output
    assert "   → In the project's Settings → Webhooks, add a webhook for all actions with the URL" in output
    assert "doctor --fix" in output

    run("--fix", answer="n\n")
    assert environment.added == []
    status, output = run("--fix", answer="y\n")
    assert len(environment.added) == 1
    assert "fixed   add the webhook" in output


def test_problem_that_only_the_server_knows_is_listed_with_its_project(
    environment: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [Problem("labeling", "Labeling run r1 stopped: 403.", "Resume it.", PROJECT)]
    monkeypatch.setattr(all_checks, "check_server", lambda settings: (Check("server", problems=tuple(told)), {}))
    status, output = run()

    assert status == 1
    assert "1 problem:\n\n1. Project 7: Labeling run r1 stopped: 403. [labeling]\n   → Resume it." in output


@pytest.mark.parametrize("fails_for", ["both", "server"])
def test_problem_with_redis_is_listed_once(
    environment: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch, fails_for: str
) -> None:
    """The server, which only sees that its commands fail, describes it in other words than the doctor."""
    told, found = Problem("redis", "Redis is unreachable (MISCONF)."), Problem("redis", "It can't write to its disk.")
    monkeypatch.setattr(all_checks, "check_server", lambda settings: (Check("server", problems=(told,)), {}))
    if fails_for == "both":
        monkeypatch.setattr(all_checks, "check_redis", lambda settings: [Check("Redis", problems=(found,))])
    _, output = run()

    shown = found if fails_for == "both" else told
    assert re.findall(r"(?m)^\d\. .*", output) == [f"1. {shown.message} [redis]"]


def test_json_is_for_scripts_and_asks_nothing(environment: FakeLabelStudio) -> None:
    environment.webhooks = []
    status, output = run("--json", "--fix", "--yes")

    found = json.loads(output)
    described = json.loads(TROUBLESHOOTING.partition("```json")[2].partition("```")[0])
    assert found.keys() == described.keys()
    [check] = described["checks"]
    assert all(one.keys() == check.keys() for one in found["checks"])
    problems = [one for check in found["checks"] for one in check["troubles"]]
    assert all(one.keys() == check["troubles"][0].keys() for one in problems)
    assert (status, found["ok"], len(environment.added)) == (1, False, 1)
    assert found["mended"] == ["add the webhook http://127.0.0.1:9090/webhook"]
    assert [one["code"] for check in found["checks"] for one in check["troubles"]] == ["server", "webhook-missing"]
    assert (run("--json", "--fix")[0], run("--yes")[0]) == (2, 2)


def test_project_that_never_got_through_is_found_in_label_studio(environment: FakeLabelStudio, tmp_path: Path) -> None:
    Projects(tmp_path / "models" / "projects").delete(PROJECT)
    environment.backends[0]["state"] = "DI"
    environment.blocks = {"/api/ml/", "/api/webhooks/"}

    assert "[address-blocked]" in run()[1]


def test_setting_that_cannot_be_used_is_a_problem_like_any_other(
    environment: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "http")
    status, output = run("--json")

    assert status == 1
    assert "PORT: Input should be" in json.loads(output)["checks"][0]["troubles"][0]["details"][0]


def test_variable_that_is_ignored_is_said(environment: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ok      settings: valid\n" in run()[1]
    monkeypatch.setenv("REDIS_PORT", "tcp://10.0.0.1:6379")  # as Kubernetes sets it
    assert "ok      settings: valid; REDIS_PORT=tcp://10.0.0.1:6379 is ignored: Kubernetes sets it" in run()[1]
