"""Ends a server at once, even if it is still computing."""

import atexit
import ctypes
import logging
import os
from collections.abc import Callable
from typing import NoReturn

log = logging.getLogger(__name__)

_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_destructors: list[object] = []  # keeps them alive, since the C library holds no reference


def leave(status: int = 0) -> NoReturn:
    """Ends the process with this exit status, without the interpreter's clean-up.

    Nothing is lost if running computations and requests are cut off. But torch crashes if the interpreter, or torch's
    own library, is torn down while its threads run.
    """
    log.info("stopped")
    logging.shutdown()
    os._exit(status)


def at_exit_of_uwsgi(do: Callable[[], None]) -> None:
    """Registers a function to call when a uWSGI process ends; must be called in its main thread.

    uWSGI ends with C's exit(), which calls the destructors of libraries, including torch's, before Python's `atexit`.
    In glibc, only the thread's own destructors run earlier.
    """
    libc = ctypes.CDLL(None)
    register = getattr(libc, "__cxa_thread_atexit_impl", None)
    if register is None:
        atexit.register(do)
        return
    destructor = _Destructor(lambda _: do())
    _destructors.append(destructor)
    register(destructor, None, libc._exit)  # any address in the library it belongs to will do
