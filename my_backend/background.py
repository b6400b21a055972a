"""A thread that repeats a task until the process ends."""

import logging
import math
import threading
from abc import ABC, abstractmethod

from my_backend.errors import Stopped

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # after an error: a disk or a server that doesn't respond may recover
STOP_SECONDS = 1.0  # requests to Label Studio and importing the model's library may be slow


class Background(ABC):
    """A thread that calls `_tick` at its start, after each pause, and whenever it is woken. Errors don't end it."""

    def __init__(self, name: str, *, patience: float = STOP_SECONDS) -> None:
        """`patience` is how many seconds `stop` waits for a `_tick` that is still running."""
        self._patience = patience
        self._woken = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def _tick(self) -> float | None:
        """The seconds until the next call: infinity waits until it is woken, None ends the thread."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stops the thread; does no harm if it was never started."""
        self._stopping = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join(_timeout(self._patience))

    def _wake(self) -> None:
        """Calls `_tick` now, or once more after the current call."""
        self._woken.set()

    def _raise_if_stopping(self) -> None:
        """Raises Stopped once the thread has to end; for what takes longer."""
        if self._stopping:
            raise Stopped("the process is shutting down")

    def _run(self) -> None:
        failure = ""
        while not self._stopping:
            try:
                pause = self._tick()
                if failure:
                    log.info("%s works again", self._thread.name)
                failure = ""
            except (Exception, SystemExit) as error:  # a model class may call sys.exit
                if repr(error) != failure:  # log it once, not every second
                    log.exception("%s failed; retrying every %.0f s", self._thread.name, RETRY_SECONDS)
                failure, pause = repr(error), RETRY_SECONDS
            if pause is None:
                return
            self._woken.wait(_timeout(pause))
            self._woken.clear()


def _timeout(seconds: float) -> float | None:
    """Converts to the timeout that threads take, where None means infinity."""
    return None if seconds == math.inf else max(0.0, seconds)
