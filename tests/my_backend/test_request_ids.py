"""The id of a request goes where its work goes."""

import logging
import re

import pytest

from label_studio_format.events import Change
from my_backend import context
from my_backend.jobs.retraining import Retraining
from my_backend.projects.registry import Projects
from my_backend.projects.versions import Versions
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve, basic
from tests.my_backend.fake_model import Script


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, str]]]:
    """Each line with the ids that it was written with."""
    lines: list[tuple[str, dict[str, str]]] = []

    class Seeing(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            lines.append((record.getMessage(), dict(context.ids())))
            return True

    caplog.set_level("DEBUG", "my_backend")
    caplog.handler.addFilter(Seeing())
    return lines


@pytest.mark.parametrize("given", ["a", "click-7", "A.b_c-9", "x" * 64])
def test_callers_own_id_is_used(client: Client, given: str) -> None:
    answer = client.http.get("/health", headers={"X-Request-ID": given})
    assert answer.headers.getlist("X-Request-ID") == [given]


@pytest.mark.parametrize("given", ["", " ", "x" * 65, "a b", "a\tb", 'a"b', "ä", "a/b", "{}"])
def test_other_ids_are_made_up(client: Client, given: str) -> None:
    made = [
        client.http.get("/health", headers={"X-Request-ID": given.encode().decode("latin-1")}).headers["X-Request-ID"]
        for _ in range(2)
    ]
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in made)
    assert made[0] != made[1]


def test_errors_have_it_whatever_part_refuses(serve: Serve, script: Script) -> None:
    with serve(basic_auth_user="u", basic_auth_pass="p") as client:
        header = basic("u", "p")
        client.get("/health", 401)
        client.get("/nothing", 404, headers=header)
        client.post("/health", {}, 405, headers=header)
        client.post("/setup", {"project": []}, 400, headers=header)
        client.post("/setup", {"project": PROJECT}, 403, headers={**header, "Origin": "http://elsewhere"})
        client.get("/projects/9", 404, headers=header)


def test_ids_of_a_request_end_with_it(client: Client, seen: list[tuple[str, dict[str, str]]]) -> None:
    client.http.post("/predict", json={"project": PROJECT, "tasks": []}, headers={"X-Request-ID": "one"})
    client.http.get("/health", headers={"X-Request-ID": "two"})

    lines = {ids["request_id"]: ids for message, ids in seen if "/predict" in message or "/health" in message}
    assert lines["one"] == {"request_id": "one", "project": PROJECT}
    assert lines["two"] == {"request_id": "two"}
    assert context.ids() == {}


def test_job_its_lines_and_its_version_have_the_request(client: Client, seen: list[tuple[str, dict[str, str]]]) -> None:
    body = {"project": PROJECT, "annotations": [{"id": 1, "data": {}, "annotations": []}]}
    answer = client.http.post("/train", json=body, headers={"X-Request-ID": "click"})
    job = client.ended(answer.json["job"])

    version = job.result["versions"][-1]
    for last in (f"{version} is live", f"job {job.id}: finished"):
        assert eventually(lambda last=last: any(message.endswith(last) for message, _ in seen)), last
    ids = {"request_id": "click", "project": PROJECT, "job": job.id}
    of_click = [message for message, its in seen if its == ids]
    for said in (f"job {job.id}: started", "published", f"job {job.id}: finished", "is live", "POST /train: 201"):
        assert any(said in message for message in of_click), said
    assert job.request_id == "click"
    assert Versions(client.backend.projects.folder(PROJECT)).get(version).made_by == {
        "job": job.id,
        "request_id": "click",
    }
    assert client.post("/versions", {"project": PROJECT})["details"][0]["made_by"]["request_id"] == "click"


def test_imported_tasks_are_prepared_for_their_request(
    client: Client, script: Script, seen: list[tuple[str, dict[str, str]]]
) -> None:
    script.set(prepare_raises="a bug")
    event = {"action": "TASKS_CREATED", "tasks": [{"id": 1, "data": None}], "project": None}
    client.http.post("/webhook", json=event, headers={"X-Request-ID": "import"})

    assert eventually(lambda: any("can't prepare imported tasks" in message for message, _ in seen))
    [ids] = [ids for message, ids in seen if "can't prepare imported tasks" in message]
    assert ids == {"request_id": "import", "project": PROJECT}


def test_training_after_a_while_is_for_the_event_that_came_last(
    projects_of_7: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("my_backend.jobs.retraining.QUIET_SECONDS", 0.05)
    trained: list[dict[str, str]] = []
    retraining = Retraining(projects_of_7, 10, lambda project: trained.append(dict(context.ids())))
    retraining.start()
    try:
        with context.working_for(request_id="event"):
            retraining.changed("7.1", "ANNOTATION_CREATED", [Change({"id": 1})])
        assert eventually(lambda: trained)
    finally:
        retraining.stop()

    assert trained == [{"request_id": "event"}]


@pytest.fixture
def projects_of_7(tmp_path_factory: pytest.TempPathFactory) -> Projects:
    projects = Projects(tmp_path_factory.mktemp("projects"))
    projects.remember("7.1")
    return projects
