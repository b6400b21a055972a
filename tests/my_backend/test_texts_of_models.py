"""Texts of a model class may quote an exception of a library, with a token: nobody sees it, and no file has it."""

import json
from typing import Any

import pytest

from my_backend.errors import LabelStudioError, MediaError, TrainingError
from my_backend.projects.versions import Versions
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, in_time
from tests.my_backend.fake_model import LABEL_CONFIG, Script

SECRET = "s3cret-0123"
QUOTED = f"can't fetch weights from https://user:{SECRET}@host/w?token={SECRET}"
PATHS = ("/health", "/problems", "/versions", f"/projects/{PROJECT}", "/", "/metrics")


def everything_said(client: Client, *answers: Any) -> str:
    """All answers, as JSON and as pages."""
    found = [str(answer) for answer in answers]
    for path in PATHS:
        found += [client.http.get(path, headers={"Accept": kind}).text for kind in ("text/html", "application/json")]
    return "\n".join(found)


def stored(client: Client) -> str:
    folder = client.backend.settings.model_dir
    return "\n".join(path.read_text("utf-8", "replace") for path in folder.rglob("*.json"))


@pytest.mark.parametrize("key", ["warning", "summary", "held_back"])
def test_what_fit_returns_shows_no_secret(client: Client, script: Script, key: str) -> None:
    script.set(output={key: QUOTED})

    job = client.ended(client.submit_training())
    [name] = job.result["versions"]
    status = client.post("/job_status", {"job": job.id})

    shown = everything_said(client, status, client.http.get(f"/projects/{PROJECT}/versions/{name}").text)
    assert "can't fetch weights" in stored(client)
    assert SECRET not in shown
    assert SECRET not in stored(client)


def test_version_of_an_older_release_shows_no_secret(client: Client, script: Script) -> None:
    script.set(output={"warning": "harmless", "summary": "harmless"})
    name = client.train()
    file = client.backend.projects.folder(PROJECT) / "versions" / name / "version.json"
    record = json.loads(file.read_text())
    record["train_output"] |= {"warning": QUOTED, "summary": QUOTED}
    record["held_back"] = QUOTED
    file.write_text(json.dumps(record))
    client.backend.serving._live.clear()  # as after a restart

    assert eventually(lambda: "can't fetch weights" in str(client.get("/health")))
    assert SECRET not in everything_said(client)
    assert SECRET not in str(Versions(client.backend.projects.folder(PROJECT)).get(name).record())


@pytest.mark.parametrize("how", ["fit_says", "fit_raises", "epochs"])
def test_failed_training_and_its_progress_show_no_secret(client: Client, script: Script, how: str) -> None:
    script.set(**{how: [{"detail": QUOTED}] if how == "epochs" else QUOTED})

    job = client.ended(client.submit_training())

    assert "can't fetch weights" in stored(client)
    assert SECRET not in everything_said(client, client.post("/job_status", {"job": job.id}))
    assert SECRET not in stored(client)


def test_reason_for_a_missing_prediction_shows_no_secret(client: Client, script: Script) -> None:
    client.train()
    script.set(failed={"0": QUOTED}, results=[[]])
    said: list[str] = []

    live = client.backend.serving.live(PROJECT, in_time())
    task = {"id": 1, "data": {}}
    live.predict([task], label_config=LABEL_CONFIG, deadline=in_time(), failed=lambda _, why, *more: said.append(why))

    assert [text.partition(" from")[0] for text in said] == ["can't fetch weights"]
    assert SECRET not in str(said)


@pytest.mark.parametrize("kind", [TrainingError, MediaError, LabelStudioError])
def test_error_that_a_user_can_fix_shows_no_secret(kind: type[Exception]) -> None:
    error = kind(QUOTED)

    assert SECRET not in str(error)
    assert SECRET not in getattr(error, "why", "")
