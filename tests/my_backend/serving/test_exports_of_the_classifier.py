"""Versions of the real model class are exported to ONNX, or the page says beforehand what is missing."""

import base64
import html
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from testing.digits import LABEL_CONFIG
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve

Digits = list[tuple[Path, str]]

CLASSIFIER = "model:ImageClassifierAPI"
EXPORT = "/api/models/export"
PAGE = {"Accept": "text/html"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_SIZE", "64")
    monkeypatch.setenv("TRAIN_MODE", "head")


def task(number: int, path: Path, label: str) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    region = {"from_name": "digit", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    return {"id": number, "data": {"image": url}, "annotations": [{"id": number, "result": [region]}]}


def train(client: Client, digits: Digits) -> str:
    """Trains on digits; returns the version's name."""
    client.setup(config=LABEL_CONFIG)
    tasks = [task(number, *one) for number, one in enumerate(digits[:40], start=1)]
    job = client.ended(client.post("/train", {"project": PROJECT, "annotations": tasks}, 201)["job"])
    assert job.status == "finished", job.error
    return str(job.result["versions"][-1])


def version_page(client: Client, name: str) -> str:
    return html.unescape(client.http.get(f"/projects/{PROJECT}/versions/{name}", headers=PAGE).text)


def test_version_is_exported_unless_packages_are_missing(
    serve: Serve, digits: Digits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serve(model_class=CLASSIFIER) as client:
        name = train(client, digits)
        with monkeypatch.context() as without:
            without.setitem(sys.modules, "onnx", None)
            without.setitem(sys.modules, "onnxscript", None)
            why = client.post(EXPORT, {"version": name}, 400)["error"]
            assert "packages that aren't installed (onnx, onnxscript)" in why
            assert "-m pip install onnx onnxscript`" in why
            assert '--build-arg EXTRA_PACKAGES="onnx onnxscript"' in why
            shown = version_page(client, name)
            assert re.sub("`(.+?)`", r"<code>\1</code>", why) in shown
            assert 'id="export"' not in shown
        with monkeypatch.context() as without:
            without.setitem(sys.modules, "onnxscript", None)
            assert "-m pip install onnxscript`" in client.post(EXPORT, {"version": name}, 400)["error"]

        assert 'id="export"' in version_page(client, name)
        assert client.post(EXPORT, {"version": name})["state"] == "making"
        path = f"{EXPORT}?version={name}"
        assert eventually(lambda: client.get(path)["state"] != "making", 120), client.get(path)
        assert client.get(path)["state"] == "ready", client.get(path)

        monkeypatch.setitem(sys.modules, "onnx", None)
        shown = version_page(client, name)
        assert 'id="download-onnx"' in shown, "an export that exists needs no package"

        [script] = re.findall(rf"python ({name}-onnx/example\.py) photo\.jpg", shown)
        downloaded = client.http.get(f"/api/models/download?version={name}&to=onnx").data
        ZipFile(BytesIO(downloaded)).extractall(tmp_path)
        paths = [path for path, _ in digits[40:43]]
        command = [sys.executable, "-I", tmp_path / script, *paths]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        for path in paths:
            predicted = client.http.post("/api/models/predict", data={"image": path.open("rb")}).json
            assert predicted["model_version"] == name
            found = [line.split("\t")[1:] for line in lines if line.startswith(f"{path}\t")]
            best = list(predicted["scores"].items())[: len(found)]
            assert [label for label, _ in found] == [label for label, _ in best]
            assert [float(one) for _, one in found] == pytest.approx([one for _, one in best], abs=0.001)
