"""What a server asks Label Studio while nothing happens: each question about a project once per period."""

import json
import math
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from my_backend.backend import Backend
from my_backend.background import Background
from my_backend.jobs.learned import LEARNED_FILE
from my_backend.projects.versions import Versions
from testing.fake_label_studio.server import FakeLabelStudio
from testing.http_server import Reply, Seen
from tests.my_backend.conftest import MakeSettings, basic
from tests.my_backend.fake_model import LABEL_CONFIG, Script

PROJECTS = [f"{number}.1795181751" for number in range(11, 21)]
PERIODS = 6
PERIOD_SECONDS = 600.0
STEP_SECONDS = 5.0
HOST = "backend.example:9090"


@dataclass
class Clock:
    """How many seconds the clocks of this process are ahead."""

    ahead: float = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    def ahead(real: Callable[[], float]) -> Callable[[], float]:
        return lambda: real() + clock.ahead

    for name in ("monotonic", "time"):
        monkeypatch.setattr(time, name, ahead(getattr(time, name)))
    return clock


class ManyProjects(FakeLabelStudio):
    """Any project is like the fake's only one."""

    def _answer(self, seen: Seen) -> Reply:
        return super()._answer(replace(seen, path=re.sub(r"(projects/|project=)\d+", r"\g<1>7", seen.path)))


@pytest.fixture
def label_studio() -> Iterator[FakeLabelStudio]:
    with ManyProjects().running() as server:
        yield server


@pytest.fixture
def backend(make_settings: MakeSettings, label_studio: FakeLabelStudio, script: Script) -> Iterator[Backend]:
    """Projects that need nothing, on a server that has everything turned on; its threads don't run."""
    settings = make_settings(
        label_studio_url=label_studio.url,
        label_studio_api_key=label_studio.pat,
        basic_auth_user="user",
        basic_auth_pass="password",
        title_is_version=True,
        renew_predictions=True,
    )
    version = publish(settings.model_dir / "projects")
    model = {"id": 1, "url": f"http://{HOST}", "project": 7, "state": "CO", "basic_auth_user": "user"}
    label_studio.backends = [{**model, "title": version, "model_version": version}]
    label_studio.project |= {"model_version": version, "show_collab_predictions": True, "label_config": LABEL_CONFIG}
    label_studio.webhooks[0] |= {"url": f"http://{HOST}/webhook", "headers": basic("user", "password")}
    label_studio.predicted.add((version, 0.5))
    backend = Backend(settings)
    client = backend.connections.label_studio()
    assert client
    for uid in PROJECTS:
        backend.projects.remember(uid, label_config=LABEL_CONFIG)
        backend.webhook_password.called(uid, HOST)
        learned = {"watermark": client.watermark(7), "digest": ""}
        (backend.projects.folder(uid) / LEARNED_FILE).write_text(json.dumps(learned))
    yield backend
    backend.serving.stop()
    backend._media_pool.shutdown()


def publish(root: Path) -> str:
    """Gives each project the same version; returns its name."""
    first = root / PROJECTS[0]
    first.mkdir(parents=True)
    name = Versions(first).publish({}, first, cause="", choices=("Cat", "Dog")).name
    for uid in PROJECTS[1:]:
        shutil.copytree(first, root / uid)
    return name


def test_each_question_about_a_project_is_asked_once_per_period(
    backend: Backend, label_studio: FakeLabelStudio, clock: Clock
) -> None:
    services = [one for one in backend._services() if isinstance(one, Background)]
    due = dict.fromkeys(services, 0.0)

    def pass_time(until: float) -> None:
        while clock.ahead < until:
            for service in services:
                if due[service] <= clock.ahead:
                    pause = service._tick()
                    due[service] = math.inf if pause is None else clock.ahead + pause
            for thread in list(backend.follower._threads.values()):
                thread.join()
            clock.ahead += STEP_SECONDS

    pass_time(PERIOD_SECONDS / 2)
    label_studio.server.seen.clear()
    pass_time(PERIOD_SECONDS / 2 + PERIODS * PERIOD_SECONDS)

    assert backend.summary.problems() == []
    asked = Counter(
        (seen.method, re.sub(r"&.*", "", seen.path))
        for seen in label_studio.server.seen
        if seen.path != "/api/token/refresh/"
    )
    paths = ["/api/projects/{}/", "/api/ml/?project={}", "/api/webhooks/?project={}", "/api/tasks/?project={}"]
    numbers = [uid.partition(".")[0] for uid in PROJECTS]
    assert asked == {("GET", path.format(number)): PERIODS for path in paths for number in numbers}
    assert label_studio.server.paths().count("/api/token/refresh/") <= PERIODS
