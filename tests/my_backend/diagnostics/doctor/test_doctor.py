"""Each of the doctor's checks, with the problem caused on purpose; tests/e2e runs it with a real Label Studio."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from typer.testing import CliRunner

from my_backend.commands.cli import app
from my_backend.diagnostics.doctor import all_checks
from my_backend.diagnostics.doctor.check import Check
from my_backend.diagnostics.problem import Problem
from my_backend.label_studio.client import LabelStudio
from my_backend.projects.registry import Projects
from my_backend.storage import identity
from safe_http.session import SafeSession
from tests.my_backend.conftest import FAKE_MODEL, PROJECT, MakeSettings, Serve
from tests.my_backend.fake_model import LABEL_CONFIG, Script
from tests.my_backend.fake_server import JWT_KEY, FakeLabelStudio, FakeServer, Reply, Seen, json_reply

TROUBLESHOOTING = (Path(__file__).parents[4] / "docs" / "reference" / "troubleshooting.md").read_text("utf-8")
NOBODY = 1  # a port on which nothing listens


def codes(check: Check) -> list[str]:
    return [problem.code for problem in check.problems]


def connect(server: FakeLabelStudio, token: str | None = None) -> LabelStudio:
    return LabelStudio(server.url, server.pat if token is None else token, SafeSession(["127.0.0.1"]))


# --- the server ---------------------------------------------------------------------


def test_server_that_is_not_there(make_settings: MakeSettings) -> None:
    [problem] = all_checks.check_server(make_settings(port=NOBODY))[0].problems

    assert problem.message == "Can't find the backend's server at http://127.0.0.1:1: no response."


@pytest.mark.parametrize(("body", "status", "said"), [({}, 401, "it answered 401"), ([], 200, "another program")])
def test_server_of_another_kind_is_not_taken_for_ours(
    make_settings: MakeSettings, body: Any, status: int, said: str
) -> None:
    with FakeServer(lambda seen: json_reply(body, status)) as server:
        [problem] = all_checks.check_server(make_settings(port=server.port))[0].problems

    assert said in problem.message


def test_server_tells_what_only_it_knows(make_settings: MakeSettings, tmp_path: Path) -> None:
    told = [Problem(code, "…", details=("one",)).record() for code in ("model", "no-token")]
    computes = {"network": "resnet18", "weights": "imagenet", "device": "cpu"}
    answers = {"troubles": told, "model": computes, "model_dir": identity(tmp_path)}
    with FakeServer(lambda seen: json_reply(answers)) as server:
        given = {"model_dir": tmp_path, "basic_auth_user": "me", "basic_auth_pass": "pässword"}
        found, described = all_checks.check_server(make_settings(host="0.0.0.0", port=server.port, **given))

    assert (codes(found), described) == (["model"], computes)
    assert found.said.endswith("; resnet18, imagenet weights, on cpu")
    assert found.problems[0].details == ("one",)
    assert server.seen[0].headers["Authorization"].startswith("Basic ")


def test_another_backend_on_the_port_is_not_taken_for_ours(
    make_settings: MakeSettings, serve: Serve, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with serve() as client:

        def answer(seen: Seen) -> Reply:
            return json_reply(client.get(seen.path))

        with FakeServer(answer) as server:
            ours = make_settings(port=server.port, model_dir=client.backend.settings.model_dir)
            assert codes(all_checks.check_server(ours)[0]) == []
            found, _ = all_checks.check_server(make_settings(port=server.port, model_dir=other))

    assert codes(found) == ["server"]
    assert "uses another MODEL_DIR than the doctor" in found.problems[0].message


def test_model_class_that_cannot_be_loaded(make_settings: MakeSettings) -> None:
    assert codes(all_checks.check_model(make_settings(model_class="no_such:Model"))[0]) == ["model"]


def test_settings_that_only_the_model_reads_are_told_a_line_each(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raises = 'raise ValueError("Invalid settings:\\n  EPOCHS: is no number")'
    (tmp_path / "picky_model.py").write_text(
        f"class Picky:\n    @classmethod\n    def warm_up(cls):\n        {raises}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    [problem] = all_checks.check_model(make_settings(model_class="picky_model:Picky"))[0].problems

    assert (problem.code, problem.message) == ("settings", "Invalid settings:")
    assert problem.details == ("EPOCHS: is no number",)
    assert "docs/reference/settings.md" in problem.hint


# --- the command --------------------------------------------------------------------


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


def test_command_names_what_is_wrong_and_mends_it_after_asking(environment: FakeLabelStudio) -> None:
    environment.webhooks = []
    status, output = run()
    assert status == 1
    assert "PROBLEM project 7 (Pets): connection" in output
    assert "ok      token: a personal access token that Label Studio accepts" in output
    # Causes come first.
    assert "2 problems. Fix them in this order:\n\n1. Can't find the backend's server" in output
    assert "2. Project 7 (Pets): Label Studio doesn't send annotation events to this backend" in output
    assert "   → In the project's Settings → Webhooks, add one with the URL" in output
    assert "doctor --fix" in output

    run("--fix", answer="n\n")
    assert environment.added == []
    status, output = run("--fix", answer="y\n")
    assert len(environment.added) == 1
    assert "fixed   add the webhook" in output


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
