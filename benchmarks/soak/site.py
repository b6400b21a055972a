"""Everything that a team runs: the production mode under supervisor, as `make production` starts it."""

import os
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # has no stubs here
import requests

from testing.process import Process, answers, free_port

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180
STOP_SECONDS = 90  # a worker puts down a checkpoint first


class Supervisor(Process):
    """`my_backend production`; its processes are in separate groups and end with it."""

    def stop(self) -> None:
        with suppress(ProcessLookupError, psutil.NoSuchProcess, psutil.TimeoutExpired):
            os.kill(self.pid, signal.SIGTERM)
            psutil.Process(self.pid).wait(STOP_SECONDS)
        super().stop()


class Site:
    """Redis, the server and two workers, which write only to `folder`; runs inside a `with` block.

    `settings` are environment variables.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.folder = folder.resolve()
        self.model_dir = self.folder / "models"
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        own = {"PORT": str(port), "MODEL_DIR": str(self.model_dir), "CACHE_DIR": str(self.folder / "cache")}
        # Use the packages of this checkout, not those installed in the environment.
        self._environment = os.environ | own | {"PYTHONPATH": str(ROOT)} | settings

    def __enter__(self) -> "Site":
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "my_backend", "production"]
        self.process = Supervisor(command, env=self._environment, folder=ROOT, log=self.folder / "production.log")
        try:
            self.process.wait_until(lambda: answers(f"{self.url}/ready"), START_SECONDS)
        except BaseException:
            self.process.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop()

    def get(self, path: str, accept: str = "application/json") -> requests.Response:
        """Sends a GET request; raises on an error status."""
        answer = requests.get(self.url + path, headers={"Accept": accept}, timeout=30)
        answer.raise_for_status()
        return answer

    # --- its processes ------------------------------------------------------

    def processes(self) -> dict[str, psutil.Process]:
        """The running processes by role: redis, server, worker, head-worker, and the work-horses of the workers."""
        found: dict[str, psutil.Process] = {}
        for process in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error, IndexError):
                name = _name(process)
                below = process.children()
                if name == "server":
                    found[name] = below[0]  # behind uWSGI's master
                elif name:
                    found[name] = process
                    if below:
                        found[f"{name}'s work-horse"] = below[0]
        return found

    def lose_redis_data(self) -> None:
        """The data that Redis would load after a restart."""
        for path in (self.model_dir / "production").glob("appendonly*"):  # a file, since Redis 7 a folder
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _name(process: psutil.Process) -> str:
    command = process.cmdline()
    if "redis-server" in command[0]:
        return "redis"
    if any(Path(part).name == "uwsgi" for part in command[:2]):
        return "server"
    return {"worker": "worker", "head": "head-worker"}.get(command[-1], "")
