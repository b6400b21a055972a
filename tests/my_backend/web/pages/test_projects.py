"""The first page: all projects, or the first steps if there is none."""

import re
from html import unescape
from typing import Any

import pytest

from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import LABEL_CONFIG, Script
from tests.my_backend.web.pages.page_text import EVIL, HERE, page, words


def test_page_without_projects_says_how_to_connect_one(serve: Serve) -> None:
    with serve() as client:
        shown = words(client, "/")

    assert "No project is connected yet Give the backend a token In Label Studio, click your avatar" in shown
    assert "Settings → Model → Connect Model . Enter any name and the Backend URL http://localhost" in shown
    assert "LABEL_STUDIO_API_KEY is not set" not in shown, "the first step says it"


def test_first_steps_are_ticked_as_they_are_done(serve: Serve, label_studio: FakeLabelStudio, script: Script) -> None:
    def done(client: Client) -> list[str]:
        return re.findall(r"Done: </span>\s*<strong>([^<]*)", page(client))

    with serve() as client:
        client.setup()
        assert eventually(lambda: client.backend.monitor.finding(PROJECT))
        assert done(client) == ["Connect the backend to a project"]
        assert 'class="next" aria-current="step"><strong>Give the backend a token' in page(client)
        assert "With Docker Compose, put them into .env next to docker-compose.yml" in words(client)
        assert page(client).count('aria-current="step"') == 1
    with serve(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat) as client:
        assert eventually(lambda: client.backend.monitor.finding(PROJECT))
        assert done(client) == ["Give the backend a token", "Connect the backend to a project"]
        assert f'href="{label_studio.url}/projects/7/data"' in page(client)
        client.post("/webhook", {"action": "ANNOTATION_CREATED", "annotation": {"id": 1}})
        assert done(client)[2:] == ["Label a few images for each choice"]
        assert "1 annotation so far." in words(client)
        client.train()
        assert done(client) == []


def test_projects_are_looked_for_where_there_are_many(client: Client) -> None:
    assert "Find a project" not in page(client, "/")
    for number in range(10, 20):
        client.backend.projects.remember(f"{number}.1795181751", label_config=LABEL_CONFIG, title=f"Cats {number}")

    assert "Find a project" in page(client, "/")
    shown = words(client, "/?find=cats+12")
    assert "1 of 11 projects matches “ cats 12 ”" in shown
    assert "Cats 12" in shown
    assert "Cats 13" not in shown
    assert "0 of 11 projects match" in words(client, "/?find=dogs")
    assert EVIL not in page(client, f"/?find={EVIL}")


def test_a_project_shows_its_own_problems_and_why_its_training_failed(client: Client, script: Script) -> None:
    client.setup("8.1795181751", config="<View/>")
    assert "no &lt;Image" not in page(client)
    assert re.search("needs? attention The labeling config has no &lt;Image", words(client, "/projects/8"))

    script.set(fit_raises="no luck")
    client.ended(client.submit_training())
    assert "The last training run failed RuntimeError: no luck" in words(client)
    assert 'data-outcome="failed"' in page(client, f"{HERE}/versions")


def test_first_page_shows_each_project_with_what_is_live(client: Client, script: Script) -> None:
    script.set(output={"figures": {"accuracy": 0.9375, "images": 16}, "labels": {"Cat": 3, "Dog": 2}})
    client.train()
    client.setup("8.1795181751")

    shown = words(client, "/")

    assert "Accuracy 93.8% Live version v1 Training labels 5 Labels not yet used 0" in shown
    assert "Live version untrained Training labels 0" in shown


def test_project_that_cannot_be_shown_leaves_the_others_on_the_page(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client.post("/setup", {"project": "8.1", "schema": LABEL_CONFIG})
    client.train()
    newest = client.backend.job_store.newest

    def fails(project: str, count: int) -> Any:
        if project == "8.1":
            raise KeyError("phase")
        return newest(project, count)

    monkeypatch.setattr(client.backend.job_store, "newest", fails)

    shown = words(client, "/")

    assert "Live version v1" in shown
    assert re.search("Project 8 +can't be shown; the log says why", unescape(shown))
    assert "project 8.1: the page can't show it" in caplog.text
