"""Problems with GPUs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from my_backend.diagnostics.problem import Problem
from my_backend.diagnostics.rules.wording import ended

GPU_BYTES = 1_000_000_000  # for a network and a batch of images
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}  # by the major version of the CUDA that torch was built for


@dataclass(frozen=True)
class Gpu:
    """A GPU; memory in bytes, None if it uses the machine's memory."""

    name: str
    driver: str
    memory: int | None
    free: int | None

    def __str__(self) -> str:
        size = "" if self.memory is None else f"{self.memory / 1e9:.0f} GB, "
        return f"{self.name} ({size}driver {self.driver})"


def gpu_problems(gpu: Gpu, computes: Mapping[str, Any]) -> list[Problem]:
    """A GPU that isn't used or is full; `computes` is the model's description of how it computes."""
    device = str(computes.get("device") or "")
    if device == "cpu":
        hint = f"{_why_unused(gpu, computes)} If you don't want to use the GPU, set CUDA_VISIBLE_DEVICES=-1."
        return [Problem("gpu", f"{gpu} is available but not used.", hint)]
    if device and gpu.free is not None and gpu.free < GPU_BYTES:
        message = f"Only {gpu.free / 1e9:.1f} GB of memory is free on {gpu}."
        hint = "Stop the other programs that use it (`nvidia-smi` lists them), or set CUDA_VISIBLE_DEVICES to another "
        return [Problem("gpu", message, f"{hint}GPU.")]
    return []


def _why_unused(gpu: Gpu, computes: Mapping[str, Any]) -> str:
    cuda = str(computes.get("cuda") or "")
    if not cuda:
        return (
            "The installed torch supports only the CPU: install the packages in requirements.txt, which include a "
            "torch that supports CUDA."
        )
    oldest = OLDEST_DRIVER.get(int(cuda.partition(".")[0]), 0)
    if int(gpu.driver.partition(".")[0]) < oldest:
        return f"Its driver {gpu.driver} is too old for CUDA {cuda}: install {oldest} or newer."
    return "Check CUDA_VISIBLE_DEVICES, and whether the container was started with access to the GPU (`--gpus all`)."


def no_driver(why: str) -> Problem:
    """The driver doesn't respond although there is, or was, a GPU; `why` is its message."""
    return Problem(
        "gpu",
        ended(f"The NVIDIA driver isn't responding: {why}"),
        "Restart the machine, or reinstall the driver. Until then everything is computed on the CPU.",
    )
