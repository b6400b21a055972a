"""The password is added to the backend's own webhook, and to no other."""

import math
from collections.abc import Iterator
from typing import Any

import pytest

from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve, basic
from tests.my_backend.fake_model import LABEL_CONFIG

HOST = "backend.example:9090"
PASSWORD = basic("user", "pässword")
SETUP = {"project": PROJECT, "schema": LABEL_CONFIG}
EVENT = {
    "action": "ANNOTATION_CREATED",
    "project": {"id": 7, "created_at": "2026-11-20T13:35:51Z"},
    "annotation": {"id": 1},
}


def connection(url: str, user: str = "user") -> dict[str, Any]:
    return {"id": 1, "url": url, "auth_method": "BASIC_AUTH", "basic_auth_user": user}


def webhook(number: int, url: str, **headers: str) -> dict[str, Any]:
    return {"id": number, "url": url, "headers": headers}


@pytest.fixture
def guarded(serve: Serve, label_studio: FakeLabelStudio) -> Iterator[Client]:
    given = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.pat}
    with serve(basic_auth_user="user", basic_auth_pass="pässword", **given) as client:
        yield client


@pytest.mark.parametrize("host", [HOST, "ml_backend:9090"])  # Compose's names of services may have underscores
def test_only_the_own_webhook_gets_it_and_keeps_its_other_headers(
    guarded: Client, label_studio: FakeLabelStudio, host: str
) -> None:
    label_studio.backends = [
        connection(f"http://{host}/"),
        connection(f"http://{host}/other", user="somebody else"),
        connection("http://elsewhere.example:9090"),
    ]
    label_studio.webhooks = [
        webhook(1, "http://elsewhere.example:9090/webhook"),
        webhook(2, f"http://{host}/webhook", **{"X-Mine": "kept", "Authorization": "Basic old"}),
        webhook(3, f"http://{host}/other/webhook"),
        webhook(4, f"http://{host}/webhook/deeper"),
        webhook(5, f"http://{host}@elsewhere.example/webhook"),
    ]
    guarded.post("/setup", SETUP, headers={**PASSWORD, "Host": host})

    assert eventually(lambda: label_studio.patched)
    assert eventually(lambda: not remedies(guarded))
    assert label_studio.patched == [("/api/webhooks/2/", {"headers": {"X-Mine": "kept", **PASSWORD}})]


def test_webhook_that_is_made_after_the_first_look_is_found(guarded: Client, label_studio: FakeLabelStudio) -> None:
    guarded.post("/setup", SETUP, headers={**PASSWORD, "Host": HOST})
    assert eventually(lambda: "/api/webhooks/?project=7" in label_studio.server.paths())

    label_studio.backends = [connection(f"http://{HOST}")]
    label_studio.webhooks = [webhook(1, f"http://{HOST}/webhook")]

    assert eventually(lambda: label_studio.patched)


def test_without_a_token_the_fix_is_told_until_an_event_has_come(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(basic_auth_user="user", basic_auth_pass="pässword") as client:
        client.post("/setup", SETUP, headers={**PASSWORD, "Host": HOST})
        assert len(remedies(client)) == 1
        assert "http://user:password@host:9090" in remedies(client)[0]
        for _ in range(3):
            client.post("/webhook", EVENT, 401)
        client.post("/webhook", EVENT, 401, headers=basic("user", "wrong"))
        assert remedies(client)
        told = [record.getMessage() for record in caplog.records if "refused an event" in record.getMessage()]
        assert len(told) == 1
        assert "http://user:password@host:9090" in told[0]
        client.post("/webhook", EVENT, headers=PASSWORD)
        assert remedies(client) == []


def test_without_a_password_there_is_nothing_to_do(client: Client) -> None:
    client.backend.webhook_password.called(PROJECT, HOST)
    assert client.backend.webhook_password.due(client.backend.projects.get(PROJECT)) == math.inf
    assert remedies(client) == []


def remedies(client: Client) -> list[str]:
    problems = client.get("/health", headers=PASSWORD)["problems"]
    return [problem for problem in problems if "the password with annotation events" in problem]
