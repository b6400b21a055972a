"""Passwords and tokens reach no log and no answer."""

import json
import logging

import pytest

from my_backend.jobs.record import Job
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Serve, basic
from tests.my_backend.fake_model import Script
from tests.my_backend.web.requests_of_label_studio import START, TOLD
from tests.stored import texts


def test_nothing_secret_is_logged_or_answered(serve: Serve, caplog: pytest.LogCaptureFixture, script: Script) -> None:
    secrets = ["s3cret-key", "s3cret-pass", "s3cret-token"]
    caplog.set_level(logging.DEBUG)
    given = {"label_studio_api_key": secrets[0], "label_studio_url": "http://127.0.0.1:1"}
    with serve(basic_auth_user="user", basic_auth_pass=secrets[1], **given) as client:
        auth = {"headers": basic("user", secrets[1])}
        answers = [client.post("/setup", {**TOLD, "access_token": secrets[2]}, **auth)]
        answers.append(client.post("/webhook", START, 201, **auth))
        failed: Job = client.ended(answers[-1]["job"])
        answers += [client.get(path, **auth) for path in ("/health", "/is_training", "/openapi.json", "/metrics", "/")]
        answers.append(client.http.get("/", headers={**basic("user", secrets[1]), "Accept": "text/html"}).text)
        answers.append(client.post("/job_status", {"job": failed.id}, **auth))

    assert failed.status == "failed"
    assert [secret for secret in secrets if secret in caplog.text + str(answers)] == []


@pytest.mark.parametrize("token", ["s3cret-0123\ns3cret-4567", "s3cret-0123\r\n", "s3cret-0123\u2019", " s3cret-0123"])
def test_token_that_no_header_carries_is_told_nowhere(
    serve: Serve, caplog: pytest.LogCaptureFixture, label_studio: FakeLabelStudio, token: str
) -> None:
    with serve() as client:
        client.setup()
        folder = client.backend.projects.folder(PROJECT)
        # As an older release stored it.
        record = json.dumps({"hostname": label_studio.url, "access_token": token})
        (folder / "credentials.json").write_text(record, encoding="utf-8")
        client.post("/api/problems/check", status=202)
        failed = client.ended(client.post("/webhook", START, 201)["job"])
        monitor = client.backend.monitor
        assert eventually(lambda: any("isn't allowed in an HTTP header" in str(one) for one in monitor.problems()))
        answers = [client.get(path) for path in ("/health", "/problems", "/is_training")]
        answers += [
            client.http.get("/", headers={"Accept": "text/html"}).text,
            client.post("/job_status", {"job": failed.id}),
        ]

    kept = {path.name: text for path, text in texts(folder).items()}
    del kept["credentials.json"]
    assert "isn't allowed in an HTTP header" in failed.error
    assert [text for text in (caplog.text, str(answers), str(kept)) if "s3cret-0123" in text] == []
