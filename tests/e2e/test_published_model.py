"""A model that was trained at the command line answers in Label Studio, and a version answers at the command line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.backend import Backend
from demo.digits import LABEL_CONFIG
from demo.label_studio import LabelStudio
from tests.e2e.test_working_loop import choice, live, wait_for_new_version

ROOT = Path(__file__).resolve().parents[2]


def test_model_of_the_command_line_is_served_and_a_version_is_evaluated(
    label_studio: LabelStudio,
    digits: list[tuple[Path, str]],
    serve: Callable[..., Backend],
    tmp_path: Path,
) -> None:
    for place, chosen in (("train", digits[:400]), ("test", digits[400:440])):
        for path, label in chosen:
            (tmp_path / place / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / place / label)

    backend = serve(IMAGE_SIZE="64", RETRAIN_AFTER_ANNOTATIONS="0")
    models = str(backend.folder / "models")

    def run(*arguments: object) -> str:
        command = [sys.executable, "-m", *map(str, arguments)]
        settings = {"IMAGE_SIZE": "64", "MODEL_DIR": models, "CACHE_DIR": str(backend.folder / "cache")}
        env = {**os.environ, **settings, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("image_classifier", "train", tmp_path / "train", "--output", tmp_path / "model", "--mode", "head")
    project = label_studio.create_project("digits", LABEL_CONFIG)
    tasks = label_studio.upload_images(project, [path for path, _ in digits[400:440]], [None] * 40)
    label_studio.connect(project, backend.url)
    assert live(backend, project) == "untrained"

    said = run("my_backend", "publish", tmp_path / "model", "--project", project)

    version = wait_for_new_version(backend, project, "untrained")
    assert said.startswith(f"{version} is live in project {project}.")
    label_studio.retrieve_predictions(project, tasks)
    stored = label_studio.predictions(project)
    assert {one["model_version"] for predictions in stored.values() for one in predictions} == {version}
    in_label_studio = [choice(stored[task][0]) for task in tasks]
    right = sum(said == label for said, (_, label) in zip(in_label_studio, digits[400:440], strict=True))
    print(f"{right} of 40 digits right")
    assert right >= 28

    folder = next((backend.folder / "models" / "projects").glob(f"*/versions/{version}"))
    figures = json.loads(run("image_classifier", "evaluate", folder, tmp_path / "test", "--json"))
    assert figures["accuracy"] == pytest.approx(right / 40)
    images = [path for path, _ in digits[400:440]]
    answers = json.loads(run("image_classifier", "predict", folder, *images, "--json"))
    assert [answer["prediction"] for answer in answers] == in_label_studio
