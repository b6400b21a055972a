"""A backend with the fake model, and a client for it."""

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from my_backend.backend import Backend
from my_backend.jobs.record import Job
from my_backend.settings import Settings
from my_backend.web.app import create_app
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.fake_model import LABEL_CONFIG, SCRIPT, Script

PROJECT = "7.1795181751"  # 2026-11-20T13:35:51Z
FAKE_MODEL = "tests.my_backend.fake_model:FakeModel"

MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSettings:
    """Settings for the fake model that owe nothing to the environment."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    folders = {"model_dir": tmp_path / "models", "cache_dir": tmp_path / "cache"}
    return lambda **given: Settings(_env_file=None, **{**folders, "model_class": FAKE_MODEL, **given})


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """What the fake model does; ends its waiting when the test ends."""
    folder = tmp_path / "script"
    folder.mkdir()
    script = Script(folder)
    monkeypatch.setenv(SCRIPT, str(script.file))
    yield script
    script.release()


class Client:
    """Asks the app of a backend as Label Studio does, and waits for jobs."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.http: FlaskClient = create_app(backend).test_client()

    def get(self, path: str, status: int = 200, **options: Any) -> Any:
        return self._checked(self.http.get(path, **options), status)

    def post(self, path: str, body: Any = None, status: int = 200, **options: Any) -> Any:
        return self._checked(self.http.post(path, json=body, **options), status)

    def _checked(self, response: Any, status: int) -> Any:
        assert response.status_code == status, (response.status_code, response.text)
        if status >= 400:
            assert set(response.json) == {"error", "request_id"}
            assert response.json["request_id"] == response.headers["X-Request-ID"]
            assert "Traceback" not in response.text
        return response.json if response.is_json else response.text

    def routes(self) -> list[tuple[str, str]]:
        """Method and path of each endpoint, page and file, with values for the variables in paths."""
        return sorted(
            (method, rule.rule.replace("<job_id>", "x").replace("<path:filename>", "status.css"))
            for rule in self.http.application.url_map.iter_rules()
            for method in rule.methods or ()
        )

    def setup(self, project: str = PROJECT, config: str = LABEL_CONFIG) -> str:
        """Connects a project; returns the version that Label Studio is told."""
        return str(self.post("/setup", {"project": project, "schema": config})["model_version"])

    def predict(self, *data: dict[str, Any], project: str = PROJECT, **more: Any) -> Any:
        tasks = [{"id": number, "data": fields} for number, fields in enumerate(data or ({},), start=1)]
        return self.post("/predict", {"tasks": tasks, "project": project, **more})

    def submit_training(self, project: str = PROJECT, *made: dict[str, Any]) -> str:
        """Starts a training on one task with these annotations."""
        annotations = [{"id": 1, "data": {}, "annotations": list(made)}]
        return str(self.post("/train", {"project": project, "annotations": annotations}, 201)["job"])

    def ended(self, job: str) -> Job:
        """The job once it has ended."""
        store = self.backend.job_store
        assert eventually(lambda: not store.get(job).unfinished), store.get(job)
        return store.get(job)

    def train(self, project: str = PROJECT, *made: dict[str, Any]) -> str:
        """Trains on one task with these annotations, and waits until the new version answers; returns its name."""
        job = self.ended(self.submit_training(project, *made))
        assert job.status == "finished", job
        name = str(job.result["versions"][-1])
        assert eventually(lambda: self.backend.serving.live(project, in_time()).name == name)
        return name

    def started(self, job: str) -> Job:
        """The job once the fake model trains."""
        store = self.backend.job_store
        assert eventually(lambda: store.get(job).progress.get("phase") == "training"), store.get(job)
        return store.get(job)


Serve = Callable[..., AbstractContextManager[Client]]


@pytest.fixture
def serve(make_settings: MakeSettings, script: Script) -> Serve:
    """Makes a running backend with the fake model; the settings are its arguments."""

    @contextmanager
    def serve(**settings: Any) -> Iterator[Client]:
        with Backend(make_settings(**settings)).running() as backend:
            try:
                yield Client(backend)
            finally:
                if script.orders().get("block") != "fit":  # which the shutdown ends
                    script.release()

    return serve


@pytest.fixture
def client(serve: Serve) -> Iterator[Client]:
    """A running backend, to which the project is connected."""
    with serve() as client:
        client.setup()
        yield client


@pytest.fixture
def label_studio() -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio().running() as server:
        server.project["label_config"] = LABEL_CONFIG
        yield server


def basic(user: str, password: str) -> dict[str, str]:
    """The header of basic authentication."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def in_time(seconds: float = 60.0) -> float:
    """A deadline that is not reached."""
    return time.monotonic() + seconds
