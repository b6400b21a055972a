"""Every file-system call of every operation: the process is killed there, the call fails, or power is lost."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import requests
from urllib3.response import HTTPResponse

from my_backend.label_studio import safe_http
from my_backend.projects import versions as versions_module
from tests.my_backend.conftest import MakeSettings
from tests.my_backend.crashes.operations import OPERATIONS, Operation
from tests.my_backend.crashes.trials import KINDS, Result, Trials
from tests.my_backend.crashes.world import MODEL, World
from tests.my_backend.fake_model import LABEL_CONFIG
from tests.my_backend.fake_server import FakeLabelStudio, FakeServer, Seen

SOME = 1  # fault of each kind and operation, in `make test`


def answered_here(label_studio: FakeLabelStudio) -> Callable[..., requests.Response]:
    """Answers requests in the thread that sends them, so trials need no server and wait for nothing."""

    def send(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        body = request.body or b""
        given = body.encode() if isinstance(body, str) else bytes(body)
        seen = Seen(str(request.method), request.path_url, dict(request.headers), given)
        label_studio.server.seen.append(seen)
        reply = label_studio._answer(seen)
        response = requests.Response()
        response.status_code, response.request, response.url = reply.status, request, str(request.url)
        response.headers.update(reply.headers)
        response.raw = HTTPResponse(io.BytesIO(reply.body), reply.headers, reply.status, preload_content=False)
        return response

    return send


@pytest.fixture
def world(tmp_path: Path, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> World:
    """A project in a fake Label Studio; what reaches the disk is decided by the trials, not by this machine's disk."""
    label_studio = FakeLabelStudio()
    label_studio.url, label_studio.server = "http://127.0.0.1:1", cast(FakeServer, SimpleNamespace(seen=[]))
    label_studio.project["label_config"] = LABEL_CONFIG
    monkeypatch.setattr(safe_http._Session, "send", answered_here(label_studio))
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


def failures(result: Result) -> str:
    """Words for the faults that failed, those of one kind together."""
    kinds: dict[str, list[str]] = {}
    for fault, why in result.failed:
        kinds.setdefault(why, []).append(fault)
    return "\n".join(f"{len(faults)} × {why}\n  for example {faults[0]}" for why, faults in kinds.items())


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_some_faults_of_each_kind_lose_nothing(operation: Operation, world: World) -> None:
    result = Trials(operation, world).all(most=SOME)

    assert set(result.tried) == set(KINDS)
    assert not result.failed, failures(result)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_every_fault_loses_nothing(operation: Operation, world: World) -> None:
    result = Trials(operation, world).all()

    print(f"\n{result.row()}")
    assert not result.failed, failures(result)
