"""Predictions as Label Studio asks for them: one result for each task, in order."""

import json
import threading
from typing import Any

import numpy as np
import pytest
import torch

from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import LABEL_CONFIG, FakeModel, Script
from tests.my_backend.web.requests_of_label_studio import choices


def test_before_the_first_version_each_task_gets_nothing(client: Client) -> None:
    assert client.predict({}, {}) == {"results": [[], []], "model_version": "untrained"}


def test_results_keep_length_and_order(client: Client) -> None:
    client.train()

    answer = client.predict({}, {"broken": True}, {})

    assert choices(answer["results"]) == ["Cat", "", "Cat"]
    assert client.predict()["results"][0]["score"] == 0.75
    assert client.post("/predict", {"tasks": [], "project": PROJECT})["results"] == []


def test_version_has_one_name_everywhere(client: Client) -> None:
    name = client.train()

    answer = client.predict()
    versions = client.post("/versions", {"project": PROJECT})
    folder = client.backend.projects.folder(PROJECT)
    names = {
        client.setup(),
        answer["model_version"],
        answer["results"][0]["model_version"],
        versions["live"],
        *versions["versions"],
        versions["details"][0]["version"],
        client.get("/versions")["live"],
        client.get("/is_training")["model_version"],
        (folder / "live").read_text().strip(),
        *(path.name for path in (folder / "versions").iterdir()),
    }
    assert names == {name}
    assert name in client.http.get(f"/projects/{PROJECT}", headers={"Accept": "text/html"}).text


def test_predict_waits_for_a_version_that_is_being_loaded(serve: Serve, script: Script) -> None:
    with serve() as client:
        client.setup()
        name = client.train()
    script.block("load")

    with serve() as client:
        assert client.setup() == name
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(client.predict()))
        thread.start()
        assert client.get("/health")["ready"] is False
        assert answers == []
        script.release()
        thread.join()

    assert (choices(answers[0]["results"]), answers[0]["model_version"]) == (["Cat"], name)


def test_predict_gives_up_waiting_in_time(serve: Serve, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as client:
        client.setup()
        client.train()
    script.block("load")
    monkeypatch.setattr("my_backend.web.endpoint.PREDICT_SECONDS", 0.05)

    with serve() as client:
        refused = client.post("/predict", {"tasks": [], "project": PROJECT}, 503)

    assert "still loading" in refused["error"]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf"), "0.5", None, []])
def test_score_that_is_no_finite_number_is_left_out(client: Client, script: Script, score: Any) -> None:
    client.train()
    region = {"value": {"choices": ["Cat"]}}
    script.set(results=[{"result": [{**region, "score": score}], "score": score}, {"result": [region], "score": 0}])

    text = client.http.post("/predict", json={"tasks": [{"data": {}}] * 2, "project": PROJECT}).text

    first, second = json.loads(text, parse_constant=pytest.fail)["results"]
    assert ("score" in first, second["score"]) == (False, 0)
    assert first["result"] == [region]


@pytest.mark.parametrize("score", [np.float32(0.5), np.array(0.5), torch.tensor(0.5)])
def test_score_of_numpy_or_torch_is_kept(client: Client, monkeypatch: pytest.MonkeyPatch, score: Any) -> None:
    client.train()
    result = {"result": [{"value": {"choices": ["Cat"]}, "score": score}], "score": score}
    monkeypatch.setattr(FakeModel, "predict", lambda *given, **more: [result])

    [predicted] = client.predict()["results"]

    assert (predicted["score"], predicted["result"][0]["score"]) == (0.5, 0.5)


@pytest.mark.parametrize("nothing", [[], {}, None, {"result": []}, {"result": None, "score": 0.5}])
def test_prediction_without_a_result_is_an_empty_list(client: Client, script: Script, nothing: Any) -> None:
    client.train()
    script.set(results=[nothing])

    assert client.predict()["results"] == [[]]


def test_model_that_drops_a_task_is_an_error_and_no_shift(client: Client, script: Script) -> None:
    client.train()
    script.set(results=[[]])

    client.post("/predict", {"tasks": [{"data": {}}] * 2, "project": PROJECT}, 500)


def test_error_of_the_model_is_in_the_log_and_not_in_the_answer(
    client: Client, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    client.train()
    script.set(predict_raises="the secret of the model")

    refused = client.post("/predict", {"tasks": [{"data": {}}], "project": PROJECT}, 500)

    assert "secret" not in refused["error"]
    assert "RuntimeError: the secret of the model" in caplog.text


def test_predict_of_a_project_that_is_new_connects_it(client: Client) -> None:
    answer = client.predict({}, project="8.1", label_config=LABEL_CONFIG)

    assert answer == {"results": [[]], "model_version": "untrained"}
    assert client.backend.projects.get("8.1").label_config == LABEL_CONFIG


def test_swap_of_versions_fails_no_request_and_mixes_none(client: Client, script: Script) -> None:
    learned = {client.train(): "Cat"}
    ended = threading.Event()
    seen: list[tuple[str, str]] = []
    faults: list[Any] = []

    def predict() -> None:
        http = client.http.application.test_client()
        while not ended.is_set():
            response = http.post("/predict", json={"tasks": [{"id": 1, "data": {}}] * 2, "project": PROJECT})
            if response.status_code != 200:
                faults.append(response.text)
                return
            for result in response.json["results"]:
                seen.append((result["model_version"], result["result"][0]["value"]["choices"][0]))

    threads = [threading.Thread(target=predict) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(6):
        script.set(learn=f"choice {number}")
        learned[client.train()] = f"choice {number}"
    ended.set()
    for thread in threads:
        thread.join()

    assert faults == []
    assert set(seen) <= set(learned.items())
    assert len(set(seen)) > 1
