"""No request causes a server error, whether it is nonsense or almost like Label Studio's."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from my_backend.web.api.protocol import ANNOTATION_EVENTS
from testing.process import Process, answers, direct_session, free_port
from tests.my_backend.conftest import FAKE_MODEL, PROJECT, Client
from tests.my_backend.fake_model import LABEL_CONFIG, SCRIPT, Script

ROOT = Path(__file__).resolve().parents[3]
REQUESTS = 10_000
SETTLED = 2_000  # requests after which the server has loaded all that it needs
GROWTH = 100_000_000  # bytes that the rest may cost: projects that are made by chance, and the allocator's holes

REGION = {"from_name": "animal", "to_name": "image", "type": "choices", "value": {"choices": ["Cat"]}}
ANNOTATION = {"id": 1, "task": 3, "completed_by": 1, "was_cancelled": False, "ground_truth": False, "result": [REGION]}
TASK = {"id": 3, "data": {"image": "data:image/png;base64,AAAA", "options": ["a"]}, "annotations": [ANNOTATION]}
DESCRIBED = {"id": 7, "created_at": "2026-11-20T13:35:51Z", "label_config": LABEL_CONFIG, "title": "<b>Pets</b>"}
EVENT = {"annotation": ANNOTATION, "annotations": [ANNOTATION], "task": TASK, "tasks": [TASK], "project": DESCRIBED}
BODIES: dict[str, dict[str, Any]] = {
    "/setup": {"project": PROJECT, "schema": LABEL_CONFIG, "hostname": "http://localhost:8080", "access_token": "x"},
    "/predict": {"tasks": [TASK], "project": PROJECT, "label_config": LABEL_CONFIG, "params": {"context": None}},
    "/webhook": EVENT,
    "/train": {"project": PROJECT, "annotations": [TASK]},
    "/api/models/train": {"project": "7"},
    "/api/models/predict": {"project": "7", "url": "data:image/png;base64,AAAA"},
    "/api/models/retrain": {"project": "7", "url": "data:image/png;base64,AAAA", "label": ["Cat"]},
    "/validate": {"config": LABEL_CONFIG},
    "/job_status": {"job": "full-20261121T000000-abcdef"},
    "/versions": {"project": PROJECT},
    "/api/models/activate": {"project": PROJECT, "version": "v1-20261120T132501"},
    "/api/models/pin": {"project": PROJECT, "version": "v1-20261120T132501", "pinned": False},
    "/api/models/delete": {"project": PROJECT, "version": "v1-20261120T132501"},
    "/duplicate_model": {"project_src": PROJECT, "project_dst": "8.1"},
    "/delete": {"project": "8.1"},
}
ACTIONS = ["START_TRAINING", "TASKS_CREATED", "TASKS_DELETED", "PROJECT_UPDATED", *ANNOTATION_EVENTS]

KEYS = st.sampled_from([*EVENT, *REGION, *ANNOTATION, *TASK, *DESCRIBED, "project", "job", "config", "url"])
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**20)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [PROJECT, 7, "7", "../..", "\0", "9" * 400, "<script>", "http://[", "data:", "file:///etc/passwd"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=6,
)


def vary(data: st.DataObject, value: Any) -> Any:
    """Mostly the value; occasionally something else, or less or more of it."""
    chance = data.draw(st.integers(0, 15))
    if chance == 0:
        return data.draw(JUNK)
    if isinstance(value, dict):
        varied = {name: vary(data, part) for name, part in value.items()}
        if chance == 1 and varied:
            varied.pop(data.draw(st.sampled_from(sorted(varied))))
        if chance == 2:
            varied[data.draw(KEYS)] = data.draw(JUNK)
        return varied
    if isinstance(value, list) and chance < 4:
        return [vary(data, part) for part in value] * chance
    return [vary(data, part) for part in value] if isinstance(value, list) else value


def draw_body(data: st.DataObject, path: str) -> bytes:
    how = data.draw(st.sampled_from(["almost right"] * 6 + ["junk", "no JSON"]))
    if how == "no JSON":
        return data.draw(st.binary(max_size=20))
    valid = {**BODIES.get(path, {})}
    if path == "/webhook":
        valid["action"] = data.draw(st.sampled_from(ACTIONS))
    return json.dumps(data.draw(JUNK) if how == "junk" else vary(data, valid)).encode()


@pytest.mark.parametrize("method", ["GET", "POST"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_request_is_a_server_error(client: Client, method: str, data: st.DataObject) -> None:
    rules = [rule.rule for rule in client.http.application.url_map.iter_rules() if method in (rule.methods or ())]
    path = data.draw(st.sampled_from(rules))
    body = draw_body(data, path)
    path = re.sub("<[^>]+>", lambda name: quote(data.draw(st.text(max_size=10))), path)

    response = client.http.open(
        path, method=method, query_string={"project": data.draw(st.text(max_size=10))}, data=body
    )
    said = response.text
    response.close()  # as when it is sent: until then it counts as being answered

    assert response.status_code < 500 or path == "/ready", (path, body, said)


class Server:
    """The server in a separate process, so that its memory can be measured."""

    def __init__(self, process: Process, url: str) -> None:
        self._process, self.url = process, url
        self.session = direct_session()
        self.asked = 0
        self.settled = 0

    def memory(self) -> int:
        """Memory in bytes of the serving process; the started one only watches it."""
        started = psutil.Process(self._process.pid)
        return max(process.memory_info().rss for process in (started, *started.children(recursive=True)))

    def post(self, path: str, body: bytes) -> requests.Response:
        answer = self.session.post(self.url + path, data=body, timeout=60)
        self.asked += 1
        if self.asked == SETTLED:
            self.settled = self.memory()
        return answer


@pytest.fixture
def server(tmp_path: Path, script: Script) -> Any:
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "PYTHONPATH": str(ROOT),
        "PORT": str(port),
        "MODEL_CLASS": FAKE_MODEL,
        "MODEL_DIR": str(tmp_path / "models"),
        "CACHE_DIR": str(tmp_path / "cache"),
        SCRIPT: str(script.file),
    }
    command = [sys.executable, "-m", "my_backend", "serve"]
    with Process(command, env=environment, folder=tmp_path, log=tmp_path / "log") as process:
        process.wait_until(lambda: answers(f"http://127.0.0.1:{port}/ready"), 60)
        yield Server(process, f"http://127.0.0.1:{port}")


@pytest.mark.fuzz
@pytest.mark.timeout(1200)
def test_ten_thousand_requests_leave_the_server_alive_and_its_memory_flat(server: Server, tmp_path: Path) -> None:
    server.post("/setup", json.dumps(BODIES["/setup"]).encode()).raise_for_status()
    server.post("/train", json.dumps(BODIES["/train"]).encode()).raise_for_status()
    answered: dict[str, set[int]] = {path: set() for path in BODIES}

    @settings(max_examples=REQUESTS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(sorted(BODIES)))
        body = draw_body(data, path)
        answer = server.post(path, body)
        answered[path].add(answer.status_code)
        assert answer.status_code < 500, (path, body, answer.text)
        assert answer.ok or set(answer.json()) == {"error", "request_id"}, (path, body, answer.text)

    ask()

    growth = server.memory() - server.settled
    print(f"{server.asked} requests; memory {server.settled:,} bytes, then {growth:,} more; answers: {answered}")
    assert server.asked >= REQUESTS
    assert server.session.get(f"{server.url}/health", timeout=10).json()["status"] == "UP"
    assert growth < GROWTH
    # Deleting a project during its training makes the job fail; nothing else here may do that.
    log = (tmp_path / "log").read_text("utf-8", errors="replace")
    assert set(re.findall(r"^(\w+Error): ", log, re.MULTILINE)) <= {"FileNotFoundError"}
