"""What requests share, and hold until their answers are sent: threads, and memory for bodies."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import request

from my_backend.web.deadlines import Deadlines, connection_of

WAIT_SECONDS = 0.8  # Label Studio gives an event up after a second
_HELD = "my_backend.held"


class Share:
    """So much of something for all requests together."""

    def __init__(self, size: int) -> None:
        self.size = self._free = size
        self._changed = threading.Condition()

    def hold(self, amount: int = 1) -> bool:
        """Takes as much until the answer to this thread's request is sent; False if there isn't enough in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._free >= amount, WAIT_SECONDS):
                return False
            self._free -= amount
        request.environ[_HELD].callback(self._give_back, amount)
        return True

    def _give_back(self, amount: int) -> None:
        with self._changed:
            self._free += amount
            self._changed.notify_all()


def until_sent(app: WSGIApplication, deadlines: Deadlines) -> WSGIApplication:
    """Around the application: a client that reads its answer slowly still has a thread, so it still counts."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        held = environ[_HELD] = ExitStack()
        environ.pop("wsgi.file_wrapper", None)  # uWSGI would send the file past what is returned here

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
            held.enter_context(deadlines.transferring(connection_of(environ), length, time.monotonic()))
            return start_response(status, headers, *more)

        try:
            return _Answer(app(environ, start), held)
        except BaseException:
            held.close()
            raise

    return answer


class _Answer:
    """An answer's parts; what its request holds is given back with the last of them."""

    def __init__(self, parts: Iterable[bytes], held: ExitStack) -> None:
        self._parts, self._held = parts, held

    def __iter__(self) -> Iterator[bytes]:
        yield from self._parts
        self._held.close()

    def close(self) -> None:
        try:
            if hasattr(self._parts, "close"):
                self._parts.close()
        finally:
            self._held.close()
