"""The development server: one process, one thread per connection, and a limit on waiting connections."""

import contextlib
import socket
import threading
import time
from typing import Any

from flask import Flask
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

HEADER_SECONDS = 10.0  # from connecting until a client has sent its request headers
MOST_WAITING = 100  # connections that haven't sent a request yet


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # for chunked responses; Werkzeug closes each connection after its response
    timeout = 20.0  # for each read and write; `web/middleware/deadlines.py` limits the time for a whole body
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
    """Disconnects clients that don't send a request in time, and the oldest one if too many wait."""

    daemon_threads = True

    def __init__(self, app: Flask, host: str, listening: socket.socket) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, float] = {}  # the deadline; oldest first
        super().__init__(host, listening.getsockname()[1], app, _Handler, fd=listening.fileno())

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._waiting[request] = time.monotonic() + HEADER_SECONDS
            if len(self._waiting) > MOST_WAITING:
                self._cut_off(next(iter(self._waiting)))
        super().process_request(request, client_address)

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
