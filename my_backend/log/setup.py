"""Logging of a process: everything it writes goes, formatted by LOG_FORMAT, to standard error and to LOG_FILE."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

from my_backend.errors import BackendError
from my_backend.log.init import PASSED_ON
from my_backend.log.lines import lines
from my_backend.log.recent import RecentLines
from my_backend.settings import Settings
from safe_http.redaction import redact

log = logging.getLogger(__name__)

COLLECTOR = "import sys; sys.path.append(sys.argv[1]); from my_backend.log.collector import main; main(*sys.argv[2:])"


def set_up_logs(settings: Settings) -> None:
    """Sends this process's log to standard error, with warnings and uncaught exceptions; keeps its last lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(lines(settings.log_format, redact))
    logging.basicConfig(level=settings.log_level, handlers=[handler, RecentLines()], force=True)
    logging.getLogger("werkzeug").setLevel("WARNING")  # our own log lists the requests
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    if error is not None and not issubclass(kind, KeyboardInterrupt | SystemExit):
        log.critical("uncaught exception", exc_info=(kind, error, traceback))


def collect_output(settings: Settings, name: str, log_file: Path | None = None, *, always: bool = False) -> None:
    """Starts a process that collects all output of this process, also after an exec.

    This gives the lines of libraries, uWSGI and supervisor the same format, lets a single process rotate LOG_FILE, and
    keeps secrets out. Does nothing if the log is text and goes to standard error only, unless `always` is
    set. `name` is the logger's name for raw lines. Windows has no fork, so there only our own lines have the format;
    raises BackendError if there should be a file.
    """
    if settings.log_format == "text" and log_file is None and not always:
        return
    if not hasattr(os, "fork"):
        if log_file is not None:
            raise BackendError(
                f"LOG_FILE={log_file} doesn't work on this system: unset it, and redirect the output instead"
            )
        return
    reading, writing = os.pipe()
    orders = {
        "format": settings.log_format,
        "name": name,
        "secrets": settings.secrets,
        "log_file": str(log_file) if log_file else "",
    }
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", COLLECTOR, root, str(reading)]
    if os.getpid() == 1:
        _go_on_behind(command, reading, writing)
    else:
        # It outlives this process to write its last lines, and detaches so that nobody waits for it.
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, pass_fds=[reading], check=True)
    os.close(reading)
    os.write(writing, json.dumps(orders).encode() + b"\n")
    sys.stdout.flush()
    sys.stderr.flush()
    for output in (1, 2):
        os.dup2(writing, output)
    os.close(writing)


def _go_on_behind(collector: list[str], reading: int, writing: int) -> None:
    """Continues as a child of the collector, which replaces this process as the container's init process.

    The init process adopts all orphans: the collector would become a child of uWSGI, which waits for all its children
    when it ends. And when the init process ends, all others are killed, even if they still have something to write.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    if program := os.fork():
        os.close(writing)
        os.set_inheritable(reading, True)
        os.dup2(2, 1)
        os.execv(collector[0], [*collector, str(program)])  # noqa: S606  no shell needed
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.setsid()  # so that Ctrl-C arrives only once, from the collector
