"""Checks of the machine that the backend runs on: folders, disk space, and GPU."""

import os
import subprocess
from pathlib import Path
from typing import Any

from my_backend.diagnostics.doctor.check import Check
from my_backend.diagnostics.rules.gpu import Gpu, gpu_problems, no_driver
from my_backend.diagnostics.rules.storage import cache_problems, disk_space_problems, unusable_folder
from my_backend.errors import BackendError
from my_backend.settings import Settings
from my_backend.storage import check_folders, read_disks
from safe_http.redaction import redact

Json = dict[str, Any]

MOUNTS = Path("/proc/self/mounts")
NVIDIA_SMI = "nvidia-smi"
NVIDIA_SECONDS = 20.0
GPU_FIELDS = "index,uuid,name,driver_version,memory.total,memory.free"


def check_own_folders(settings: Settings) -> Check:
    """Whether MODEL_DIR and CACHE_DIR are writable; creates them if they are missing."""
    try:
        check_folders(settings)
    except BackendError as error:
        return Check("folders", problems=(unusable_folder(error),))
    return Check("folders", f"MODEL_DIR={settings.model_dir}, CACHE_DIR={settings.cache_dir}")


def check_disk(settings: Settings) -> Check:
    """Whether there is enough disk space for new versions and images."""
    disks = read_disks(settings)
    return Check("disk", f"{min(disk.free for disk in disks) / 1e9:.0f} GB free", tuple(disk_space_problems(disks)))


def check_cache(settings: Settings, mounts: Path = MOUNTS) -> Check:
    """Whether the cache is on a local disk."""
    place, kind = _mounted(settings.cache_dir, mounts)
    said = "on a local disk" if kind else "on an unknown file system"
    return Check("cache", said, tuple(cache_problems(kind, place)))


def _mounted(folder: Path, mounts: Path) -> tuple[Path, str]:
    """The mount point of the folder's file system and its type; "" if the system doesn't tell."""
    try:
        lines = [line.split() for line in mounts.read_text(errors="replace").splitlines()]
    except OSError:
        return folder, ""
    # The file writes a space in a path as \040.
    found = [(Path(line[1].replace("\\040", " ")), line[2]) for line in lines if len(line) > 2]
    real = folder.resolve()
    holding = [(place, kind) for place, kind in found if real.is_relative_to(place)]
    # Of several mounts at the same place, the last hides the others.
    return max(reversed(holding), key=lambda one: len(one[0].parts), default=(folder, ""))


class NoDriver(RuntimeError):
    """The driver doesn't respond although there is, or was, a GPU; the message is the driver's."""


def find_gpu(visible: str) -> Gpu | None:
    """The NVIDIA GPU that CUDA uses; None if there is none, or if nvidia-smi isn't installed. Raises NoDriver.

    `visible` is CUDA_VISIBLE_DEVICES: indexes or UUIDs, which may be shortened.
    """
    command = [NVIDIA_SMI, f"--query-gpu={GPU_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=NVIDIA_SECONDS)
    except FileNotFoundError:
        return None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoDriver(redact(str(error))) from error
    said = done.stdout.strip() or done.stderr.strip()
    if "No devices were found" in said:
        return None
    rows = [[part.strip() for part in line.split(",")] for line in said.splitlines()]
    if not rows or any(len(row) != len(GPU_FIELDS.split(",")) for row in rows):
        raise NoDriver(said[:300])
    first = visible.partition(",")[0].strip()
    chosen = (row for row in rows if first and (first == row[0] or row[1].startswith(first)))
    _, _, name, driver, memory, free = next(chosen, rows[0])
    return Gpu(name, driver, _bytes(memory), _bytes(free))


def _bytes(mebibytes: str) -> int | None:
    """None for a GPU that has no memory of its own, for which nvidia-smi prints [N/A]."""
    return int(mebibytes) << 20 if mebibytes.isdecimal() else None


def check_gpu(computes: Json) -> Check:
    """Whether an available GPU is used; `computes` is the model's description of how it computes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1"):
        return Check("GPU", "not used because CUDA_VISIBLE_DEVICES excludes it")
    try:
        gpu = find_gpu(visible or "")
    except NoDriver as error:
        return Check("GPU", problems=(no_driver(str(error)),))
    if gpu is None:
        return Check("GPU", "none; computing on the CPU")
    said = str(gpu) if computes.get("device") else f"{gpu}; the model doesn't say whether it uses the GPU"
    return Check("GPU", said, tuple(gpu_problems(gpu, computes)))
