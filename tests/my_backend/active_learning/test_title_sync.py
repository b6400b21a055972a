"""The model's title in Label Studio becomes the live version's name, and later the user's again."""

from typing import Any

import pytest

from my_backend.active_learning.title import TITLE_FILE
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.snapshot import Snapshot
from safe_http.session import SafeSession
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve


@pytest.fixture
def connected(label_studio: FakeLabelStudio) -> dict[str, Any]:
    """The settings; in Label Studio the model's title is “Mine”, and there is a task."""
    label_studio.backends = [{"id": 1, "url": "http://127.0.0.1:9090", "project": 7, "title": "Mine", "state": "CO"}]
    label_studio.project |= {"model_version": "Mine", "show_collab_predictions": True}
    label_studio.predicted.add()
    return {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.pat, "title_is_version": True}


def title(label_studio: FakeLabelStudio) -> str:
    return str(label_studio.backends[0]["title"])


def train(client: Client, label_studio: FakeLabelStudio) -> str:
    """Trains, and tells the fake Label Studio the new version."""
    version = client.train()
    label_studio.backends[0]["model_version"] = version
    return version


def predict(client: Client, label_studio: FakeLabelStudio) -> None:
    """Label Studio requests a prediction and stores it."""
    [result] = client.predict({"image": "1.png"})["results"]
    label_studio.predicted.all[0]["predictions"].append({"id": 1, **result})


def test_title_follows_the_versions_and_comes_back_after_a_restart(
    serve: Serve, label_studio: FakeLabelStudio, connected: dict[str, Any]
) -> None:
    with serve(**connected) as client:
        client.setup()
        first = train(client, label_studio)
        assert title(label_studio) == "Mine"
        predict(client, label_studio)
        assert eventually(lambda: title(label_studio) == first)
        second = train(client, label_studio)
        predict(client, label_studio)
        assert eventually(lambda: title(label_studio) == second)

        client.post("/api/models/activate", {"project": PROJECT, "version": first})
        label_studio.backends[0]["model_version"] = first
        assert eventually(lambda: title(label_studio) == first)

    with serve(**{**connected, "title_is_version": False}):
        assert eventually(lambda: title(label_studio) == "Mine")


def test_title_that_label_studio_loses_is_changed_again(
    serve: Serve, label_studio: FakeLabelStudio, connected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, changed = label_studio._patch, []

    def lose_the_first(path: str, body: Any) -> None:
        """While Label Studio asked the backend for its version, it still had the title from before in memory."""
        change(path, body)
        if not changed:
            label_studio.backends[0]["title"] = "Mine"
        changed.append(path)

    monkeypatch.setattr(label_studio, "_patch", lose_the_first)
    with serve(**connected) as client:
        client.setup()
        version = train(client, label_studio)
        predict(client, label_studio)
        assert eventually(lambda: len(changed) > 1)
        assert title(label_studio) == version


def test_title_is_given_back_once_label_studio_answers_again(
    serve: Serve, label_studio: FakeLabelStudio, connected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(**connected) as client:
        client.setup()
        version = train(client, label_studio)
        predict(client, label_studio)
        assert eventually(lambda: title(label_studio) == version)

    label_studio.forbids = {"/api/ml/1"}
    with serve(**{**connected, "title_is_version": False}) as client:
        assert eventually(lambda: problems(client))
        assert "403 to PATCH /api/ml/1" in problems(client)[0]["what"]
        label_studio.forbids = set()
        assert eventually(lambda: title(label_studio) == "Mine")
        assert eventually(lambda: not problems(client))


def test_project_that_uses_another_models_predictions_is_named(
    serve: Serve, label_studio: FakeLabelStudio, connected: dict[str, Any]
) -> None:
    label_studio.project["model_version"] = "Other"
    with serve(**connected) as client:
        client.setup()
        train(client, label_studio)
        predict(client, label_studio)
        assert eventually(lambda: problems(client, "scores-elsewhere"))
        assert "the predictions from “Other”" in problems(client, "scores-elsewhere")[0]["what"]
        assert label_studio.patched == []


def test_nothing_is_asked_without_the_setting_or_a_title_to_restore(client: Client) -> None:
    unreachable = Snapshot(LabelStudio("http://127.0.0.1:1", "", SafeSession(["127.0.0.1"])), 7)
    client.backend.title_sync.visit(client.backend.projects.get(PROJECT), unreachable)
    assert problems(client) == []


def test_title_comes_back_once_since_another_server_may_still_keep_it(
    serve: Serve, label_studio: FakeLabelStudio, connected: dict[str, Any]
) -> None:
    with serve(**connected) as client:
        client.setup()
        version = train(client, label_studio)
        predict(client, label_studio)
        assert eventually(lambda: title(label_studio) == version)
        kept = (client.backend.projects.folder(PROJECT) / TITLE_FILE).read_bytes()

    with serve(**{**connected, "title_is_version": False}) as client:
        assert eventually(lambda: title(label_studio) == "Mine")
        assert eventually(
            lambda: (one := client.backend.title_sync._watched.get(PROJECT)) is not None and one.in_order
        )  # the follower is done with it
        label_studio.backends[0]["title"] = version
        (client.backend.projects.folder(PROJECT) / TITLE_FILE).write_bytes(kept)
        here = client.backend.connections.label_studio()
        assert here
        client.backend.title_sync.visit(client.backend.projects.get(PROJECT), Snapshot(here, 7))
        assert title(label_studio) == version


def problems(client: Client, code: str = "title") -> list[Any]:
    return [one for one in client.get("/problems")["troubles"] if one["code"] == code]
