"""What the first process of a container owes the others: it passes signals on, and buries whoever has no parent."""

import os
import signal
import time
from contextlib import suppress
from types import FrameType

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
LAST_WORDS_SECONDS = 5  # for what others still write after the program's end
POLL_SECONDS = 0.02


class TimeIsUp(Exception):
    """The program has ended for a while; raised wherever this process is."""


class FirstProcess:
    """Stands before `program`, a child of this process that gets its signals and whose status it ends with.

    Whoever starts this process blocks PASSED_ON: the first one is not told of what comes before it can hear.
    """

    def __init__(self, program: int) -> None:
        self._program = program
        self._status: int | None = None
        for number in PASSED_ON:
            signal.signal(number, self._pass_on)
        signal.signal(signal.SIGALRM, _raise)
        signal.signal(signal.SIGCHLD, self._bury)
        self._bury()  # whoever was faster
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)

    def status(self) -> int:
        """That of the program, as a shell would tell it; waits for its end, and is no more interrupted."""
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
