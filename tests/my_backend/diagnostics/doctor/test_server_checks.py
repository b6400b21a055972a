"""What the doctor finds out about the running server and the model class."""

import ast
from pathlib import Path
from typing import Any

import pytest

from my_backend import diagnostics
from my_backend.diagnostics.doctor import server_checks
from my_backend.diagnostics.doctor.check import Check
from my_backend.diagnostics.problem import CODES, Problem
from my_backend.storage import identity
from testing.http_server import FakeServer, Reply, Seen, json_reply
from tests.my_backend.conftest import PROJECT, MakeSettings, Serve

NOBODY = 1  # a port on which nothing listens


def codes(check: Check) -> list[str]:
    return [problem.code for problem in check.problems]


def test_server_that_is_not_there(make_settings: MakeSettings) -> None:
    [problem] = server_checks.check_server(make_settings(port=NOBODY))[0].problems

    assert problem.message == "Can't find the backend's server at http://127.0.0.1:1: no response."


@pytest.mark.parametrize(("body", "status", "said"), [({}, 401, "the response was 401"), ([], 200, "another program")])
def test_server_of_another_kind_is_not_taken_for_ours(
    make_settings: MakeSettings, body: Any, status: int, said: str
) -> None:
    with FakeServer(lambda seen: json_reply(body, status)) as server:
        [problem] = server_checks.check_server(make_settings(port=server.port))[0].problems

    assert said in problem.message


def test_server_tells_what_only_it_knows(make_settings: MakeSettings, tmp_path: Path) -> None:
    told = [Problem(code, "…", details=("one",)).record() for code in ("model", "no-token")]
    computes = {"network": "resnet18", "weights": "imagenet", "device": "cpu"}
    answers = {"troubles": told, "model": computes, "model_dir": identity(tmp_path)}
    with FakeServer(lambda seen: json_reply(answers)) as server:
        given = {"model_dir": tmp_path, "basic_auth_user": "me", "basic_auth_pass": "pässword"}
        found, described = server_checks.check_server(make_settings(host="0.0.0.0", port=server.port, **given))

    assert (codes(found), described) == (["model"], computes)
    assert found.said.endswith("; resnet18, imagenet weights, on cpu")
    assert found.problems[0].details == ("one",)
    assert server.seen[0].headers["Authorization"].startswith("Basic ")


def test_every_problem_comes_from_a_check_of_the_doctor_or_from_the_server() -> None:
    """The doctor's own checks are found in its code: they use the functions and constants that make the problems."""
    folder = Path(diagnostics.__file__).parent
    doctor = [ast.parse(file.read_text(encoding="utf-8")) for file in (folder / "doctor").glob("*.py")]
    others = [ast.parse(file.read_text(encoding="utf-8")) for file in (folder / "rules").glob("*.py")]
    defined: dict[str, ast.AST] = {}
    for node in (node for tree in others for node in tree.body):
        if isinstance(node, ast.FunctionDef):
            defined[node.name] = node
        elif isinstance(node, ast.Assign):
            defined |= {one.id: node.value for one in node.targets if isinstance(one, ast.Name)}
    own, used = set[str](), {one.id for tree in doctor for one in ast.walk(tree) if isinstance(one, ast.Name)}
    while used:
        made_by = defined.pop(used.pop(), None)
        found = list(ast.walk(made_by)) if made_by else []
        own |= {one.value for one in found if isinstance(one, ast.Constant) and one.value in CODES}
        used |= {one.id for one in found if isinstance(one, ast.Name)}

    assert {"gpu", "webhook-missing"} <= own
    # The doctor looks at the webhooks itself, and may have a token that the server lacks.
    assert own | set(server_checks.FROM_THE_SERVER) == set(CODES) - {"events-without-password"}


def test_damaged_file_that_the_server_found_is_reported(serve: Serve) -> None:
    with serve() as client:
        client.setup()
        (client.backend.projects.folder(PROJECT) / "credentials.json").write_text("{")
        client.backend.projects.credentials(PROJECT)

        with FakeServer(lambda seen: json_reply(client.get(seen.path))) as server:
            ours = client.backend.settings.model_copy(update={"host": "127.0.0.1", "port": server.port})
            found, _ = server_checks.check_server(ours)

    assert codes(found) == ["damaged"]
    assert "credentials.json" in found.problems[0].message


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
            assert codes(server_checks.check_server(ours)[0]) == []
            found, _ = server_checks.check_server(make_settings(port=server.port, model_dir=other))

    assert codes(found) == ["server"]
    assert "uses a different MODEL_DIR than the doctor" in found.problems[0].message


def test_model_class_that_cannot_be_loaded(make_settings: MakeSettings) -> None:
    assert codes(server_checks.check_model(make_settings(model_class="no_such:Model"))[0]) == ["model"]


def test_settings_that_only_the_model_reads_are_told_a_line_each(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raises = 'raise ValueError("Invalid settings:\\n  EPOCHS: is no number")'
    (tmp_path / "picky_model.py").write_text(
        f"class Picky:\n    @classmethod\n    def warm_up(cls):\n        {raises}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    [problem] = server_checks.check_model(make_settings(model_class="picky_model:Picky"))[0].problems

    assert (problem.code, problem.message) == ("settings", "Invalid settings:")
    assert problem.details == ("EPOCHS: is no number",)
    assert "docs/reference/settings.md" in problem.hint
