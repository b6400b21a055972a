"""Records a MODEL_DIR and a CACHE_DIR as this release writes it, for tests/production/test_upgrade.py.

    python -m tests.data.record_model_dir

writes tests/data/model_dir_<release>.tar.xz: two projects of digits, with versions, a pinned one, corrections, jobs and
an annotation that no model has learned yet, and `expected.json`: the predictions of the live model. Keep the recordings
of earlier releases; a release that still reads them can be installed over any of these.
"""

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from image_classifier.nets.classifier import load_backbone
from testing.digits import LABEL_CONFIG, write_digits
from testing.fake_label_studio.server import FakeLabelStudio
from testing.process import Process, answers, free_port
from testing.production import Server
from testing.waiting import eventually

FOLDER = Path(__file__).parent
PROJECT, OTHER = "7.1795181751", "8.1795181751"
NETWORK = "shufflenet_v2_x0_5"  # the smallest one that torchvision has
LABELED, PREDICTED = 60, 10
SECONDS = 90.0
SETTINGS = {"NETWORK": NETWORK, "IMAGE_SIZE": "64", "TRAIN_MODE": "head", "RETRAIN_AFTER_ANNOTATIONS": "1000"}


def write_weights(file: Path) -> None:
    """Weights of two values a tensor: they embed as well as other random ones, and compress 30 times better."""
    state = load_backbone("none", 64, NETWORK).module.state_dict()
    for name, tensor in state.items():
        if tensor.dim() > 1:
            state[name] = torch.where(tensor > 0, 1.0, -1.0) * tensor.std()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)


def data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def annotated(number: int, path: Path, label: str) -> dict[str, Any]:
    """A task with the annotation of a person."""
    region = {"type": "choices", "from_name": "digit", "to_name": "image", "value": {"choices": [label]}}
    return {"id": number, "data": {"image": data_uri(path)}, "annotations": [{"id": number, "result": [region]}]}


def predictions(server: Server, images: list[Path]) -> list[Any]:
    """One image a request: images that are computed together may differ in the last bits."""
    tasks = [{"id": number, "data": {"image": data_uri(path)}} for number, path in enumerate(images, start=1000)]
    return [server.post("/predict", {"project": PROJECT, "tasks": [task]})["results"][0] for task in tasks]


def finish(server: Server, job: str) -> str:
    """The name of the newest version once the job has ended well."""

    def ended() -> bool:
        return str(server.post("/job_status", {"job": job})["job_status"]) not in ("queued", "started")

    eventually(ended, SECONDS)
    state = server.post("/job_status", {"job": job})
    assert state["job_status"] == "finished", state
    newest = str(state["result"]["versions"][-1])
    eventually(lambda: server.get(f"/is_training?project={PROJECT}")["model_version"] == newest, SECONDS)
    return newest


def fill(
    server: Server, model_dir: Path, label_studio: FakeLabelStudio, digits: list[tuple[Path, str]]
) -> dict[str, Any]:
    """Uses the server as people would; returns what a later release has to answer."""
    for project in (OTHER, PROJECT):
        known = {"hostname": label_studio.url, "access_token": label_studio.pat}
        server.post("/setup", {"project": project, "schema": LABEL_CONFIG, **known})
    labeled, corrected, event = digits[:LABELED], digits[LABELED], digits[LABELED + 1]
    unseen = [path for path, _ in digits[LABELED + 2 :]]
    label_studio.project["label_config"] = LABEL_CONFIG
    label_studio.annotated = [annotated(number, *digit) for number, digit in enumerate(labeled, start=1)]
    first = finish(server, server.post("/api/models/train", {"project": PROJECT})["job"])
    pin = [sys.executable, "-m", "my_backend", "versions", "pin", first, "--project", "7"]
    subprocess.run(pin, check=True, env={**os.environ, "MODEL_DIR": str(model_dir)})
    form = {"label": corrected[1], "project": PROJECT}
    answer = server.request("POST", "/api/models/retrain", files={"image": corrected[0].read_bytes()}, data=form)
    live = finish(server, answer.json()["job"])
    task = annotated(LABELED + 2, *event)
    created = {
        "action": "ANNOTATION_CREATED",
        "project": {"id": 7, "created_at": "2026-11-20T13:35:51Z"},
        "task": {"id": task["id"], "data": task["data"]},
        "annotation": {**task["annotations"][0], "task": task["id"], "updated_at": "2026-11-20T14:00:00Z"},
    }
    server.post("/webhook", created)
    return {
        "project": PROJECT,
        "other": OTHER,
        "versions": [first, live],
        "images": [data_uri(path) for path in unseen],
        "results": predictions(server, unseen),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model_dir, weights = folder / "data", folder / "weights.safetensors"
        write_weights(weights)
        digits = write_digits(folder / "digits", LABELED + 2 + PREDICTED)
        port = free_port()
        own = {"MODEL_DIR": str(model_dir), "CACHE_DIR": str(folder / "cache"), "WEIGHTS": str(weights)}
        environment = {**os.environ, **SETTINGS, **own, "PORT": str(port), "PYTHONPATH": str(FOLDER.parents[1])}
        command = [sys.executable, "-m", "my_backend", "serve"]
        log = folder / "server.log"
        with (
            FakeLabelStudio().running() as label_studio,
            Process(command, env=environment, folder=folder, log=log) as process,
        ):
            url = f"http://127.0.0.1:{port}"
            process.wait_until(lambda: answers(f"{url}/ready"), SECONDS)
            expected = fill(Server(process, url), model_dir, label_studio, digits)
        output = FOLDER / f"model_dir_{version('image-classifier-backend')}.tar.xz"
        with tarfile.open(output, "w:xz", preset=9) as archive:
            archive.add(model_dir, "data")
            archive.add(folder / "cache", "cache")
            content = json.dumps(expected, indent=1).encode()
            entry = tarfile.TarInfo("expected.json")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        print(f"{output.name}: {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
