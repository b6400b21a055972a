"""Stops one process at a file-system call while another does a whole operation on the same folder."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from my_backend import files

ENOUGH = 60.0  # seconds, for a thread that will never end


class Turns:
    """Two threads, of which only one runs at a time; the second starts at the first one's point number `at`.

    If the second must wait for a lock, it continues when the first has ended.
    """

    def __init__(self, at: int, second: Callable[[], None]) -> None:
        self.points = 0
        self._at, self._second = at, second
        self._paused, self._first_ended = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._first = threading.current_thread()

    def point(self) -> None:
        """Call it whenever the second may start, say after each file-system call."""
        if threading.current_thread() is not self._first:
            return
        self.points += 1
        if self.points == self._at:
            self._thread = threading.Thread(target=self._run, name="second process")
            self._thread.start()
            assert self._paused.wait(ENOUGH), "the second process neither ends nor waits for a lock"

    def _run(self) -> None:
        try:
            self._second()
        except BaseException as error:
            self._error = error
        finally:
            self._paused.set()

    def _lock(self, real: Callable[..., bool]) -> Callable[..., bool]:
        def lock(descriptor: int, *, shared: bool, wait: bool) -> bool:
            if real(descriptor, shared=shared, wait=False):
                return True
            if not wait:
                return False
            assert threading.current_thread() is not self._first, "each process waits for a lock that the other holds"
            self._paused.set()
            assert self._first_ended.wait(ENOUGH)
            return real(descriptor, shared=shared, wait=False)

        return lock

    @property
    def started(self) -> bool:
        """Whether the second has begun."""
        return self._thread is not None

    @contextmanager
    def taken(self) -> Iterator[None]:
        """The block is the first process; raises what the second has raised."""
        with patch.object(files, "lock", self._lock(files.lock)):
            try:
                yield
            finally:
                self._first_ended.set()
                if self._thread is not None:
                    self._thread.join(ENOUGH)
        assert self._thread is None or not self._thread.is_alive(), "the second process never ends"
        if self._error is not None:
            raise self._error
