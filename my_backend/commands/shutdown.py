"""How a server ends: at once, whatever still computes in it."""

import atexit
import ctypes
import logging
import os
from collections.abc import Callable
from typing import NoReturn

log = logging.getLogger(__name__)

_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_destructors: list[object] = []  # the C library holds no reference to them


def leave() -> NoReturn:
    """Ends the process.

    What still computes, or waits for another server, need not be waited for: nothing is lost by it. But torch crashes
    where the interpreter, or its own library, is taken apart under its threads.
    """
    log.info("stopped")
    logging.shutdown()
    os._exit(0)


def at_exit_of_uwsgi(do: Callable[[], None]) -> None:
    """Has a process of uWSGI do this when it ends; to be called in its main thread.

    It ends by C's exit(), which calls the destructors of libraries, torch's among them, before Python's `atexit`. Only
    those of the thread itself come first, in glibc.
    """
    libc = ctypes.CDLL(None)
    register = getattr(libc, "__cxa_thread_atexit_impl", None)
    if register is None:
        atexit.register(do)
        return
    destructor = _Destructor(lambda _: do())
    _destructors.append(destructor)
    register(destructor, None, libc._exit)  # with any address in the library that it belongs to
