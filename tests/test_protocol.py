"""Every request that a real Label Studio sends, as tests/data/record_protocol.py has recorded it."""

import json
from pathlib import Path
from typing import Any

import pytest

from testing.waiting import eventually
from tests.data.record_protocol import PASSWORD, USER
from tests.my_backend.conftest import Client, Serve, basic, make_settings, script, serve

__all__ = ["make_settings", "script", "serve"]  # fixtures

RECORDINGS = sorted((Path(__file__).parent / "data").glob("label_studio_*.jsonl"))
GUARDED = "basic auth: "
EVENTS = {
    "ANNOTATION_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATIONS_DELETED",
    "TASKS_CREATED",
    "TASKS_DELETED",
    "PROJECT_UPDATED",
    "START_TRAINING",
}

Request = dict[str, Any]


@pytest.fixture(params=RECORDINGS, ids=lambda path: path.stem)
def recording(request: pytest.FixtureRequest) -> list[Request]:
    return [json.loads(line) for line in request.param.read_text(encoding="utf-8").splitlines()]


def send(client: Client, request: Request) -> Any:
    """The answer of the app to a recorded request."""
    return client.http.open(
        request["path"],
        method=request["method"],
        query_string=request["query"],
        headers=request["headers"],
        data=None if request["body"] is None else json.dumps(request["body"]),
    )


def check(request: Request, response: Any) -> None:
    """The answer is one that Label Studio can use."""
    body, answer = request["body"] or {}, response.json
    assert 200 <= response.status_code < 300, (request["phase"], response.status_code, answer)
    match request["path"]:
        case "/health":
            assert answer["status"] == "UP"
        case "/setup":
            assert isinstance(answer["model_version"], str)
            assert answer["model_version"]
        case "/versions":
            assert all(isinstance(name, str) for name in answer["versions"])
        case "/predict":
            assert len(answer["results"]) == len(body["tasks"])
            for result in answer["results"]:
                check_prediction(result, answer["model_version"])
        case "/webhook" if body["action"] == "START_TRAINING":
            assert (response.status_code, answer["job"]) == (201, answer["job_id"])
            assert isinstance(answer["job"], str)
        case "/webhook":
            assert answer == {"status": "ok", "action": body["action"]}
        case path:
            pytest.fail(f"{path} is new: what does Label Studio do with its answer?")


def check_prediction(result: Any, version: str) -> None:
    if result == []:
        return
    assert (type(result["score"]), result["model_version"]) == (float, version)
    (region,) = result["result"]
    assert {"from_name", "to_name", "type", "value"} <= set(region)


def connect_and_train(client: Client, first: Request) -> str:
    """A live version of the recorded project."""
    assert first["path"] == "/setup"
    assert send(client, first).json == {"model_version": "untrained"}
    return client.train(first["body"]["project"])


@pytest.fixture(params=[False, True], ids=["before the first version", "with a version"])
def trained(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_every_request_is_answered_as_label_studio_needs_it(
    serve: Serve, recording: list[Request], trained: bool
) -> None:
    requests = [request for request in recording if not request["phase"].startswith(GUARDED)]
    with serve(retrain_after_annotations=3) as client:
        version = "untrained"
        if trained:
            version = connect_and_train(client, next(r for r in requests if r["path"] == "/setup"))
        for request in requests:
            response = send(client, request)
            check(request, response)
            if request["path"] == "/predict":
                assert response.json["model_version"] == version
                assert all(bool(result) is trained for result in response.json["results"])

        (project,) = client.backend.projects.all()
        assert project.title == "Few digits"
        assert 'value="2"' not in project.label_config
        changed = {"ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED", "ANNOTATIONS_DELETED"}
        events = [request for request in requests if (request["body"] or {}).get("action") in changed]
        assert client.backend.projects.annotation_log(project.uid).count() == len(events)
        # The last value of `choice` has gone, so that Label Studio is to ask again.
        if trained:
            assert eventually(lambda: client.backend.serving.version_name(project.uid).startswith("v2-"))


def test_requests_with_a_password_are_answered_and_events_without_one(
    serve: Serve, recording: list[Request], trained: bool
) -> None:
    requests = [request for request in recording if request["phase"].startswith(GUARDED)]
    assert {"/health", "/setup", "/predict", "/versions", "/webhook"} == {request["path"] for request in requests}
    with serve(basic_auth_user=USER, basic_auth_pass=PASSWORD) as client:
        client.http.environ_base["HTTP_AUTHORIZATION"] = basic(USER, PASSWORD)["Authorization"]
        if trained:
            connect_and_train(client, next(r for r in requests if r["path"] == "/setup"))
        del client.http.environ_base["HTTP_AUTHORIZATION"]
        refused = []
        for request in requests:
            response = send(client, request)
            if "Authorization" in request["headers"]:
                check(request, response)
            else:
                assert response.status_code == 401
                refused.append(request["body"]["action"])
            again = send(client, {**request, "headers": {**request["headers"], **basic(USER, PASSWORD)}})
            check(request, again)

    # Label Studio knows no password for events: the connection's URL has to have it.
    assert refused == ["ANNOTATION_CREATED"]


def test_recording_has_every_event_and_no_token(recording: list[Request]) -> None:
    assert {request["body"]["action"] for request in recording if request["path"] == "/webhook"} == EVENTS
    text = json.dumps(recording)
    assert text.count('"access_token": "TOKEN"') == text.count('"access_token"') > 0
    assert text.count('"token": "TOKEN"') == text.count('"token"') > 0
