"""The commands of docs/operate/backup.md, run as they stand there: from one folder to another, with the classifier."""

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from my_backend.projects.corrections import corrections_folder
from testing.digits import LABEL_CONFIG
from testing.fake_label_studio.server import FakeLabelStudio
from testing.process import Process, answers, free_port
from testing.production import Server
from testing.waiting import eventually
from tests.production.conftest import ROOT
from tests.production.site import DEADLINE

PROJECT = "7.1795181751"
SETTINGS = "WEIGHTS=none\nIMAGE_SIZE=64\nTRAIN_MODE=head\n"


def commands(heading: str) -> str:
    """The shell commands of a section."""
    page = (ROOT / "docs" / "operate" / "backup.md").read_text("utf-8")
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    assert blocks
    return "".join(blocks)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A person's: the settings are those of `.env` where the backend is started."""
    for name in ("MODEL_DIR", "WEIGHTS"):
        monkeypatch.delenv(name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def label_studio() -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio().running() as server:
        yield server


@contextmanager
def running(folder: Path, environment: Mapping[str, str]) -> Iterator[Server]:
    """A server on this folder, with a cache of its own."""
    port = free_port()
    own = {"PORT": str(port), "CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-m", "my_backend", "serve"]
    with Process(command, env={**environment, **own}, folder=folder, log=folder / "server.log") as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_until(lambda: answers(f"{url}/ready"), DEADLINE)
        yield Server(process, url)


def data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def annotated(number: int, path: Path, label: str) -> dict[str, Any]:
    region = {"type": "choices", "from_name": "digit", "to_name": "image", "value": {"choices": [label]}}
    return {"id": number, "data": {"image": data_uri(path)}, "annotations": [{"id": number, "result": [region]}]}


def finished(server: Server, job: str) -> dict[str, Any]:
    def ended() -> bool:
        return str(server.post("/job_status", {"job": job})["job_status"]) not in ("queued", "started")

    assert eventually(ended, DEADLINE)
    state = dict(server.post("/job_status", {"job": job}))
    assert state["job_status"] == "finished", state
    return state


def predictions(server: Server, paths: list[Path]) -> list[Any]:
    """One image at a time: what is computed together may differ in the last bits."""
    tasks = [{"id": number, "data": {"image": data_uri(path)}} for number, path in enumerate(paths)]
    return [server.post("/predict", {"project": PROJECT, "tasks": [task]}) for task in tasks]


def same(some: list[Any], others: list[Any]) -> bool:
    """The same choices and versions; scores differ a little where another precision is used."""

    def of(answer: Any) -> Any:
        [result] = answer["results"]
        return result["result"][0]["value"], result["model_version"], pytest.approx(result["score"], abs=0.02)

    return [of(answer) for answer in some] == [of(answer) for answer in others]


def test_backup_restored_elsewhere_serves_the_same_version_and_predictions(
    digits: list[tuple[Path, str]], tmp_path: Path, environment: dict[str, str], label_studio: FakeLabelStudio
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
    settings = f"{SETTINGS}LABEL_STUDIO_URL={label_studio.url}\nLABEL_STUDIO_API_KEY={label_studio.pat}\n"
    (old / ".env").write_text(settings)
    label_studio.project["label_config"] = LABEL_CONFIG
    label_studio.annotated = [annotated(number, *digit) for number, digit in enumerate(digits[:60], start=1)]
    (corrected, label), unseen = digits[60], [path for path, _ in digits[61:71]]

    with running(old, environment) as server:
        server.post("/setup", {"project": PROJECT, "schema": LABEL_CONFIG})
        finished(server, server.post("/api/models/train", {})["job"])
        files = {"image": corrected.read_bytes()}
        answer = server.request("POST", "/api/models/retrain", files=files, data={"label": label})
        version = finished(server, answer.json()["job"])["result"]["versions"][-1]
        assert eventually(lambda: server.get("/is_training")["model_version"] == version)
        before = predictions(server, unseen)
        subprocess.run(["bash", "-ec", commands("Back up")], cwd=old, env=environment, check=True)

    (old / "monday.tar.gz").rename(new / "monday.tar.gz")  # to another host
    subprocess.run(["bash", "-ec", commands("Restore")], cwd=new, env=environment, check=True)

    assert (new / ".env").read_text() == settings
    with running(new, environment) as server:
        assert server.get("/is_training")["model_version"] == version
        assert same(predictions(server, unseen), before)
        assert {result["model_version"] for answer in before for result in answer["results"]} == {version}
        kept, restored = (corrections_folder(f / "data" / "projects" / PROJECT) for f in (old, new))
        assert len(list(kept.iterdir())) == 2
        assert {path.name: path.read_bytes() for path in restored.iterdir()} == {
            path.name: path.read_bytes() for path in kept.iterdir()
        }
        again = finished(server, server.post("/api/models/train", {})["job"])
        assert again["result"]["annotations"]["used"] == len(label_studio.annotated) + 1
        assert int(again["result"]["versions"][-1].partition("-")[0][1:]) > int(version.partition("-")[0][1:])
