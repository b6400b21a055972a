"""The log of the production mode: one line an event, followed by its ids through all processes, without secrets."""

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from my_backend.jobs.store import JobStore
from testing.fake_label_studio.annotated_projects import TOKEN, AnnotatedProjects, described, uid
from testing.process import Process, answers, direct_session, free_port
from testing.production import Production, Redis
from testing.waiting import eventually
from tests.production.conftest import MakeProduction
from tests.production.memorizing_model import Script
from tests.production.site import PROJECT, Site, kill

PASSWORD = 'the "password" of/basic auth'
BASIC = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2lnbmF0dXJl"
# As they come in a URL, a header, a body and an exception.
SECRETS = {
    "query": "0123456789secret-of-the-query",
    "userinfo": "secret-of-the-userinfo",
    "setup": "fedcba9876543210fedcba9876543210fedcba98",
    "jwt": JWT,
    "token": TOKEN,
    "password": PASSWORD,
    "basic": BASIC,
}

Json = dict[str, Any]


@pytest.fixture
def site(redis: Redis, production: MakeProduction, label_studio: AnnotatedProjects, script: Script) -> Site:
    """With a password, in JSON, with all that is logged."""
    secured = production(redis, BASIC_AUTH_USER="me", BASIC_AUTH_PASS=PASSWORD, LOG_FORMAT="json", LOG_LEVEL="DEBUG")
    return Site(secured, redis, label_studio, script)


def events(production: Production) -> list[Json]:
    """All lines of all processes; fails on one that is no event."""
    texts = [path.read_text("utf-8").rpartition("\n")[0] for path in sorted(production.folder.glob("*.log"))]
    found = [json.loads(line) for text in texts for line in text.split("\n") if line]
    assert all(event.keys() >= {"time", "level", "logger", "message"} for event in found)
    return found


def of_request(production: Production, request_id: str) -> list[Json]:
    return [event for event in events(production) if event.get("request_id") == request_id]


def test_a_request_is_followed_from_the_click_to_the_published_version(site: Site) -> None:
    site.start()
    site.annotate(1, "Cat")
    site.wait_until_settled()
    server = site.server

    answer = server.request("POST", "/api/models/train", headers={"X-Request-ID": "click-7"})

    job = answer.json()["job"]
    version = site.wait_for(job, "finished").result["versions"][-1]
    assert eventually(lambda: server.get("/is_training")["model_version"] == version)
    assert answer.headers["X-Request-ID"] == "click-7"
    assert site.job(job).request_id == "click-7"
    assert site.versions.get(version).made_by == {"job": job, "request_id": "click-7"}
    assert server.post("/job_status", {"job": job})["request_id"] == "click-7"
    followed = [
        r"my_backend.web.middleware.request_log: POST /api/models/train: 201 in [\d.]+ ms",
        f"my_backend.jobs.run: job {job}: started",
        f"my_backend.jobs.training_job: project {uid(PROJECT)}: published {version}",
        f"my_backend.jobs.run: job {job}: finished",
        f"my_backend.serving.live_models: project {uid(PROJECT)}: {version} is live",
    ]

    def missing() -> list[str]:
        messages = [f"{event['logger']}: {event['message']}" for event in of_request(site.production, "click-7")]
        return [line for line in followed if not any(re.match(line, message) for message in messages)]

    assert eventually(lambda: not missing()), missing()
    assert {event["project"] for event in of_request(site.production, "click-7")} == {uid(PROJECT)}
    assert {event["job"] for event in of_request(site.production, "click-7")} == {job}
    [asked] = [event for event in of_request(site.production, "click-7") if "status" in event]
    assert (asked["method"], asked["path"], asked["status"]) == ("POST", "/api/models/train", 201)


def test_every_line_is_an_event_and_none_has_a_secret(site: Site, script: Script, redis: Redis) -> None:
    site.setup = {"hostname": site.label_studio.url, "access_token": SECRETS["setup"]}
    site.start()
    session = direct_session()

    def ask(method: str, path: str, **options: Any) -> requests.Response:
        options.setdefault("auth", ("me", PASSWORD.encode()))
        return session.request(method, site.server.url + path, timeout=20, **options)

    # In the URL, with and without the password, in a header, in a body that cannot be read, in an id.
    ask("GET", f"/a/{JWT}?token={SECRETS['query']}")
    ask("POST", f"/webhook?access_token={SECRETS['query']}", json={"action": "X", "project": {"id": TOKEN}})
    ask("GET", "/health", headers={"Authorization": f"Token {TOKEN}"}, auth=None)
    ask("GET", "/health", auth=("me", "wrong"))
    ask("POST", "/setup", data=json.dumps({"project": [TOKEN], "access_token": SECRETS["setup"]}))
    ask("POST", "/setup", data=f"{{{JWT}")
    ask("GET", "/nothing", headers={"X-Request-ID": TOKEN})
    # In an image's URL that cannot be fetched.
    url = f"http://me:{SECRETS['userinfo']}@127.0.0.1:1/{JWT}.png?sig={SECRETS['query']}"
    ask("POST", "/api/models/predict", json={"project": str(PROJECT), "url": url})
    # In an exception of a training, whose process also dies.
    said = [f"it failed with {SECRETS[name]}" for name in ("setup", "jwt", "token", "password", "basic")]
    script.order(raises=" and ".join([*said, url, f"Authorization: Basic {BASIC}", f"?token={SECRETS['query']}"]))
    site.annotate(1, "Cat")
    failed = site.start_training()
    site.wait_for(failed, "failed")
    script.order(dies_at_attempts=[1])
    site.wait_for(site.start_training(), "finished")
    # What uWSGI says of a process that dies, and RQ of a Redis that is away.
    kill(site.server.worker_process().pid)
    assert eventually(lambda: answers(f"{site.server.url}/ready"))
    for worker in site.workers.values():
        worker.stop()
    site.server.process.stop()

    found = events(site.production)
    written = site.production.logs()

    assert [name for name, secret in SECRETS.items() if secret in written or repr(secret)[1:-1] in written] == []
    assert json.dumps(PASSWORD)[1:-1] not in written
    tracebacks = [event for event in found if "it failed with" in event.get("traceback", "")]
    assert {event["job"] for event in tracebacks} >= {failed}
    assert {"uwsgi", "my_backend.web.middleware.request_log", "my_backend.jobs.run"} <= {
        event["logger"] for event in found
    }
    assert all("\n" not in event["message"] for event in found if event["logger"] == "uwsgi")


def test_error_answers_have_the_id_that_the_log_has(site: Site) -> None:
    session = direct_session()
    url = site.production.server().url

    refused = session.get(f"{url}/health", headers={"X-Request-ID": "mine.1_2-3"}, timeout=20)
    made_up = session.get(f"{url}/health", headers={"X-Request-ID": "no id\t{}"}, timeout=20)
    too_long = session.get(f"{url}/health", headers={"X-Request-ID": "a" * 65}, timeout=20)

    assert refused.json()["request_id"] == refused.headers["X-Request-ID"] == "mine.1_2-3"
    for answer in (made_up, too_long):
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["X-Request-ID"])
    assert eventually(lambda: of_request(site.production, "mine.1_2-3"))
    assert [event["status"] for event in of_request(site.production, "mine.1_2-3")] == [401]


SUPERVISED = """
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from my_backend.commands.production import run_supervisor
from my_backend.settings import read_settings
run_supervisor(read_settings(), Path(sys.argv[1]))
"""


def run_command(name: str, env: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "my_backend", name]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def short_temporary_folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield folder


@pytest.mark.slow
def test_supervisor_and_all_that_it_starts_write_events(
    tmp_path: Path, script: Script, short_temporary_folder: str
) -> None:
    # Characters that have a meaning for supervisor or in URLs, and a path that is too long for a socket.
    folder = tmp_path / f"Bürö 'n' #1 {'x' * 100}"
    port, logs = free_port(), folder / "logs"
    folder.mkdir()
    settings = {
        "PORT": str(port),
        "LOG_FORMAT": "json",
        "MODEL_DIR": str(folder / "m"),
        "TMPDIR": short_temporary_folder,
    }
    command = [sys.executable, "-c", SUPERVISED, str(logs)]
    env = {**os.environ, **settings}
    with Process(command, env=env, folder=tmp_path, log=tmp_path / "output") as supervisor:
        supervisor.wait_until(lambda: answers(f"http://127.0.0.1:{port}/ready"), 120)
        event = {"action": "START_TRAINING", "project": described(PROJECT)}
        job = direct_session().post(f"http://127.0.0.1:{port}/webhook", json=event, timeout=20).json()["job"]
        store = JobStore(folder / "m" / "projects")
        assert eventually(lambda: not store.get(job).unfinished)
        ready, stopped, gone = (run_command(name, env, tmp_path) for name in ("status", "stop", "status"))

    assert ready.returncode == 0
    assert f"`make production` is running (process {supervisor.pid})" in ready.stdout
    assert f"the server at http://127.0.0.1:{port} is ready" in ready.stdout
    assert (stopped.returncode, stopped.stdout) == (0, "Stopped\n")
    assert gone.returncode == 3
    assert f"`make production` is not running\nno server at http://127.0.0.1:{port}: no response" in gone.stdout
    found = [json.loads(line) for line in supervisor.log.read_text().splitlines()]
    assert {"supervisor", "uwsgi", "my_backend.jobs.run"} <= {event["logger"] for event in found}
    assert any(event.get("job") == job and "started" in event["message"] for event in found)
    for name in ("uwsgi.log", "rq.log", "rq-head.log"):
        lines = (logs / name).read_text().splitlines()
        assert all(json.loads(line).keys() >= {"time", "message"} for line in lines)
    assert any(json.loads(line).get("job") == job for line in (logs / "rq.log").read_text().splitlines())
