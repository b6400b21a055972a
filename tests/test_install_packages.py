"""`make setup` and the image install the locked packages: all of them, or without those that need a GPU."""

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

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
    spec = importlib.util.spec_from_file_location("install_packages", ROOT / "deploy" / "install_packages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.sys, "platform", "linux")
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
