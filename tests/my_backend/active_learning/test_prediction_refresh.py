"""When stored predictions are refreshed, and when not."""

import threading
import time
from itertools import count
from typing import Any

import pytest

from my_backend.active_learning import prediction_refresh
from my_backend.active_learning.stored_predictions import StoredPredictions
from my_backend.errors import LabelStudioError
from my_backend.projects.labeling_order import LabelingOrder, keep_order
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import Script


@pytest.fixture
def settings(label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name in ("QUIET_SECONDS", "RETRY_SECONDS", "LOOK_SECONDS", "ORDER_SECONDS"):
        monkeypatch.setattr(prediction_refresh, name, 0.05)
    given = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.pat}
    return {**given, "renew_predictions": True}


def train(client: Client, label_studio: FakeLabelStudio) -> str:
    """Trains, and tells the fake Label Studio the new version."""
    version = client.train()
    label_studio.backends[0]["model_version"] = version
    return version


def versions(label_studio: FakeLabelStudio) -> set[str]:
    """The versions of all stored predictions; "" if a task doesn't have exactly one."""
    found = [label_studio.predicted.versions(task["id"]) for task in label_studio.predicted.all]
    return {some[0][1] if len(some) == 1 else "" for some in found}


def test_each_live_version_is_stored_for_all_tasks_and_imported_ones(
    serve: Serve, label_studio: FakeLabelStudio, settings: dict[str, Any]
) -> None:
    for _ in range(30):
        label_studio.predicted.add()
    with serve(**settings) as client:
        client.setup()
        first = train(client, label_studio)
        assert eventually(lambda: versions(label_studio) == {first})
        second = train(client, label_studio)
        assert eventually(lambda: versions(label_studio) == {second})
        client.post("/api/models/activate", {"project": PROJECT, "version": first})
        label_studio.backends[0]["model_version"] = first
        assert eventually(lambda: versions(label_studio) == {first})

        label_studio.predicted.add()
        event = {"action": "TASKS_CREATED", "tasks": [], "project": {"id": 7, "created_at": "2026-11-20T13:35:51Z"}}
        client.post("/webhook", event)
        assert eventually(lambda: versions(label_studio) == {first})


def test_swap_cancels_what_was_begun(
    serve: Serve, label_studio: FakeLabelStudio, settings: dict[str, Any], script: Script
) -> None:
    for _ in range(30):
        label_studio.predicted.add()
    with serve(**settings) as client:
        client.setup()
        script.block("prepare")
        first = train(client, label_studio)
        assert eventually(lambda: script.calls("prepare"))
        second = train(client, label_studio)
        script.release()
        assert eventually(lambda: versions(label_studio) == {second})
        assert len(label_studio.predicted.stored) == 30, f"nothing was stored of {first}"


def scores_of_four_tasks(client: Client) -> list[float]:
    """The scores of those that have a prediction."""
    tasks = [{"id": number, "data": {"image": "a.png"}} for number in (1, 2, 3, 4)]
    return [one["score"] for one in client.post("/predict", {"tasks": tasks, "project": PROJECT})["results"] if one]


def test_requests_get_the_rank_of_a_task_as_its_score(
    serve: Serve, label_studio: FakeLabelStudio, settings: dict[str, Any], script: Script
) -> None:
    for _ in range(3):
        label_studio.predicted.add()
    script.set(order=[2, 0, 1])
    with serve(**settings) as client:
        client.setup()
        scores: list[float] = []

        def request() -> None:
            """Requests predictions while the refresh is still storing the last one."""
            if len(label_studio.predicted.stored) == 2:
                scores.extend(scores_of_four_tasks(client))

        label_studio.predicted.before_change = request
        version = train(client, label_studio)
        assert eventually(lambda: versions(label_studio) == {version})
        assert scores == [0.333333, 0.666667, 0.0, 1.0]
    with serve(**settings) as client:  # also after a restart
        client.setup()
        assert eventually(lambda: scores_of_four_tasks(client)[:1] == [0.333333])
    script.set()
    with serve(**{**settings, "renew_predictions": False}) as client:
        client.setup()
        assert scores_of_four_tasks(client) == [0.75] * 4


def test_requests_get_ranks_in_the_order_that_another_server_has_kept(
    serve: Serve, label_studio: FakeLabelStudio, settings: dict[str, Any], script: Script
) -> None:
    """An event about imported tasks reaches only one of the servers."""
    for _ in range(3):
        label_studio.predicted.add()
    script.set(order=[2, 0, 1])
    with serve(**settings) as client:
        client.setup()
        version = train(client, label_studio)
        assert eventually(lambda: versions(label_studio) == {version})
        assert scores_of_four_tasks(client) == [0.333333, 0.666667, 0.0, 1.0]

        folder = client.backend.projects.folder(PROJECT)
        keep_order(folder, LabelingOrder(version, (4, 3, 1, 2)))
        assert eventually(lambda: scores_of_four_tasks(client) == [0.5, 0.75, 0.25, 0.0])

        keep_order(folder, None)  # as by a model without an order
        assert eventually(lambda: scores_of_four_tasks(client) == [0.75] * 4)


def test_order_that_the_disk_does_not_take_still_counts(
    serve: Serve, label_studio: FakeLabelStudio, settings: dict[str, Any], script: Script
) -> None:
    label_studio.predicted.add()
    label_studio.predicted.add()
    script.set(order=[1, 0])
    with serve(**settings) as client:
        client.setup()
        (client.backend.projects.folder(PROJECT) / "order.json").mkdir()
        version = train(client, label_studio)
        assert eventually(lambda: versions(label_studio) == {version})
        time.sleep(0.3)
        tasks = [{"id": number, "data": {"image": "a.png"}} for number in (1, 2)]
        found = client.post("/predict", {"tasks": tasks, "project": PROJECT})["results"]
        assert {one["score"] for one in found} == {0.0, 0.5}


def test_page_shows_tasks_whose_predictions_were_refreshed(
    serve: Serve, label_studio: FakeLabelStudio, settings: dict[str, Any], script: Script
) -> None:
    for _ in range(2):
        label_studio.predicted.add()
    script.set(results=[{"result": [{"value": {"choices": ["Dog"]}}], "score": 0.4}, []])
    with serve(**settings) as client:
        client.setup()
        version = train(client, label_studio)
        assert eventually(lambda: client.backend.recent.of(PROJECT))
        [shown] = client.backend.recent.of(PROJECT)
        assert (shown.task, shown.choices, shown.score, shown.version) == (1, ("Dog",), 0.4, version)


def test_label_studio_that_cannot_be_asked_is_asked_again(
    serve: Serve, label_studio: FakeLabelStudio, settings: dict[str, Any]
) -> None:
    for _ in range(5):
        label_studio.predicted.add()
    label_studio.forbids = {"/api/predictions/"}
    with serve(**settings) as client:
        client.setup()
        version = train(client, label_studio)
        assert eventually(lambda: problems(client))
        label_studio.forbids = set()
        assert eventually(lambda: versions(label_studio) == {version})
        assert eventually(lambda: not problems(client))


def test_pause_after_an_error_is_short_again_once_predictions_were_stored(
    serve: Serve, label_studio: FakeLabelStudio, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each error in the hours of a long refresh makes the next pause longer, up to ten minutes."""
    calls, real = count(1), StoredPredictions.add

    def add(stored: StoredPredictions, task: int, prediction: Any) -> None:
        if next(calls) % 30 in (27, 28, 29):
            raise LabelStudioError("Label Studio can't store it")
        real(stored, task, prediction)

    monkeypatch.setattr(StoredPredictions, "add", add)
    for _ in range(100):
        label_studio.predicted.add()
    with serve(**settings) as client:
        client.setup()
        version = train(client, label_studio)
        assert eventually(lambda: versions(label_studio) == {version})
        assert next(calls) > 100, "there were errors"
        assert eventually(lambda: client.backend.prediction_refresh._turns[PROJECT].pause == 0)


def test_nothing_runs_where_the_setting_is_off(client: Client) -> None:
    assert "prediction refresh" not in {thread.name for thread in threading.enumerate()}


def problems(client: Client) -> list[Any]:
    return [one for one in client.get("/problems")["troubles"] if one["code"] == "renewal"]
