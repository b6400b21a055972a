"""Disconnects clients that send or read too slowly, because each of them occupies a thread."""

import contextlib
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from wsgiref.types import WSGIEnvironment

from my_backend.errors import BadRequest, TooSlow

GRACE_SECONDS = 10.0
BYTES_PER_SECOND = 100_000  # slower than any usable network
LOOK_SECONDS = 1.0


def connection_of(environ: WSGIEnvironment) -> int | None:
    """The file descriptor of the request's connection; None in tests, which have no connection."""
    if connection := environ.get("werkzeug.socket"):
        return int(connection.fileno())
    if uwsgi := sys.modules.get("uwsgi"):
        return int(uwsgi.connection_fd())
    return None


class Deadlines:
    """The deadlines of transfers in progress, and the thread that enforces them while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, tuple[int, float, int]] = {}
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def transferring(
        self, connection: int | None, size: int, begun: float, how: int = socket.SHUT_RDWR
    ) -> Iterator[None]:
        """Limits the time for a client to transfer `size` bytes in total since `begun` (monotonic)."""
        if connection is None:
            yield
            return
        number = next(self._numbers)
        with self._lock:
            self._running[number] = connection, _end(size, begun), how
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._running.pop(number, None)

    def _run(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            self.enforce(time.monotonic())
            with self._lock:
                if not self._running:
                    self._thread = None
                    return

    def enforce(self, now: float) -> None:
        """Disconnects clients that are late; the thread that waits for them continues with an error."""
        with self._lock:  # otherwise the connection could be closed and its number be reused
            for number, (connection, end, how) in list(self._running.items()):
                if now >= end:
                    del self._running[number]
                    _cut_off(connection, how)


class TimedInput:
    """A request's body with a deadline for each part; `arrived` is called with the number of bytes received."""

    def __init__(self, environ: WSGIEnvironment, deadlines: Deadlines, arrived: Callable[[int], None]) -> None:
        self._stream, self._connection = environ["wsgi.input"], connection_of(environ)
        self._deadlines, self._arrived = deadlines, arrived
        self._begun, self.size = time.monotonic(), 0

    def read(self, size: int) -> bytes:
        """Callers never read beyond Content-Length. Raises TooSlow, or BadRequest if the body ends early."""
        data, wanted = b"", self.size + size
        timed = self._deadlines.transferring(self._connection, wanted, self._begun, socket.SHUT_RD)
        with timed, contextlib.suppress(OSError):  # uWSGI's error for a closed connection
            data = self._stream.read(size)
        if not data and time.monotonic() >= _end(wanted, self._begun):
            raise TooSlow(f"body: it was sent too slowly; only {self.size:,} bytes arrived")
        if not data:
            raise BadRequest(f"body: it ended after {self.size:,} bytes, fewer than its Content-Length")
        self.size += len(data)
        self._arrived(len(data))
        return data


def _end(size: int, begun: float) -> float:
    return begun + GRACE_SECONDS + size / BYTES_PER_SECOND


def _cut_off(connection: int, how: int) -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection)) as same:
        same.shutdown(how)
