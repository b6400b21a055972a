"""The duties of a container's init process: it forwards signals and reaps orphaned processes."""

import os
import signal
import time
from contextlib import suppress
from types import FrameType

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
PASSED_ON = tuple(one for one in signal.Signals if one.name in _NAMES)  # Windows lacks most, and has no init process
LAST_WORDS_SECONDS = 5  # for output that others write after the program has ended
POLL_SECONDS = 0.02


class TimeIsUp(Exception):
    """Raised, wherever this process is, LAST_WORDS_SECONDS after the program has ended."""


class FirstProcess:
    """Forwards signals to `program`, a child of this process, and provides its exit status.

    The process must start with PASSED_ON blocked: an init process gets no signal before its handlers are installed.
    """

    def __init__(self, program: int) -> None:
        self._program = program
        self._status: int | None = None
        for number in PASSED_ON:
            signal.signal(number, self._pass_on)
        signal.signal(signal.SIGALRM, _raise)
        signal.signal(signal.SIGCHLD, self._bury)
        self._bury()  # children that have already ended
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)

    def status(self) -> int:
        """Waits, without TimeIsUp, for the program's end and returns its status as a shell would report it."""
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        while self._status is None:
            time.sleep(POLL_SECONDS)
        return self._status if self._status >= 0 else 128 - self._status

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if self._status is None:
            os.kill(self._program, number)

    def _bury(self, number: int = 0, frame: FrameType | None = None) -> None:
        with suppress(ChildProcessError):
            while (dead := os.waitpid(-1, os.WNOHANG))[0]:
                if dead[0] == self._program:
                    self._status = os.waitstatus_to_exitcode(dead[1])
                    signal.alarm(LAST_WORDS_SECONDS)


def _raise(number: int, frame: FrameType | None) -> None:
    raise TimeIsUp
