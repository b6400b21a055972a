"""The competitors, in separate processes: the baseline under the stock server, and LitServe."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from testing.digits import LABEL_CONFIG
from testing.process import Process, answers, direct_session, free_port

HERE = Path(__file__).parent
PROJECT = "1.1795181751"
ANSWER_SECONDS = 600

Json = dict[str, Any]


class Baseline:
    """`label-studio-ml start` with the baseline's model.py."""

    def __init__(self, url: str, report: Path) -> None:
        self.url, self._report = url, report
        self._session = direct_session()
        setup = {"project": PROJECT, "schema": LABEL_CONFIG, "hostname": "http://localhost", "access_token": "x"}
        self._post("/setup", setup)

    def _post(self, path: str, body: Json) -> Json:
        answer = self._session.post(self.url + path, json=body, timeout=ANSWER_SECONDS)
        answer.raise_for_status()
        return dict(answer.json())

    def train(self, tasks: Sequence[Json]) -> Json:
        """Trains; returns the seconds for `loading` and for each of the `epochs`."""
        self._post("/train", {"annotations": list(tasks), "project": PROJECT, "label_config": LABEL_CONFIG})
        return dict(json.loads(self._report.read_text()))

    def predict(self, tasks: Sequence[Json]) -> list[str]:
        """The choice for each task."""
        body = {"tasks": list(tasks), "project": PROJECT, "label_config": LABEL_CONFIG}
        results = self._post("/predict", body)["results"]
        return [result["result"][0]["value"]["choices"][0] for result in results]


@contextmanager
def baseline(folder: Path, epochs: int) -> Iterator[Baseline]:
    """Runs the baseline, created with `label-studio-ml init` as a user would."""
    folder.mkdir(parents=True)
    scripts = Path(sys.executable).parent
    # Its module is called `model`, as ours is: the folder that it is in must come first.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = inherited | {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "BASELINE_EPOCHS": str(epochs),
        "BASELINE_REPORT": str(folder / "report.json"),
        "LABEL_STUDIO_ML_BACKEND_V2": "",
        "PYTHONWARNINGS": "ignore",
    }
    command = scripts / "label-studio-ml"
    init = [command, "init", "copy", "--script", HERE / "baseline" / "model.py"]
    subprocess.run(init, cwd=folder, env=environment, check=True, capture_output=True)
    port = free_port()
    start = [str(command), "start", "copy", "--host", "127.0.0.1", "--port", str(port)]
    with Process(start, env=environment, folder=folder, log=folder / "server.log") as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_until(lambda: answers(f"{url}/health"), 120)
        yield Baseline(url, folder / "report.json")


@contextmanager
def litserve(folder: Path) -> Iterator[str]:
    """Runs LitServe; gives the URL to POST `{"url": …}` to."""
    folder.mkdir(parents=True)
    port = free_port()
    command = [sys.executable, str(HERE / "lit_server.py"), str(port)]
    with Process(command, env=dict(os.environ), folder=folder, log=folder / "server.log") as process:
        process.wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), 120)
        yield f"http://127.0.0.1:{port}/predict"


def ask_litserve(session: requests.Session, url: str, image: str) -> None:
    session.post(url, json={"url": image}, timeout=ANSWER_SECONDS).raise_for_status()


def resident_megabytes_of_a_bare_process() -> float:
    """Memory of a process that has loaded torch, torchvision and ResNet18 and predicted once."""
    code = (
        "import torch, torchvision, psutil\n"
        "module = torchvision.models.resnet18(weights=None).eval()\n"
        "with torch.inference_mode(): module(torch.rand(1, 3, 224, 224))\n"
        "print(psutil.Process().memory_info().rss / 1e6)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)
