"""What all pages have in common."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client
from tests.my_backend.fake_model import Script
from tests.my_backend.web.pages.page_text import FIGURES, FORECAST, HERE, page, words_of_error


def test_each_page_of_a_project_has_its_own_title(client: Client) -> None:
    tabs = re.findall(rf'<a href="({HERE}[^"]*)"[^>]*>(\w+)</a>', page(client).partition("</nav>")[2])
    assert len(tabs) == 8
    for path, name in tabs:
        assert f"<title>{name} – Project {PROJECT.partition('.')[0]}</title>" in page(client, path)


def test_programs_get_json_and_browsers_the_page(client: Client) -> None:
    for path, key in (("/", "status"), ("/problems", "troubles")):
        assert key in client.get(path)
        assert client.http.get(path, headers={"Accept": "*/*"}).is_json
        assert "<html" in page(client, path)


def test_what_is_not_there_is_said_as_a_page_or_as_json(client: Client) -> None:
    assert "project 99 is not connected" in words_of_error(client, "/projects/99")
    assert "not connected" in client.get("/projects/99", 404)["error"]


@pytest.mark.parametrize(
    "output",
    [
        {"figures": {"f1": 0.5}},
        {"figures": {"accuracy": "high", "confusion": [[1, 2], [3]], "per_class": {"Cat": 1}}},
        {"figures": FIGURES | {"confusion": [[1]], "calibration": "good"}},
        {"figures": "good"},
        {"figures": FIGURES | {"forecast": 0.9}},
        {"figures": FIGURES | {"forecast": FORECAST | {"expected": []}}},
        {"figures": FIGURES | {"forecast": FORECAST | {"labels": 0, "curve": [], "now": 7}}},
        {"labels": ["Cat"]},
        {"labels": "Cat"},
        {"labels": {"Cat": "many"}, "mistakes": 7, "summary": 1},
        {"figures": None, "labels": None, "mistakes": None},
    ],
)
def test_page_bears_what_another_model_says_of_itself(client: Client, script: Script, output: Any) -> None:
    script.set(output=output)
    name = client.train()

    for path in (
        "/",
        HERE,
        f"{HERE}/versions",
        f"{HERE}/versions/{name}",
        f"{HERE}/look",
        f"{HERE}/try",
        f"{HERE}/groups",
    ):
        page(client, path)
    assert client.post("/versions", {})["versions"] == [name]


def test_health_answers_from_memory(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.train()
    # The follower's visit reads files, in a thread that no error may end.
    assert eventually(lambda: client.backend.serving.ready and client.backend.monitor.finding(PROJECT))

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the disk was asked")

    for method in ("open", "read_text", "stat", "glob"):
        monkeypatch.setattr(f"pathlib.Path.{method}", fail)
    answer = client.http.get("/health")
    monkeypatch.undo()

    assert answer.status_code == 200
    assert client.backend.projects.get(PROJECT)


def test_a_project_whose_folder_is_gone_breaks_no_page(client: Client) -> None:
    client.train()
    folder: Path = client.backend.projects.folder(PROJECT)
    shutil.rmtree(folder / "versions")

    page(client, "/")
    page(client)
