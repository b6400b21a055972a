"""The doctor's checks of the machine: folders, disks, and graphics cards (with a fake nvidia-smi)."""

import shutil
from pathlib import Path

import pytest

from my_backend.diagnostics.doctor import machine
from my_backend.diagnostics.doctor.check import Check
from tests.my_backend.conftest import MakeSettings

CUDA = {"device": "cuda", "cuda": "13.0"}
CPU = {"device": "cpu", "cuda": "13.0"}
H100 = "0, GPU-8f6d1c2e-1b0a, NVIDIA H100 80GB HBM3, 580.82.07, 81559, 81000"
FULL = H100.replace("81000", "300")
FREE = H100.replace("0, GPU-8f6d", "1, GPU-3c4e")
GB10 = "0, GPU-8f6d1c2e-1b0a, NVIDIA GB10, 580.95.05, [N/A], [N/A]"  # it uses the machine's memory


def codes(check: Check) -> list[str]:
    return [problem.code for problem in check.problems]


def test_folder_that_cannot_be_made_is_named(make_settings: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert codes(machine.check_own_folders(make_settings())) == []
    assert codes(machine.check_own_folders(make_settings(model_dir=tmp_path / "file" / "models"))) == ["folders"]


def test_disk_that_is_nearly_full_is_named(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings()
    assert machine.check_own_folders(settings).problems == ()
    usage = shutil.disk_usage(settings.model_dir)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**8))

    found = machine.check_disk(settings)

    assert codes(found) == ["disk-space"]


@pytest.mark.parametrize(
    ("mounted", "found"),
    [
        ("server:/home {tmp} nfs4 rw 0 0", ["cache-on-network"]),
        ("share {tmp}/with\\040space fuse.glusterfs rw 0 0", ["cache-on-network"]),
        ("server:/home {tmp} nfs4 rw 0 0\n/dev/sdb {tmp}/with\\040space ext4 rw 0 0", []),
        ("server:/home {tmp}/elsewhere nfs4 rw 0 0", []),
        ("/dev/sdb {tmp} xfs rw 0 0\ntmpfs {tmp} tmpfs rw 0 0", []),
    ],
)
def test_cache_on_a_network_is_named(
    make_settings: MakeSettings, tmp_path: Path, mounted: str, found: list[str]
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\n{mounted.format(tmp=tmp_path.resolve())}\n")
    settings = make_settings(cache_dir=tmp_path / "with space" / "cache")

    assert codes(machine.check_cache(settings, mounts)) == found


def test_disk_of_this_machine_is_known(make_settings: MakeSettings, tmp_path: Path) -> None:
    assert machine.check_cache(make_settings()).said == "on a local disk"
    assert machine.check_cache(make_settings(), tmp_path / "none").said == "on an unknown file system"


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the program `nvidia-smi` prints; its first line is its exit status."""
    folder = tmp_path / "bin"
    folder.mkdir()
    said = folder / "said"
    program = folder / machine.NVIDIA_SMI
    program.write_text(f'#!/bin/sh\ntail -n +2 "{said}"\nexit "$(head -n 1 "{said}")"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return said


@pytest.mark.parametrize(
    ("status", "printed", "computes", "said", "problem"),
    [
        (0, H100, CUDA, "NVIDIA H100 80GB HBM3 (86 GB, driver 580.82.07)", ""),
        (0, H100, {}, "driver 580.82.07); the model doesn't say whether it uses the GPU", ""),
        (6, "No devices were found", CPU, "none; computing on the CPU", ""),
        (0, H100, CPU, "", "NVIDIA H100 80GB HBM3 (86 GB, driver 580.82.07) is available but not used."),
        (0, FULL, CUDA, "", "Only 0.3 GB of memory is free"),
        (0, GB10, CUDA, "NVIDIA GB10 (driver 580.95.05)", ""),
        (0, GB10, CPU, "", "NVIDIA GB10 (driver 580.95.05) is available but not used."),
        (9, "couldn't communicate with the driver.", CPU, "", "responding: couldn't communicate with the driver."),
    ],
)
def test_card_is_read_from_the_driver(
    cards: Path, status: int, printed: str, computes: dict[str, str], said: str, problem: str
) -> None:
    cards.write_text(f"{status}\n{printed}\n")
    found = machine.check_gpu(computes)

    assert said in found.said
    assert codes(found) == (["gpu"] if problem else [])
    assert problem in "".join(map(str, found.problems))


@pytest.mark.parametrize(
    ("visible", "found"),
    [("0", ["gpu"]), ("1", []), ("1,0", []), ("GPU-3c4e", []), ("GPU-8f6d", ["gpu"]), ("7", ["gpu"])],
)
def test_card_that_cuda_uses_is_checked(
    cards: Path, monkeypatch: pytest.MonkeyPatch, visible: str, found: list[str]
) -> None:
    cards.write_text(f"0\n{FULL}\n{FREE}\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert codes(machine.check_gpu(CUDA)) == found


def test_card_that_is_not_to_be_used_is_no_problem(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards.write_text(f"0\n{H100}\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")

    assert codes(machine.check_gpu(CPU)) == []


def test_machine_without_a_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert machine.check_gpu(CPU).said == "none; computing on the CPU"
