"""One deadline for whole responses, however slowly a server sends them."""

import http.client
import io
import math
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Inside, reading a `TimedResponse` raises TimeoutError at the deadline (monotonic)."""
    before = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(before)


class TimedResponse(http.client.HTTPResponse):
    """A response whose headers and body are read until the deadline.

    A socket's own timeout starts again with each byte, and a status line alone may have 65,536 of them. The libraries
    read on while headers, the sizes of chunks or compressed bytes without content arrive.
    """

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock))


class _TimedReader(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, connection: socket.socket) -> None:
        self._raw, self._connection = raw, connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = _deadline.get() - time.monotonic()
        if left <= 0:
            raise TimeoutError("it took too long")
        seconds = self._connection.gettimeout()
        if left == math.inf or (seconds is not None and seconds <= left):
            return self._raw.readinto(buffer)
        self._connection.settimeout(left)
        try:
            return self._raw.readinto(buffer)
        finally:
            self._connection.settimeout(seconds)

    def close(self) -> None:
        self._raw.close()
        super().close()
