"""A model trained on the command line predicts in Label Studio, and a version predicts on the command line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from typer.testing import CliRunner

from my_backend.commands.cli import app
from testing.backend import Backend
from testing.digits import LABEL_CONFIG
from testing.label_studio import LabelStudio
from tests.e2e.projects import choice, live, wait_for_new_version
from tests.image_classifier.cli.command import command


def test_model_of_the_command_line_is_served_and_a_version_is_evaluated(
    label_studio: LabelStudio,
    digits: list[tuple[Path, str]],
    serve: Callable[..., Backend],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for place, chosen in (("train", digits[:400]), ("test", digits[400:440])):
        for path, label in chosen:
            (tmp_path / place / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / place / label)

    backend = serve(IMAGE_SIZE="64", RETRAIN_AFTER_ANNOTATIONS="0")
    # In this process: each one of their own would import torch.
    monkeypatch.setenv("IMAGE_SIZE", "64")
    monkeypatch.setenv("MODEL_DIR", str(backend.folder / "models"))
    monkeypatch.setenv("CACHE_DIR", str(backend.folder / "cache"))
    command_line = command(capsys)

    def run(*arguments: object) -> str:
        done = command_line(*arguments)
        assert done.status == 0, done.err
        return done.out

    run("train", tmp_path / "train", "--output", tmp_path / "model", "--mode", "head")
    project = label_studio.create_project("digits", LABEL_CONFIG)
    tasks = label_studio.upload_images(project, [path for path, _ in digits[400:440]], [None] * 40)
    label_studio.connect(project, backend.url)
    assert live(backend, project) == "untrained"

    published = CliRunner().invoke(app, ["publish", str(tmp_path / "model"), "--project", str(project)])

    version = wait_for_new_version(backend, project, "untrained")
    assert published.stdout.startswith(f"{version} is live in project {project}.")
    label_studio.retrieve_predictions(project, tasks)
    stored = label_studio.predictions(project)
    assert {one["model_version"] for predictions in stored.values() for one in predictions} == {version}
    in_label_studio = [choice(stored[task][0]) for task in tasks]
    right = sum(said == label for said, (_, label) in zip(in_label_studio, digits[400:440], strict=True))
    print(f"{right} of 40 digits right")
    assert right >= 28

    folder = next((backend.folder / "models" / "projects").glob(f"*/versions/{version}"))
    figures = json.loads(run("evaluate", folder, tmp_path / "test", "--json"))
    assert figures["accuracy"] == pytest.approx(right / 40, abs=0.03)  # near-duplicates among the digits share a vote
    images = [path for path, _ in digits[400:440]]
    answers = json.loads(run("predict", folder, *images, "--json"))
    assert [answer["prediction"] for answer in answers] == in_label_studio

    # The same by HTTP, and a correction as soon as there is something to learn beside it.
    wrong = next(
        n for n, (said, (_, label)) in enumerate(zip(in_label_studio, digits[400:440], strict=True)) if said != label
    )
    path, label = digits[400 + wrong]
    told = ask(backend, "predict", path)
    assert (told["prediction"], told["model_version"]) == (in_label_studio[wrong], version)
    assert told["confidence"] == max(told["scores"].values())
    for task, (_, truth) in zip(tasks[:39], digits[400:439], strict=True):
        if task != tasks[wrong]:
            label_studio.annotate(task, truth)
    assert ask(backend, "retrain", path, label=label)["job"]
    later = wait_for_new_version(backend, project, version)
    assert ask(backend, "predict", path)["prediction"] == label
    assert ask(backend, "predict", path)["model_version"] == later


def ask(backend: Backend, what: str, path: Path, **fields: str) -> dict[str, Any]:
    with requests.Session() as session:
        session.trust_env = False
        url = f"{backend.url}/api/models/{what}"
        with path.open("rb") as image:
            response = session.post(url, files={"image": image}, data=fields, timeout=60)
    response.raise_for_status()
    return dict(response.json())
