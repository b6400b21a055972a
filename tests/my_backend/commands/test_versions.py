"""`python -m my_backend versions`: a running server follows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from my_backend.commands.cli import app
from my_backend.projects.versions import UNTRAINED
from testing.waiting import SECONDS, eventually
from tests.my_backend.conftest import FAKE_MODEL, PROJECT, Client, MakeSettings
from tests.my_backend.fake_model import Script


@pytest.fixture(autouse=True)
def settings(make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands' environment names the folders of the server that runs in the test."""
    for name, value in (("MODEL_DIR", make_settings().model_dir), ("MODEL_CLASS", FAKE_MODEL)):
        monkeypatch.setenv(name, str(value))


def versions(*arguments: object, answer: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(app, ["versions", *map(str, arguments)], input=answer)
    return result.exit_code, result.output


def listed() -> dict[str, tuple[bool, bool]]:
    """Whether each version is live, and pinned."""
    _, output = versions("list", "--json")
    return {one["version"]: (one["live"], one["pinned"]) for one in json.loads(output)}


def test_versions_are_listed_shown_activated_pinned_deleted_and_exported(client: Client, tmp_path: Path) -> None:
    assert versions("list", "--json") == (0, "[]\n")
    first, second = client.train(), client.train()
    assert listed() == {second: (True, False), first: (False, False)}
    lines = versions("list")[1].splitlines()
    assert [line.split()[0] for line in lines] == [second, first]
    assert "live" in lines[0]
    assert json.loads(versions("show", first)[1])["version"] == first

    assert versions("activate", first) == (0, f"{first} is live\n")
    assert eventually(lambda: client.backend.serving.version_name(PROJECT) == first)
    assert versions("pin", second) == (0, f"Pinned {second}\n")
    assert listed() == {second: (False, True), first: (True, False)}
    assert versions("delete", second, "--yes") == (1, f"Error: {second} is pinned: unpin it first\n")
    assert versions("unpin", second)[0] == 0
    assert versions("export", second, tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "version.json").is_file()
    assert versions("delete", second, answer="n\n")[0] == 1
    assert second in listed()
    assert versions("delete", second, answer="y\n")[0] == 0
    assert list(listed()) == [first]


def test_accuracies_are_listed_with_their_intervals(client: Client, script: Script) -> None:
    script.set(output={"figures": {"accuracy": 0.84, "accuracy_low": 0.79, "accuracy_high": 0.881}})
    client.train()
    script.set(output={"figures": {"accuracy": 0.5}})
    client.train()

    older, newer = versions("list")[1].splitlines()[::-1]
    assert "  84.0% (79% to 88%)  " in older
    assert "  50.0%  " in newer


def test_what_is_not_there_is_one_sentence(client: Client) -> None:
    assert client.backend.serving.version_name(PROJECT) == UNTRAINED
    assert versions("show", "v9-20260101T000000") == (
        1,
        "Error: there is no version v9-20260101T000000; existing versions: none\n",
    )
    assert "connected projects: " in versions("list", "--project", "8")[1]


def test_output_that_nobody_reads_to_its_end_is_no_error(client: Client) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "my_backend", "versions", "list", "--json"]
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=SECONDS)
    finally:
        os.close(writing)

    assert (done.returncode, done.stderr) == (1, b"")


def test_without_a_project_the_option_that_chooses_one_is_named(client: Client) -> None:
    for number in (8, 9):
        client.setup(project=f"{number}.1795181751")

    assert "choose one with --project ID" in versions("list")[1]


def test_damaged_only_version_is_said_deleted_and_followed_by_another(client: Client) -> None:
    only = client.train()
    record = client.backend.projects.folder(PROJECT) / "versions" / only / "version.json"
    record.write_text("{")

    assert f"Can't use {record}: " in versions("list")[1]
    assert versions("show", only)[1].startswith(f"Error: version {only} is damaged (version.json: ")
    assert versions("delete", only, "--yes") == (0, f"Deleted {only}\n")
    assert eventually(lambda: client.backend.serving.version_name(PROJECT) == UNTRAINED)
    assert client.train().startswith("v2-")
