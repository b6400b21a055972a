"""A thread that looks after something again and again, until the process ends."""

import logging
import math
import threading
from abc import ABC, abstractmethod

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # after an error: a disk or a server that does not answer may answer again
STOP_SECONDS = 1.0  # Label Studio may be slow to answer, and the model's library to import


class Background(ABC):
    """A thread of its own, which looks at its start and whenever it is woken. No error ends it."""

    def __init__(self, name: str, *, patience: float = STOP_SECONDS) -> None:
        """`patience` is for how many seconds `stop` waits for a look that is not over."""
        self._patience = patience
        self._woken = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def _look(self) -> float | None:
        """Returns after how many seconds to look again: infinity until it is woken, None never more."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Also where it was never started."""
        self._stopping = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join(_timeout(self._patience))

    def _wake(self) -> None:
        """Lets it look now, or once more after the look that it is at."""
        self._woken.set()

    def _run(self) -> None:
        failure = ""
        while not self._stopping:
            try:
                pause = self._look()
                if failure:
                    log.info("%s: works again", self._thread.name)
                failure = ""
            except Exception as error:
                if repr(error) != failure:  # once, not each second
                    log.exception("%s: failed, and is tried again", self._thread.name)
                failure, pause = repr(error), RETRY_SECONDS
            if pause is None:
                return
            self._woken.wait(_timeout(pause))
            self._woken.clear()


def _timeout(seconds: float) -> float | None:
    """As threads take it, for which infinity is None."""
    return None if seconds == math.inf else max(0.0, seconds)
