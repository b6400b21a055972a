"""The world of the trials."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from my_backend.projects import versions as versions_module
from safe_http import session
from testing.fake_label_studio.server import FakeLabelStudio
from testing.http_server import FakeServer
from tests.my_backend.conftest import MakeSettings
from tests.my_backend.crashes.peers import answered_here
from tests.my_backend.crashes.world import MODEL, World
from tests.my_backend.fake_model import LABEL_CONFIG


@pytest.fixture
def world(tmp_path: Path, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> World:
    """A project in a fake Label Studio; what reaches the disk is decided by the trials, not by this machine's disk."""
    label_studio = FakeLabelStudio()
    label_studio.url, label_studio.server = "http://127.0.0.1:1", cast(FakeServer, SimpleNamespace(seen=[]))
    label_studio.project["label_config"] = LABEL_CONFIG
    monkeypatch.setattr(session._Session, "send", answered_here(label_studio))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(versions_module, "KEPT_VERSIONS", 3)
    settings = make_settings(
        model_dir=tmp_path / "disk" / "models",
        model_class=MODEL,
        label_studio_url=label_studio.url,
        label_studio_api_key=label_studio.pat,
        retrain_after_annotations=10,
    )
    return World(tmp_path / "disk", label_studio, settings)
