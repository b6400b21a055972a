"""Which project a request is about."""

import logging
import re
from typing import Any

import pytest

from my_backend.log.lines import TextLines
from tests.my_backend.conftest import PROJECT, Client, Serve

ASKS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/is_training", {}),
    ("GET", "/api/embeddings", {}),
    ("POST", "/api/embeddings/start", {}),
    ("POST", "/api/embeddings/stop", {}),
    ("POST", "/versions", {}),
    ("POST", "/train", {}),
    ("POST", "/api/models/train", {}),
    ("POST", "/api/models/predict", {"url": "data:,x"}),
    ("POST", "/api/models/retrain", {"url": "data:,x", "label": "Cat"}),
    ("POST", "/api/models/activate", {"version": "v1-20261120T132501"}),
    ("POST", "/api/models/pin", {"version": "v1-20261120T132501"}),
    ("POST", "/api/models/delete", {"version": "v1-20261120T132501"}),
    ("POST", "/predict", {"tasks": []}),
    ("POST", "/webhook", {"action": "START_TRAINING"}),
]


def ask(client: Client, method: str, path: str, body: dict[str, Any], status: int) -> str:
    response = client.http.open(path, method=method, json=body if method == "POST" else None)
    assert response.status_code == status, response.text
    return str(response.json["error"])


@pytest.mark.parametrize(("method", "path", "body"), ASKS)
def test_project_that_is_not_named_is_asked_for_with_the_list(
    client: Client, method: str, path: str, body: dict[str, Any]
) -> None:
    client.setup("8.1")

    error = ask(client, method, path, body, 400)

    assert "project" in error
    assert PROJECT in error
    assert "8.1" in error


@pytest.mark.parametrize(("method", "path", "body"), ASKS)
def test_without_any_project_it_is_said_how_to_connect_one(
    serve: Serve, method: str, path: str, body: dict[str, Any]
) -> None:
    with serve() as client:
        assert "no project is connected yet" in ask(client, method, path, body, 404)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [entry for entry in ASKS if entry[1] not in ("/predict", "/webhook")] + [("POST", "/delete", {})],
)
def test_unknown_project_is_not_found(client: Client, method: str, path: str, body: dict[str, Any]) -> None:
    error = ask(client, method, path + ("?project=9" if method == "GET" else ""), {**body, "project": 9}, 404)

    assert "project 9 is not connected" in error
    assert PROJECT in error


@pytest.fixture
def request_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The log of requests, with ids."""
    monkeypatch.setattr(caplog.handler, "formatter", TextLines(redact=lambda text: text))
    caplog.set_level(logging.DEBUG, "my_backend.web.middleware.request_log")
    return caplog


def line_of(client: Client, log: pytest.LogCaptureFixture, method: str, path: str, body: dict[str, Any]) -> str:
    """Sends a request and returns its log line."""
    log.clear()
    client.http.open(path, method=method, json=body if method == "POST" else None)
    [line] = [line for line in log.text.splitlines() if f"{method} {path}:" in line]
    return line


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        *(entry for entry in ASKS if entry[1] != "/webhook"),
        ("GET", "/versions", {}),
        ("GET", "/api/models/corrections", {}),
        ("GET", "/api/labeling/runs", {}),
        ("GET", "/api/labeling/accept", {}),
    ],
)
def test_log_line_of_request_names_its_project(
    client: Client, request_log: pytest.LogCaptureFixture, method: str, path: str, body: dict[str, Any]
) -> None:
    assert f"project={PROJECT}" in line_of(client, request_log, method, path, body)


def test_log_line_of_every_page_names_its_project(client: Client, request_log: pytest.LogCaptureFixture) -> None:
    values = {"name": PROJECT, "version": client.train(), "digest": "0" * 64, "task": "1"}
    rules = [rule.rule for rule in client.http.application.url_map.iter_rules() if "<name>" in rule.rule]
    assert len(rules) > 10

    for rule in rules:
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda part: values[part[1]], rule)
        assert f"project={PROJECT}" in line_of(client, request_log, "GET", path, {}), path


def test_predict_for_the_number_of_a_connected_project_means_that_project(client: Client) -> None:
    name = client.train()

    assert client.predict(project="7")["model_version"] == name
    assert [project.uid for project in client.backend.projects.all()] == [PROJECT]
