"""The page of problems, and the same as JSON."""

import threading
from typing import Any

import pytest

from my_backend.label_studio.project_connection import read_connection
from my_backend.projects.recent_predictions import Sighting
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import LABEL_CONFIG, Script
from tests.my_backend.web.pages.page_text import page, result, tag_of, words


def test_former_names_of_the_problems_answer_the_same(client: Client) -> None:
    assert eventually(lambda: client.backend.monitor.finding(PROJECT) and not client.backend.monitor.asking)
    assert client.get("/problems")["troubles"]
    assert client.get("/troubles") == client.get("/problems")
    assert words(client, "/troubles") == words(client, "/problems")
    assert client.post("/api/troubles/check", status=202) == client.post("/api/problems/check", status=202)


def test_problem_has_message_and_hint(client: Client) -> None:
    for problem in client.get("/problems")["troubles"]:
        assert (problem["message"], problem["hint"]) == (problem["what"], problem["remedy"])
        assert problem["message"]


def test_problems_name_what_is_missing(serve: Serve, label_studio: FakeLabelStudio) -> None:
    with serve() as client:
        client.setup(config="<View/>")
        described = {"id": 7, "created_at": "2026-11-20T13:35:51Z", "title": "Pets"}
        client.post("/webhook", {"action": "PROJECT_UPDATED", "project": described})
        assert eventually(lambda: client.backend.monitor.finding(PROJECT))

        assert codes(client) == ["no-token", "labeling-config", "label-studio-unknown"]
        shown = words(client, "/problems")
        assert "Pets : The labeling config has no &lt;Image" in shown
        assert "your avatar → Account &amp; Settings → Personal Access Token" in shown

    with serve(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat) as client:
        client.setup(config=LABEL_CONFIG)
        assert eventually(lambda: client.backend.monitor.finding(PROJECT) and codes(client) == [])
        assert "No problems." in words(client, "/problems")


def codes(client: Client) -> list[str]:
    return [problem["code"] for problem in client.get("/problems")["troubles"]]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"backends": [], "webhooks": []}, "not-connected"),
        ({"backends": [{"url": "http://127.0.0.1:9090", "state": "ER", "error_message": "no luck"}]}, "disconnected"),
        ({"webhooks": []}, "webhook-missing"),
        ({"pat": "another"}, "token"),
    ],
)
def test_what_label_studio_says_is_looked_at_again_until_it_is_fixed(
    serve: Serve, label_studio: FakeLabelStudio, change: dict[str, Any], found: str
) -> None:
    before = {name: getattr(label_studio, name) for name in change}
    with serve(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat) as client:
        client.setup()
        assert eventually(lambda: client.backend.monitor.finding(PROJECT) and codes(client) == [])
        for name, value in change.items():
            setattr(label_studio, name, value)
        if found == "token":
            label_studio.access_tokens.clear()
        client.post("/api/problems/check", status=202)
        assert eventually(lambda: codes(client) == [found])
        assert client.get("/health")["problems"] == [str(client.backend.summary.problems()[0])]

        for name, value in before.items():
            setattr(label_studio, name, value)
        if found == "token":
            return  # the kept access token is the old one's
        client.post("/api/problems/check", status=202)
        assert eventually(lambda: codes(client) == [])


def test_missing_token_is_one_problem_unless_setups_token_is_enough(
    serve: Serve, label_studio: FakeLabelStudio
) -> None:
    with serve() as client:
        handed_over = {"hostname": label_studio.url, "access_token": label_studio.legacy}
        client.post("/setup", {"project": PROJECT, "schema": LABEL_CONFIG, **handed_over})
        assert eventually(lambda: client.backend.monitor.finding(PROJECT))
        assert codes(client) == ["no-token"]
        command = f"<code>LABEL_STUDIO_URL={label_studio.url} LABEL_STUDIO_API_KEY=&lt;the token&gt;</code>"
        assert command in page(client, "/problems")

        label_studio.legacy_enabled = True
        client.post("/api/problems/check", status=202)
        assert eventually(lambda: codes(client) == [])


def test_page_says_while_label_studio_is_asked(
    serve: Serve, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat) as client:
        client.setup()
        assert eventually(lambda: client.backend.monitor.finding(PROJECT))
        assert 'data-busy="no"' in page(client, "/problems")
        answers = threading.Event()

        def slowly(*asked: Any) -> Any:
            answers.wait(60)
            return read_connection(*asked)

        monkeypatch.setattr("my_backend.diagnostics.monitor.read_connection", slowly)
        tag = tag_of(client, "/problems")
        client.post("/api/problems/check", status=202)

        shown = page(client, "/problems")
        assert 'data-busy="asking"' in shown
        assert "Checking…" in shown
        assert tag_of(client, "/problems") != tag
        answers.set()
        assert eventually(lambda: 'data-busy="no"' in page(client, "/problems"))


def test_webhook_needs_the_password_where_there_is_one(serve: Serve, label_studio: FakeLabelStudio) -> None:
    given = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.pat}
    with serve(basic_auth_user="u", basic_auth_pass="p", **given) as client:
        client.http.post("/setup", json={"project": PROJECT, "schema": LABEL_CONFIG}, auth=("u", "p"))
        assert eventually(lambda: client.backend.monitor.finding(PROJECT))

        assert [problem.code for problem in client.backend.summary.problems()] == ["webhook-credentials"]


def test_images_that_failed_are_named_until_they_are_predicted(client: Client, script: Script) -> None:
    client.train()
    script.set(results=[[], result("Cat", 0.5)], failed={"0": "task 1: no image"})
    client.predict({"image": "a"}, {"image": "b"})

    def images() -> list[str]:
        return [
            d
            for problem in client.get("/problems")["troubles"]
            for d in problem["details"]
            if problem["code"] == "images"
        ]

    assert eventually(lambda: images() == ["task 1: no image"])
    assert "1 image has no prediction" in words(client, "/problems")
    script.set(results=[result("Cat", 0.5)])
    client.predict({"image": "a"})
    assert eventually(lambda: images() == [])


def test_what_was_seen_survives_a_restart_and_goes_with_the_project(serve: Serve) -> None:
    with serve() as client:
        client.setup()
        client.backend.recent.note(PROJECT, [Sighting(1, "u", why="broken")])
    with serve() as client:
        assert "images" in codes(client)
        file = client.backend.projects.folder(PROJECT) / "recent.json"
        assert file.stat().st_mode & 0o777 == 0o600
        client.post("/delete", {"project": PROJECT})
        assert eventually(lambda: "images" not in codes(client))
        assert not file.exists()
