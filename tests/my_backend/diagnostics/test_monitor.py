from pathlib import Path

import pytest

from my_backend.diagnostics.monitor import Monitor
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects.registry import Credentials, Projects
from testing.fake_label_studio.server import FakeLabelStudio
from tests.my_backend.conftest import PROJECT, MakeSettings
from tests.my_backend.fake_model import LABEL_CONFIG


@pytest.mark.parametrize("who", ["this process", "another process"])
def test_project_that_is_deleted_while_label_studio_is_asked_stays_deleted(
    make_settings: MakeSettings,
    label_studio: FakeLabelStudio,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    who: str,
) -> None:
    projects = Projects(tmp_path / "projects")
    projects.remember(PROJECT, label_config=LABEL_CONFIG)
    another = Projects(projects.root)
    label_studio.before_project = lambda: (projects if who == "this process" else another).delete(PROJECT)
    settings = make_settings(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat)

    known = Connections(settings).label_studio()
    assert known
    Monitor(settings, projects).visit(projects.get(PROJECT), Snapshot(known, 7))

    assert "/api/projects/7/" in label_studio.server.paths()
    assert Projects(projects.root).all() == []
    assert not projects.folder(PROJECT).exists()
    assert "Traceback" not in caplog.text


def test_url_is_known_without_its_password(
    make_settings: MakeSettings, label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    projects = Projects(tmp_path / "projects")
    projects.remember(PROJECT, label_config=LABEL_CONFIG)
    settings = make_settings()
    address = label_studio.url.replace("//", "//user:password@")
    monitor, known = Monitor(settings, projects), Connections(settings).label_studio(Credentials(address, "token"))
    assert known
    monitor.visit(projects.get(PROJECT), Snapshot(known, 7))

    assert monitor.url == label_studio.url
