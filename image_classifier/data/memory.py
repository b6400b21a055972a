"""A memory budget for everything that a process decodes at the same time; freed memory goes back to the system."""

import ctypes
import sys
import threading
import time
from collections import deque
from contextlib import suppress


class OverBudget(Exception):
    """The request is larger than the whole budget."""


class NotInTime(Exception):
    """The deadline passed before enough bytes were free."""


class MemoryBudget:
    """A number of bytes that threads reserve and release.

    First come, first served, so that many small reservations can't starve a large one.
    """

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @property
    def total(self) -> int:
        """The bytes that can be reserved in total."""
        return self._total

    @property
    def free(self) -> int:
        """The bytes that aren't reserved."""
        return self._free

    @property
    def waiting(self) -> int:
        """The number of threads that wait for bytes."""
        return len(self._waiting)

    def resize(self, total: int) -> None:
        """Changes the total; existing reservations stay."""
        with self._changed:
            self._free += total - self._total
            self._total = total
            self._changed.notify_all()

    def reserve(self, size: int, deadline: float = float("inf")) -> None:
        """Waits until `size` bytes are free and takes them.

        Raises OverBudget, or NotInTime at `deadline` (monotonic seconds).
        """
        ticket = object()
        with self._changed:
            if size > self._total:
                raise OverBudget
            self._waiting.append(ticket)
            try:
                left = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
                if not self._changed.wait_for(lambda: self._waiting[0] is ticket and self._free >= size, left):
                    raise NotInTime
                self._free -= size
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def release(self, size: int) -> None:
        """Returns bytes to the budget."""
        with self._changed:
            self._free += size
            self._changed.notify_all()


def give_back_memory() -> None:
    """Returns freed memory to the system: C libraries keep hundreds of megabytes. Only glibc has a call for it."""
    if sys.platform == "linux":
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
