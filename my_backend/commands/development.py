"""The development server: one process, a thread for each connection; as many as it can bear."""

import contextlib
import socket
import threading
import time
from typing import Any

from flask import Flask
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

HEADER_SECONDS = 10.0  # from its connection until a client has asked
MOST_WAITING = 100  # connections that have asked nothing yet


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # for chunked answers; Werkzeug closes each connection after its answer
    timeout = 20.0  # for each read and write; `web/deadlines.py` has the time for all of a body
    server: "DevelopmentServer"

    def run_wsgi(self) -> None:
        self.server.has_asked(self.connection)
        super().run_wsgi()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """For what is no HTTP: the application never sees it."""
        self.close_connection = True
        self.request_version = self.protocol_version  # what it asked for may have no headers
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
    """Cuts off clients that don't ask in time; if too many wait, the one that has waited longest."""

    daemon_threads = True

    def __init__(self, app: Flask, host: str, listening: socket.socket) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, float] = {}  # until when; the oldest first
        super().__init__(host, listening.getsockname()[1], app, _Handler, fd=listening.fileno())

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._waiting[request] = time.monotonic() + HEADER_SECONDS
            if len(self._waiting) > MOST_WAITING:
                self._cut_off(next(iter(self._waiting)))
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called again and again by `serve_forever`."""
        with self._lock:
            late = [one for one, until in self._waiting.items() if time.monotonic() >= until]
            for connection in late:
                self._cut_off(connection)

    def _cut_off(self, connection: socket.socket) -> None:
        del self._waiting[connection]
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # its thread reads an end, and closes it

    def has_asked(self, connection: socket.socket) -> None:
        """From here on the application decides how long it may take."""
        with self._lock:
            self._waiting.pop(connection, None)

    def shutdown_request(self, request: Any) -> None:
        self.has_asked(request)
        super().shutdown_request(request)
