"""Runs a function in a separate process, so that its memory, its time and its crashes don't affect the server."""

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

from my_backend.errors import BackendError, Stopped
from my_backend.log.setup import set_up_logs
from my_backend.named_import import ModuleRaised
from my_backend.settings import Settings
from safe_http.redaction import redact, said

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
END_SECONDS = 10.0  # that the process may take to end after its answer
NICENESS = 10  # predictions and training runs come first

Value = TypeVar("Value")

_spawn = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold


def run_in_own_process(
    settings: Settings,
    work: Callable[..., Value],
    *arguments: Any,
    seconds: float,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Value:
    """The result of `work(settings, *arguments)`, a function of a module, computed in a new process.

    The process is killed after this many seconds, and ends if this one is killed. Raises BackendError if `work` raises
    anything or the process dies, and Stopped once `is_stopping` returns True.
    """
    python = Path(sys.prefix) / "bin" / "python"
    if python.exists():  # in uWSGI, sys.executable isn't the interpreter of the virtual environment
        _spawn.set_executable(str(python))
    receiving, sending = _spawn.Pipe(duplex=False)
    process = _spawn.Process(target=_work, args=(sending, settings, work, arguments))
    process.start()
    sending.close()  # so that the other end notices when the process dies
    deadline = time.monotonic() + seconds
    try:
        while not receiving.poll(LOOK_SECONDS):
            if is_stopping():
                raise Stopped("the server is shutting down")
            if time.monotonic() > deadline:
                raise BackendError(f"it took longer than {seconds:.0f} s and was killed")
        failure, result = receiving.recv()
        process.join(END_SECONDS)
    except (EOFError, OSError):  # OSError: in the middle of its answer
        process.join(END_SECONDS)
        raise BackendError(
            f"its process died with exit status {process.exitcode}, perhaps because it ran out of memory: see the log"
        ) from None
    finally:
        process.kill()
        process.join()
        receiving.close()
    if failure:
        raise BackendError(failure)
    value: Value = result
    return value


def _work(sending: Connection, settings: Settings, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    with suppress(AttributeError):  # Windows
        os.nice(NICENESS)
    redact.know(settings.secrets)
    set_up_logs(settings)
    try:
        answer = "", work(settings, *arguments)
    except (Exception, SystemExit) as error:
        if not isinstance(error, BackendError) or isinstance(error, ModuleRaised):  # others' messages say all
            log.exception("%s failed", work.__name__)
        name = "" if isinstance(error, BackendError) else f"{type(error).__name__}: "
        answer = f"{name}{said(error)}", None
    sending.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
