"""model.py under the server that label-studio-ml 1.0.9 brings, as its `init` and `start` commands set it up."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from testing.digits import LABEL_CONFIG, write_digits
from testing.process import Process, answers, free_port

MODEL = Path(__file__).parents[2] / "model.py"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """`label-studio-ml` runs whatever `python` comes first on the PATH."""
    scripts = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "CACHE_DIR": str(tmp_path / "cache"),
        "WEIGHTS": "none",
        "IMAGE_SIZE": "64",
        "PYTHONWARNINGS": "default",  # the stock server's own code warns
    }


def task(number: int, path: Path, label: str) -> dict[str, object]:
    url = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    region = {"from_name": "digit", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    return {"id": number, "data": {"image": url}, "annotations": [{"id": number, "result": [region]}]}


def test_setup_train_and_predict_work_under_the_stock_server(tmp_path: Path, environment: dict[str, str]) -> None:
    command = ["label-studio-ml", "init", "my_copy", "--script", str(MODEL)]
    scripts = Path(sys.executable).parent
    subprocess.run([scripts / command[0], *command[1:]], cwd=tmp_path, env=environment, check=True, timeout=180)

    port = free_port()
    start = [str(scripts / "label-studio-ml"), "start", "my_copy", "--port", str(port), "--host", "127.0.0.1"]
    url = f"http://127.0.0.1:{port}"
    tasks = [task(i, path, label) for i, (path, label) in enumerate(write_digits(tmp_path / "digits", 60))]
    with Process(start, env=environment, folder=tmp_path, log=tmp_path / "server.log") as server:
        server.wait_until(lambda: answers(f"{url}/health"), 180)
        setup = {"project": "1.1795181751", "schema": LABEL_CONFIG, "hostname": "http://localhost", "access_token": "x"}
        assert requests.post(f"{url}/setup", json=setup, timeout=60).ok

        train = {"annotations": tasks, "project": "1.1795181751", "label_config": LABEL_CONFIG}
        trained = requests.post(f"{url}/train", json=train, timeout=240)
        assert trained.status_code == 201, trained.text

        body = {"tasks": tasks[:8], "project": "1.1795181751", "label_config": LABEL_CONFIG}
        answer = requests.post(f"{url}/predict", json=body, timeout=60).json()
        assert len(answer["results"]) == 8
        assert all(0 <= result["score"] <= 1 for result in answer["results"])
        choices = [result["result"][0]["value"]["choices"][0] for result in answer["results"]]
        truth = [label for _, label in write_digits(tmp_path / "digits", 8)]
        assert sum(choice == label for choice, label in zip(choices, truth, strict=True)) >= 7
