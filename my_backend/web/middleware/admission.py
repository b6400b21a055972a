"""Resources that requests share and hold until their responses are sent: threads, and memory for bodies."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import request

from my_backend.web.middleware.deadlines import Deadlines, connection_of

WAIT_SECONDS = 0.8  # Label Studio gives up on an event after a second
_HELD = "my_backend.held"


class Share:
    """A limited amount of a resource, shared by all requests."""

    def __init__(self, size: int) -> None:
        self.size = self._free = size
        self._changed = threading.Condition()

    def hold(self, amount: int = 1) -> bool:
        """Takes `amount` until this thread's request is answered; False if it isn't available in time."""
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
    """Wraps the application: a client that reads its answer slowly still occupies a thread, so it still counts."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        held = environ[_HELD] = ExitStack()
        environ.pop("wsgi.file_wrapper", None)  # otherwise uWSGI would send the file and bypass what is returned here

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
    """The parts of an answer; after the last one, releases what the request holds."""

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
