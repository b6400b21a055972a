"""The development server: one process, one thread per connection, and a limit on waiting connections."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Flask
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

WAITING_SECONDS = 10.0  # from connecting until a client has sent its headers, and from the response until it is gone
MOST_WAITING = 100  # connections that haven't sent a request yet, or have got their response


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # for chunked responses; Werkzeug closes each connection after its response
    server: "DevelopmentServer"

    def run_wsgi(self) -> None:
        self.server.has_asked(self.connection)
        super().run_wsgi()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what isn't valid HTTP; the application never sees it."""
        self.close_connection = True
        self.request_version = self.protocol_version  # HTTP/0.9 responses have no headers
        text = f"{message or 'Bad request'}\n".encode()
        self.send_response(code)
        for name, value in (
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(text))),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)


class DevelopmentServer(ThreadedWSGIServer):
    """Disconnects clients that don't send a request in time, and the oldest one if too many wait.

    While a request is answered, `web/middleware/deadlines.py` limits the time for its body and its response. After the
    response, Werkzeug reads whatever else the client sends, so from then on the connection waits again.
    """

    daemon_threads = True

    def __init__(self, app: Flask, host: str, listening: socket.socket) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, float] = {}  # the deadline; oldest first
        self._application = app
        super().__init__(host, listening.getsockname()[1], self._answer, _Handler, fd=listening.fileno())

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        parts = self._application(environ, start_response)
        try:
            yield from parts
            self._wait_for(environ["werkzeug.socket"])
        finally:
            if hasattr(parts, "close"):
                parts.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._wait_for(request)
        super().process_request(request, client_address)

    def _wait_for(self, connection: socket.socket) -> None:
        with self._lock:
            self._waiting[connection] = time.monotonic() + WAITING_SECONDS
            if len(self._waiting) > MOST_WAITING:
                self._cut_off(next(iter(self._waiting)))

    def service_actions(self) -> None:
        """Disconnects late clients; `serve_forever` calls it regularly."""
        with self._lock:
            late = [one for one, until in self._waiting.items() if time.monotonic() >= until]
            for connection in late:
                self._cut_off(connection)

    def _cut_off(self, connection: socket.socket) -> None:
        del self._waiting[connection]
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # its thread then reads end-of-file and closes it

    def has_asked(self, connection: socket.socket) -> None:
        """Ends the waiting time: from now on, the application limits how long the request may take."""
        with self._lock:
            self._waiting.pop(connection, None)

    def shutdown_request(self, request: Any) -> None:
        self.has_asked(request)
        super().shutdown_request(request)
