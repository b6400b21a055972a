"""The examples of PUBLISHED_HOOK, with the real libraries and a local folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from my_backend.published_hook import caller
from my_backend.published_hook.caller import CALLS_FILE
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import Script

MlflowClient = pytest.importorskip("mlflow").MlflowClient
EventAccumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator

FIGURES = {"accuracy": 0.912, "accuracy_low": 0.88, "accuracy_high": 0.94, "images": 50}
EPOCHS = [{"loss": 0.5, "accuracy": 0.75}, {"loss": 0.25, "accuracy": 0.875}]


@pytest.fixture(autouse=True)
def quick(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "LOOK_SECONDS", 0.05)
    script.set(output={"figures": FIGURES, "labels": {"Cat": 3, "Dog": 4}}, epochs=EPOCHS)


def train(client: Client, script: Script) -> tuple[str, str]:
    """Publishes a version that goes live, and one that is held back."""
    client.setup()
    first = client.train()
    script.set(output={"figures": FIGURES, "held_back": "it is worse"})
    job = client.ended(client.submit_training())
    return first, job.result["versions"][-1]


def called(client: Client, live: str) -> None:
    """Waits until the function was called for both versions, and for this one as the live one."""
    file = client.backend.projects.root / CALLS_FILE

    def noted() -> bool:
        calls = json.loads(file.read_text()).get(PROJECT, {})
        return len(calls.get("versions", [])) == 2 and calls["live"] == live

    assert eventually(noted, 60)
    assert [one for one in client.get("/problems")["troubles"] if one["code"] == "published-hook"] == []


def test_mlflow_has_all_versions_and_its_alias_follows_the_live_one(
    serve: Serve, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", folder := (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database would need more packages
    mlflow, model = MlflowClient(folder), f"project-{PROJECT}"

    def registered() -> dict[str, Any]:
        return {one.tags["version"]: one for one in mlflow.search_model_versions(f"name='{model}'")}

    def live() -> str:
        return str(mlflow.get_model_version_by_alias(model, "live").tags["version"])

    with serve(published_hook="examples.mlflow_registry:register", page_url="https://models.example") as client:
        first, second = train(client, script)
        called(client, first)
        assert live() == first
        client.post("/api/models/activate", {"version": second})
        called(client, second)
        assert live() == second

    assert len(registered()) == 2, "an activation makes no version"
    one = registered()[first]
    assert one.description.startswith(f"# Image classifier {first}\n")
    assert one.tags["page"] == f"https://models.example/projects/{PROJECT}/versions/{first}"
    assert registered()[second].tags["held_back"] == "it is worse"
    run = mlflow.get_run(one.run_id)
    assert run.data.metrics["accuracy"] == FIGURES["accuracy"]
    assert [point.value for point in mlflow.get_metric_history(one.run_id, "loss")][-2:] == [0.5, 0.25]
    files = {Path(file.path).name for file in mlflow.list_artifacts(one.run_id, "model")}
    assert {"README.md", "version.json"} <= files


def test_tensorboard_reads_the_curves_of_each_version(
    serve: Serve, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path / "runs"))
    with serve(published_hook="examples.tensorboard_curves:write") as client:
        first, second = train(client, script)
        folders = [tmp_path / "runs" / PROJECT / version for version in (first, second)]
        called(client, first)
        client.post("/api/models/activate", {"version": second})
        called(client, second)

    curves = EventAccumulator(str(folders[0])).Reload()
    values = {name: [one.value for one in curves.Scalars(name)] for name in curves.Tags()["scalars"]}
    assert values["version/accuracy"] == pytest.approx([FIGURES["accuracy"]])
    [phase] = [name.removesuffix("/loss") for name in values if name.endswith("/loss")]
    assert values[f"{phase}/loss"][-2:] == [0.5, 0.25]
    assert values[f"{phase}/accuracy"][-2:] == [0.75, 0.875]
    assert [len(list(folder.iterdir())) for folder in folders] == [1, 1], "an activation writes no second curve"
