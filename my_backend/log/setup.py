"""The log of a process: all that it says, in the form of LOG_FORMAT, on standard error and in LOG_FILE."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

from my_backend.log.init import PASSED_ON
from my_backend.log.lines import lines
from my_backend.redaction import redact
from my_backend.settings import Settings

log = logging.getLogger(__name__)

COLLECTOR = "import sys; sys.path.append(sys.argv[1]); from my_backend.log.collector import main; main(*sys.argv[2:])"


def set_up_logs(settings: Settings) -> None:
    """Sends this process's log to standard error; exceptions and warnings that nobody catches too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(lines(settings.log_format, redact))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.getLogger("werkzeug").setLevel("WARNING")  # our own log has the requests
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    if error is not None and not issubclass(kind, KeyboardInterrupt | SystemExit):
        log.critical("an exception was not caught", exc_info=(kind, error, traceback))


def collect_output(settings: Settings, name: str, log_file: Path | None = None) -> None:
    """From here on a process of its own writes down what this one, and what it becomes, sends to its outputs.

    So that lines of libraries, of uWSGI and of supervisor have the form of the others, LOG_FILE is rotated by one
    process alone, and no secret gets through. Does nothing where the log is text for standard error only. `name` is
    what raw lines get as their logger.
    """
    if settings.log_format == "text" and log_file is None:
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
        # It outlives us, to write what we say last, and is nobody's child, so that nobody waits for it.
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, pass_fds=[reading], check=True)
    os.close(reading)
    os.write(writing, json.dumps(orders).encode() + b"\n")
    sys.stdout.flush()
    sys.stderr.flush()
    for output in (1, 2):
        os.dup2(writing, output)
    os.close(writing)


def _go_on_behind(collector: list[str], reading: int, writing: int) -> None:
    """Goes on as a child of the collector, which becomes the first process in our place.

    A container's first process gets whoever has no parent as its child: the collector would be uWSGI's, which at its
    own end waits for all children it has. And all end with it, also those that have something left to say.
    """
    if program := os.fork():
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        os.close(writing)
        os.set_inheritable(reading, True)
        os.dup2(2, 1)
        os.execv(collector[0], [*collector, str(program)])  # noqa: S606  no shell is wanted
    os.setsid()  # a terminal's Ctrl-C comes once, from the collector
