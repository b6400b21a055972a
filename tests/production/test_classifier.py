"""The production mode with the model class that is really served."""

import base64
from pathlib import Path

import pytest

from my_backend.jobs.store import JobStore
from testing.digits import LABEL_CONFIG
from testing.production import Redis
from testing.waiting import eventually
from tests.production.conftest import ROOT, MakeProduction
from tests.production.site import DEADLINE, kill

PROJECT = "7.1795181751"
EPOCHS = 6  # with fewer, a training might end before a test on a busy machine has seen that it began
SETTINGS = {"IMAGE_SIZE": "64", "WEIGHTS": "none", "TRAIN_MODE": "full", "EPOCHS": str(EPOCHS)}


def test_killed_training_goes_on_from_its_checkpoint_and_is_served(
    digits: list[tuple[Path, str]], redis: Redis, production: MakeProduction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = production(redis, **SETTINGS)
    server, (worker,) = made.all([""])
    store = JobStore(made.model_dir / "projects")
    tasks = [
        {
            "id": number,
            "data": {"image": "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()},
            "annotations": [
                {
                    "id": number,
                    "result": [
                        {"type": "choices", "from_name": "digit", "to_name": "image", "value": {"choices": [label]}}
                    ],
                }
            ],
        }
        for number, (path, label) in enumerate(digits[:100])  # 25 are held out
    ]

    job = server.post("/train", {"project": PROJECT, "label_config": LABEL_CONFIG, "annotations": tasks})["job"]
    assert eventually(lambda: store.get(job).progress.get("phase") == "training all layers", DEADLINE), store.get(job)
    horse = worker.work_horse()
    assert horse is not None
    kill(horse.pid)

    assert eventually(lambda: not store.get(job).unfinished, DEADLINE), store.get(job)
    ended = store.get(job)
    assert (ended.status, ended.error, ended.attempts) == ("finished", "", 2)
    assert "resuming after epoch" in made.logs()
    version = ended.result["versions"][-1]
    assert eventually(lambda: server.get("/is_training")["model_version"] == version)
    answer = server.post("/predict", {"project": PROJECT, "tasks": tasks[:20]})
    assert {result["model_version"] for result in answer["results"]} == {version}
    assert all(result["result"] for result in answer["results"])
