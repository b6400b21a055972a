"""Troubles that users can cause, made on purpose with a real Label Studio, and what the doctor says of each."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jwt
import pytest

from demo.backend import Backend
from demo.digits import LABEL_CONFIG
from demo.label_studio import LabelStudio
from demo.process import ServerError, free_port
from tests.e2e.test_working_loop import Digits, Serve, make_project

# What these tests do not make: the network starts from random weights in all of them.
ALWAYS = {"model"}


def consult(backend: Backend, *arguments: str, **settings: str) -> dict[str, Any]:
    """What the doctor finds with the backend's settings, and its exit status."""
    command = [sys.executable, "-m", "my_backend", "doctor", "--json", *arguments]
    environment = {**backend.environment, **settings}
    done = subprocess.run(command, env=environment, cwd=backend.folder, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return {**json.loads(done.stdout), "status": done.returncode}


def troubles(found: dict[str, Any]) -> dict[str, str]:
    """What is wrong, by its code."""
    told = [trouble for check in found["checks"] for trouble in check["troubles"]]
    return {
        one["code"]: " ".join([one["what"], *one["details"], one["remedy"]])
        for one in told
        if one["code"] not in ALWAYS
    }


def test_webhooks_that_are_gone_wrong_are_named_and_mended(
    label_studio: LabelStudio, digits: Digits, serve: Serve
) -> None:
    backend = serve(IMAGE_SIZE="64")
    project, _, _ = make_project(label_studio, digits, annotated=1, others=1)
    connection = label_studio.connect(project, backend.url)
    assert troubles(consult(backend)) == {}
    [hook] = label_studio.webhooks(project)
    path = f"/api/webhooks/{hook['id']}/"

    def mended(code: str) -> None:
        found = consult(backend)
        assert (found["status"], set(troubles(found))) == (1, {code})
        found = consult(backend, "--fix", "--yes")
        assert (found["failed"], len(found["mended"]), troubles(found)) == ([], 1, {})

    for wrong, code in (
        ({"is_active": False}, "webhook-missing"),
        ({"send_for_all_actions": False, "actions": ["TASKS_CREATED"]}, "webhook-missing"),
        ({"send_payload": False}, "webhook-payload"),
    ):
        label_studio.request("PATCH", path, json=wrong)
        mended(code)
    label_studio.request("DELETE", path)
    mended("webhook-missing")
    [again] = label_studio.webhooks(project)
    assert {name: again[name] for name in ("url", "send_payload", "send_for_all_actions", "is_active")} == {
        name: hook[name] for name in ("url", "send_payload", "send_for_all_actions", "is_active")
    }

    label_studio.request("DELETE", f"/api/ml/{connection}")
    found = consult(backend, "--fix", "--yes")
    assert found["mended"] == [f"delete the webhook {backend.url}/webhook"]
    assert set(troubles(found)) == {"not-connected"}
    assert label_studio.webhooks(project) == []


def test_webhook_without_the_password_gets_it(label_studio: LabelStudio, digits: Digits, serve: Serve) -> None:
    backend = serve(BASIC_AUTH_USER="me", BASIC_AUTH_PASS="secret", LABEL_STUDIO_API_KEY="")
    project, _, _ = make_project(label_studio, digits, annotated=0, others=1)
    label_studio.connect(project, backend.url, basic_auth=("me", "secret"))
    token = {"LABEL_STUDIO_API_KEY": label_studio.personal_access_token}

    assert set(troubles(consult(backend, **token))) == {"webhook-credentials"}
    assert troubles(consult(backend, "--fix", "--yes", **token)) == {}
    assert label_studio.webhooks(project)[0]["headers"]["Authorization"].startswith("Basic ")


def test_settings_that_do_not_fit_are_named(label_studio: LabelStudio, digits: Digits, serve: Serve) -> None:
    backend = serve(IMAGE_SIZE="64")
    project, _, _ = make_project(label_studio, digits, annotated=0, others=1)
    label_studio.connect(project, backend.url)
    refresh = {"refresh": label_studio.personal_access_token}
    access = label_studio.request("POST", "/api/token/refresh/", json=refresh).json()["access"]
    other = jwt.encode({"token_type": "refresh", "exp": 4e9}, "a key of another Label Studio, long enough")
    cases: list[tuple[dict[str, str], str, str]] = [
        ({"LABEL_STUDIO_API_KEY": label_studio.legacy_token}, "token", "legacy tokens are disabled"),
        ({"LABEL_STUDIO_API_KEY": other}, "token", "does not accept the token"),
        ({"LABEL_STUDIO_API_KEY": access}, "token-short", "lives for minutes only"),
        ({"LABEL_STUDIO_API_KEY": "", "LABEL_STUDIO_URL": ""}, "no-token", "personal access token"),
        ({"LABEL_STUDIO_URL": f"http://127.0.0.1:{free_port()}"}, "label-studio", "as seen from here"),
        ({"LABEL_STUDIO_URL": f"{label_studio.url}/label-studio"}, "label-studio", "with the sub-path"),
        ({"REDIS_URL": f"redis://127.0.0.1:{free_port()}"}, "redis", "at REDIS_URL"),
        ({"EPOCHS": "25", "PORT": "http"}, "settings", "PORT: Input should be a valid integer"),
        ({"MODEL_CLASS": "no_such:Model", "PORT": str(free_port())}, "model", "cannot be loaded"),
    ]
    for settings, code, said in cases:
        found = consult(backend, **settings)
        told = [one for check in found["checks"] for one in check["troubles"] if one["code"] == code]
        assert said in str(told), (settings, found)
        assert found["status"] == 1


def test_projects_that_cannot_work_are_named(label_studio: LabelStudio, digits: Digits, serve: Serve) -> None:
    backend = serve(IMAGE_SIZE="64")
    project, _, _ = make_project(label_studio, digits, annotated=0, others=1)
    label_studio.connect(project, backend.url)
    label_studio.import_tasks(
        project,
        [
            {"data": {"image": "/data/local-files/?d=pets/cat.png"}},
            {"data": {"image": "s3://no-such-bucket/cat.png"}},
            {"data": {"image": "http://10.1.2.3/cat.png"}},
        ],
    )
    images = [
        one["what"] for check in consult(backend)["checks"] for one in check["troubles"] if one["code"] == "image"
    ]
    assert len(images) == 3, images
    assert "no Local Files storage of the project covers it" in str(images)
    assert "s3://" in str(images)
    assert "IMAGE_HOSTS=10.1.2.3" in str(images)

    label_studio.update_project(project, min_annotations_to_start_training=1)
    assert "trains-on-submission" in troubles(consult(backend))
    label_studio.update_project(project, label_config='<View><Image name="image" value="$image"/></View>')
    assert "no <Choices>" in troubles(consult(backend))["labeling-config"]
    label_studio.update_project(project, label_config=LABEL_CONFIG)
    assert "labeling-config" not in troubles(consult(backend))

    backend.__exit__(None, None, None)
    found = troubles(consult(backend))
    assert {"server", "disconnected"} <= set(found)
    assert "host.docker.internal" in found["disconnected"]


@pytest.mark.slow  # starts a Label Studio of its own
def test_address_blocking_is_told_from_other_reasons(tmp_path: Path, digits: Digits, serve: Serve) -> None:
    with LabelStudio(tmp_path / "blocking", blocks_webhooks=True) as label_studio:
        backend = serve(label_studio, IMAGE_SIZE="64")
        project, _, _ = make_project(label_studio, digits, annotated=0, others=1)
        with pytest.raises(ServerError, match="403"):
            label_studio.connect(project, backend.url)

        # Which of the two hangs on whether Label Studio has looked at the half-made connection again.
        ((code, said),) = troubles(consult(backend)).items()
        assert code in ("address-blocked", "webhook-missing")
        assert "SSRF_PROTECTION_ENABLED=false" in said
