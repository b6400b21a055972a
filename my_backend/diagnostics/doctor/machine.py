"""Checks of the machine that the backend runs on: folders, disk space, and graphics card."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from my_backend.diagnostics.doctor.check import Check
from my_backend.errors import BackendError
from my_backend.problems import Problem
from my_backend.redaction import redact
from my_backend.settings import Settings
from my_backend.storage import check_folders

Json = dict[str, Any]

FREE_BYTES = 2_000_000_000  # a training of all layers writes a few hundred million
MOUNTS = Path("/proc/self/mounts")
# The cache is a memory-mapped file, which none of these file systems keeps consistent.
NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "9p", "ceph", "gluster", "lustre", "beegfs", "gpfs", "afs", "davfs")
NVIDIA_SMI = "nvidia-smi"
NVIDIA_SECONDS = 20.0
GPU_BYTES = 1_000_000_000  # for a network and a batch of images
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}  # by the major version of the CUDA that torch was built for


def check_own_folders(settings: Settings) -> Check:
    """Whether MODEL_DIR and CACHE_DIR are writable; creates them if they are missing."""
    try:
        check_folders(settings)
    except BackendError as error:
        return Check("folders", problems=(Problem("folders", f"{error}."),))
    return Check("folders", f"MODEL_DIR={settings.model_dir}, CACHE_DIR={settings.cache_dir}")


def check_disk(settings: Settings, free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free) -> Check:
    """Whether there is enough disk space for new versions and images."""
    left = {name: free(path) for name, path in (("MODEL_DIR", settings.model_dir), ("CACHE_DIR", settings.cache_dir))}
    problems = [
        Problem(
            "disk",
            f"Only {size / 1e9:.1f} GB are free on the disk of {name}.",
            "Free up space there, or move it to a larger disk: a training can't publish a version on a full disk.",
        )
        for name, size in left.items()
        if size < FREE_BYTES
    ]
    return Check("disk", f"{min(left.values()) / 1e9:.0f} GB free", tuple(problems))


def check_cache(settings: Settings, mounts: Path = MOUNTS) -> Check:
    """Whether the cache is on a local disk."""
    place, kind = _mounted(settings.cache_dir, mounts)
    if not kind.removeprefix("fuse.").startswith(NETWORK_FILE_SYSTEMS):
        return Check("cache", "on a local disk" if kind else "on an unknown file system")
    what = f"CACHE_DIR is on a network file system ({kind} at {place}), which corrupts its database of embeddings."
    remedy = "Set CACHE_DIR to a folder on a local disk: nothing in it needs to be shared or kept."
    return Check("cache", problems=(Problem("cache-on-network", what, remedy),))


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


@dataclass(frozen=True)
class Gpu:
    """A graphics card; memory in bytes."""

    name: str
    driver: str
    memory: int
    free: int


class NoDriver(RuntimeError):
    """The driver doesn't respond although there is, or was, a card; the message is the driver's."""


def find_gpus() -> list[Gpu]:
    """The NVIDIA cards; none if nvidia-smi isn't installed. Raises NoDriver."""
    command = [NVIDIA_SMI, "--query-gpu=name,driver_version,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=NVIDIA_SECONDS)
    except FileNotFoundError:
        return []
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoDriver(redact(str(error))) from error
    said = done.stdout.strip() or done.stderr.strip()
    if "No devices were found" in said:
        return []
    try:
        rows = [[part.strip() for part in line.split(",")] for line in said.splitlines()]
        return [Gpu(name, driver, int(memory) << 20, int(free) << 20) for name, driver, memory, free in rows]
    except ValueError:
        raise NoDriver(said[:300]) from None


def check_gpu(computes: Json) -> Check:
    """Whether an available graphics card is used; `computes` is the model's description of how it computes."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Check("GPU", "not used because CUDA_VISIBLE_DEVICES excludes it")
    try:
        gpus = find_gpus()
    except NoDriver as error:
        what = f"The NVIDIA driver doesn't respond: {str(error).rstrip('.')}."
        remedy = "Restart the machine, or reinstall the driver. Until then everything is computed on the CPU."
        return Check("GPU", problems=(Problem("gpu", what, remedy),))
    if not gpus:
        return Check("GPU", "none; computing on the CPU")
    first = gpus[0]
    described = f"{first.name} ({first.memory / 1e9:.0f} GB, driver {first.driver})"
    device = str(computes.get("device") or "")
    if device == "cpu":
        remedy = f"{_why_unused(first, computes)} If you don't want to use it, set CUDA_VISIBLE_DEVICES=-1."
        return Check("GPU", problems=(Problem("gpu", f"{described} is available but not used.", remedy),))
    if device and first.free < GPU_BYTES:
        what = f"Only {first.free / 1e9:.1f} GB of memory are free on {described}."
        remedy = "Stop the other programs that use it (`nvidia-smi` lists them), or set CUDA_VISIBLE_DEVICES to "
        remedy += "another card."
        return Check("GPU", problems=(Problem("gpu", what, remedy),))
    return Check("GPU", described if device else f"{described}; the model doesn't say whether it uses it")


def _why_unused(gpu: Gpu, computes: Json) -> str:
    cuda = str(computes.get("cuda") or "")
    if not cuda:
        return "The installed torch supports only the CPU: install requirements.txt, whose torch supports CUDA."
    oldest = OLDEST_DRIVER.get(int(cuda.partition(".")[0]), 0)
    if int(gpu.driver.partition(".")[0]) < oldest:
        return f"Its driver {gpu.driver} is too old for CUDA {cuda}: install {oldest} or newer."
    return "Check CUDA_VISIBLE_DEVICES, and whether the container was started with the card (`--gpus all`)."
