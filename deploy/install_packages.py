"""Installs the packages of a lock file into the environment of the Python that runs this.

For `make setup` and the Dockerfile: python deploy/install_packages.py LOCK [--gpu]

Without a GPU, it leaves out packages that only GPUs need; `--gpu` installs them all. TORCH_INDEX_URL names an index of
CPU-only builds of torch, which need no CUDA at all. All other packages must have the locked hashes.
"""

import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# What an NVIDIA driver creates: on Linux, and in Windows Subsystem for Linux.
GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
# torch loads these only to compute on a GPU. It links CUDA's other libraries, so it doesn't start without them.
ONLY_FOR_GPUS = re.compile(r"(triton|nvidia-cusolver|nvidia-nvtx|cuda-bindings|cuda-pathfinder)==")
CUDA = re.compile(r"(triton|nvidia-.*|cuda-.*)==")
TORCH = re.compile(r"(torch|torchvision)==")

LEFT_OUT = """\
This machine has no NVIDIA GPU: leaving out 1.1 GB of packages that only GPUs need. (If you add a GPU, run make again.)
To leave out all of CUDA, which takes 3 GB more, set TORCH_INDEX_URL to an index of CPU-only builds of torch; see
docs/operate/install.md.
"""


def read_lock(path: Path) -> list[str]:
    """The lock's packages, one per line: `name==version ; marker --hash=… --hash=…`."""
    lines = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#")]


def is_installed(package: str) -> bool:
    """Whether this environment has the version that the lock names."""
    name, _, found = package.split(" ", 1)[0].partition("==")
    try:
        return version(name) == found
    except PackageNotFoundError:
        return False


def pip_install(packages: list[str], *options: str) -> None:
    """Runs pip without dependencies, because the lock has them all. If pip fails, exits with its code."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("\n".join(packages) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--requirement", str(file), *options]
        if code := subprocess.run(command, check=False).returncode:
            sys.exit(code)


def main(lock: Path, *, gpu: bool) -> None:
    packages = [package for package in read_lock(lock) if not is_installed(package)]
    if index := os.environ.get("TORCH_INDEX_URL"):
        # The lock has no hashes for the files of another index.
        if torch := [line.partition(" --hash=")[0] for line in packages if TORCH.match(line)]:
            pip_install(torch, "--index-url", index)
        packages = [line for line in packages if not TORCH.match(line) and not CUDA.match(line)]
    elif not gpu and sys.platform == "linux":
        if any(map(TORCH.match, packages)):  # once, when torch is installed
            print(LEFT_OUT, flush=True)
        packages = [line for line in packages if not ONLY_FOR_GPUS.match(line)]
    if packages:
        pip_install(packages, "--require-hashes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), gpu="--gpu" in sys.argv or any(path.exists() for path in GPU_DEVICES))
