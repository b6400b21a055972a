"""The real Label Studio that tests, benchmarks and the demo use."""

import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests

from testing.digits import LABEL_CONFIG, write_digits
from testing.label_studio import UPLOAD_FILES, LabelStudio
from testing.process import ServerError, answers
from testing.waiting import eventually


@pytest.fixture
def project(label_studio: LabelStudio) -> int:
    return label_studio.create_project("Digits", LABEL_CONFIG)


@pytest.fixture
def images(tmp_path: Path) -> list[tuple[Path, str]]:
    return write_digits(tmp_path / "images", n=3)


def test_uploaded_images_are_the_tasks_in_order(label_studio: LabelStudio, project: int, tmp_path: Path) -> None:
    digits = write_digits(tmp_path, n=UPLOAD_FILES + 2)  # two requests
    paths = [path for path, _ in reversed(digits)]
    labels = [label if n % 2 else None for n, (_, label) in enumerate(reversed(digits))]

    ids = label_studio.upload_images(project, paths, labels)

    tasks = {task["id"]: task for task in label_studio.tasks(project)}
    assert [tasks[task]["data"]["image"].partition("-")[2] for task in ids] == [path.name for path in paths]
    assert [choice_of(tasks[task]) for task in ids] == labels
    image = label_studio.request("GET", tasks[ids[0]]["data"]["image"])
    assert image.content == paths[0].read_bytes()


def choice_of(task: dict[str, Any]) -> str | None:
    for annotation in task["annotations"]:
        assert annotation["ground_truth"] is False
        return str(annotation["result"][0]["value"]["choices"][0])
    return None


def test_annotations_come_back_in_the_export(
    label_studio: LabelStudio, project: int, images: list[tuple[Path, str]]
) -> None:
    one, two, three = label_studio.upload_images(project, [path for path, _ in images])

    changed = label_studio.annotate(one, "3", lead_time=1.5)
    label_studio.update_annotation(changed, "4")
    label_studio.annotate(two, [], was_cancelled=True)
    label_studio.delete_annotation(label_studio.annotate(three, ["5"]))

    exported = {task["id"]: task["annotations"] for task in label_studio.export(project)}
    assert set(exported) == {one, two}
    assert exported[one][0]["result"] == [
        {"from_name": "digit", "to_name": "image", "type": "choices", "value": {"choices": ["4"]}}
    ]
    assert (exported[two][0]["was_cancelled"], exported[two][0]["result"]) == (True, [])


def test_tasks_of_several_pages_are_all_read(
    label_studio: LabelStudio, project: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("testing.label_studio.PAGE_TASKS", 2)

    ids = label_studio.import_tasks(project, [{"data": {"image": f"/{n}.png"}} for n in range(5)])

    assert [task["id"] for task in label_studio.tasks(project)] == ids


def test_project_settings_can_be_changed(label_studio: LabelStudio) -> None:
    project = label_studio.create_project("Digits", LABEL_CONFIG, min_annotations_to_start_training=5)

    label_studio.update_project(project, title="Numbers")

    settings = label_studio.project(project)
    assert (settings["title"], settings["min_annotations_to_start_training"]) == ("Numbers", 5)


def test_refused_request_raises_with_status_and_reason(label_studio: LabelStudio) -> None:
    with pytest.raises(ServerError, match=r"POST /api/projects/: 400 .*at least 3 characters"):
        label_studio.create_project("x", LABEL_CONFIG)


# Tokens


def status_with(label_studio: LabelStudio, authorization: str) -> int:
    headers = {"Authorization": authorization}
    return requests.get(f"{label_studio.url}/api/projects/", headers=headers, timeout=30).status_code


def test_fresh_label_studio_takes_only_the_personal_access_token(label_studio: LabelStudio) -> None:
    token = {"refresh": label_studio.personal_access_token}
    access = requests.post(f"{label_studio.url}/api/token/refresh", json=token, timeout=30).json()["access"]

    assert status_with(label_studio, f"Bearer {access}") == 200
    assert status_with(label_studio, f"Token {label_studio.legacy_token}") == 401


# The whole life of a second server: with the settings that the other one has not.


def test_settings_restart_and_end(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (digit,) = (path for path, _ in write_digits(tmp_path / "files", n=1))
    picture = digit.rename(digit.with_name("0 & Größe#1?.png"))
    with LabelStudio(tmp_path / "ls", legacy_tokens=True, local_files=tmp_path) as server:
        assert status_with(server, f"Token {server.legacy_token}") == 200
        project = server.create_project("Digits", LABEL_CONFIG)
        paths = [picture, picture.with_name("gone.png")]
        added = server.add_local_images(project, picture.parent, paths, ["0", None], from_name="digit")
        tasks = {task["id"]: task for task in server.tasks(project)}
        assert [choice_of(tasks[task]) for task in added] == ["0", None]
        served = server.request("GET", tasks[added[0]]["data"]["image"])
        assert served.content == picture.read_bytes()

        token = server.personal_access_token
        server.stop()
        assert not answers(f"{server.url}/health")
        (tmp_path / "ls" / "data" / ".env").write_text("SECRET_KEY=#a\n")  # as Label Studio may do, and cannot read
        server.start()
        assert server.project(project)["title"] == "Digits"
        assert server.personal_access_token == token
        server.request("POST", "/api/token/refresh/", json={"refresh": token})

        assert server._process is not None
        group = server._process.pid
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


# A backend


class Stub(BaseHTTPRequestHandler):
    """Predicts "7" for every task, and remembers what Label Studio sent."""

    seen: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self._answer({"status": "UP"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((body.get("action", self.path), self.headers["Authorization"]))
        result = [{"from_name": "digit", "to_name": "image", "type": "choices", "value": {"choices": ["7"]}}]
        prediction = {"result": result, "score": 0.5, "model_version": "v1"}
        results = [prediction for _ in body.get("tasks", [])]
        self._answer({"model_version": "v1", "results": results, "job": "1"})

    def _answer(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_request(self, code: int | str = 0, size: int | str = 0) -> None:
        """Nothing is to be printed."""


@pytest.fixture
def stub() -> Iterator[ThreadingHTTPServer]:
    Stub.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Stub) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_backend_is_connected_trained_and_asked(
    label_studio: LabelStudio,
    project: int,
    images: list[tuple[Path, str]],
    stub: ThreadingHTTPServer,
) -> None:
    url = f"http://127.0.0.1:{stub.server_port}"
    ids = label_studio.upload_images(project, [path for path, _ in images])

    backend = label_studio.connect(project, url, title="stub", basic_auth=("user", "secret"))
    label_studio.start_training(backend)
    label_studio.retrieve_predictions(project, ids[:2])
    annotation = label_studio.annotate(ids[0], "7")
    label_studio.delete_annotation(annotation)

    state = label_studio.backend(backend)
    assert (state["title"], state["readable_state"], state["model_version"]) == ("stub", "Connected", "v1")
    predictions = label_studio.predictions(project)
    assert list(predictions) == ids[:2]
    assert predictions[ids[0]][0]["result"][0]["value"] == {"choices": ["7"]}
    assert [webhook["url"] for webhook in label_studio.webhooks(project)] == [f"{url}/webhook"]
    # Label Studio doesn't wait for an event's answer for long.
    assert eventually(lambda: "ANNOTATIONS_DELETED" in dict(Stub.seen))
    by_action = dict(Stub.seen)
    assert by_action["START_TRAINING"] is not None
    # Label Studio sends events without the password.
    assert by_action["ANNOTATION_CREATED"] is None
