"""`make setup` and the image install the locked packages: all of them, or without those that need a GPU."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.scripts import load_script

ROOT = Path(__file__).parents[1]
LOCKS = [ROOT / "requirements.txt", ROOT / "requirements-dev.txt"]
INDEX = "https://builds.example/cpu"


class Pip:
    """Takes pip's place: keeps the packages and the options of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], list[str]]] = []
        self.code = 0

    def __call__(self, command: list[str], check: bool) -> Any:
        assert command[1:4] == ["-m", "pip", "install"]
        file = Path(command[command.index("--requirement") + 1])
        self.calls.append((file.read_text("utf-8").splitlines(), command[command.index(str(file)) + 1 :]))
        return subprocess.CompletedProcess(command, self.code)

    def names(self, call: int = 0) -> set[str]:
        return {line.partition("==")[0] for line in self.calls[call][0]}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_script("install_packages")
    monkeypatch.setattr(module.sys, "platform", "linux")
    monkeypatch.setattr(module, "is_installed", lambda package: False)
    monkeypatch.delenv("TORCH_INDEX_URL", raising=False)
    return module


@pytest.fixture
def pip(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Pip:
    pip = Pip()
    monkeypatch.setattr(script.subprocess, "run", pip)
    return pip


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_locked_package_is_installed_with_its_hashes(script: ModuleType, pip: Pip, lock: Path) -> None:
    script.main(lock, gpu=True)

    [(packages, options)] = pip.calls
    locked = [line.partition(" ")[0] for line in lock.read_text("utf-8").splitlines() if line[:1].isalnum()]
    assert len(locked) > 50
    assert [package.partition(" ")[0] for package in packages] == locked
    assert all("--hash=sha256:" in package for package in packages)
    assert options == ["--require-hashes"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_without_a_gpu_only_what_gpus_need_is_left_out(
    script: ModuleType, pip: Pip, lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(lock, gpu=True)
    script.main(lock, gpu=False)

    assert pip.names(0) - pip.names(1) == {
        "triton",
        "nvidia-cusolver",
        "nvidia-nvtx",
        "cuda-bindings",
        "cuda-pathfinder",
    }
    assert pip.calls[1][1] == ["--require-hashes"]
    assert "TORCH_INDEX_URL" in capsys.readouterr().out


def test_torch_of_another_index_comes_without_cuda_and_hashes(
    script: ModuleType, pip: Pip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_INDEX_URL", INDEX)

    script.main(LOCKS[0], gpu=True)

    (torch, options), (others, other_options) = pip.calls
    assert [line.partition("==")[0] for line in torch] == ["torch", "torchvision"]
    assert not any("--hash" in line for line in torch)
    assert options == ["--index-url", INDEX]
    assert other_options == ["--require-hashes"]
    assert not any(line.startswith(("torch==", "torchvision==", "nvidia-", "cuda-", "triton")) for line in others)
    assert {"flask", "numpy", "redis"} <= pip.names(1)


def test_failure_of_pip_ends_the_installation(script: ModuleType, pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_INDEX_URL", INDEX)
    pip.code = 3

    with pytest.raises(SystemExit) as ended:
        script.main(LOCKS[0], gpu=False)

    assert ended.value.code == 3
    assert len(pip.calls) == 1


def test_what_is_installed_in_the_locked_version_is_left_alone(
    script: ModuleType, pip: Pip, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "is_installed", lambda package: not package.startswith("flask=="))

    script.main(LOCKS[0], gpu=False)
    monkeypatch.setattr(script, "is_installed", lambda package: True)
    script.main(LOCKS[0], gpu=False)

    assert [len(packages) for packages, _ in pip.calls] == [1]
    assert pip.names() == {"flask"}
    assert capsys.readouterr().out == ""


def test_another_version_is_not_taken_for_the_locked_one() -> None:
    installed = load_script("install_packages").is_installed

    assert installed(f"pytest=={pytest.__version__} --hash=sha256:00")
    assert not installed("pytest==0.1 ; python_version >= '3.11' --hash=sha256:00")
    assert not installed("not-a-package==1.0")


def test_setup_completes_an_environment_whose_creation_was_interrupted(tmp_path: Path) -> None:
    """Ctrl-C, or Debian without python3-venv, leaves a Python without pip."""
    for name in ("requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).touch()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    venv.create(tmp_path / ".venv", with_pip=False)

    # What it installs doesn't matter here. `make VENV=… test` would pass its VENV on.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "setup", "VENV=.venv", f"PYTHON={sys.executable}", "INSTALL=true"]
    subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True)

    has_pip = subprocess.run([tmp_path / ".venv/bin/python", "-m", "pip", "--version"], capture_output=True)
    assert has_pip.returncode == 0, has_pip.stderr
