"""An HTTP server on loopback that does as it is told."""

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str  # with the query
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass
class Reply:
    """What to answer; the parts of the body go out with a pause after each."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] | None = None
    pause: float = 0.0
    slow_headers: bool = False  # lets them trickle, too


def json_reply(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


Answer = Callable[[Seen], Reply]


class FakeServer:
    """Answers as `answer` says, and remembers what it was asked; by HTTPS if it has a certificate."""

    def __init__(self, answer: Answer, host: str = "127.0.0.1", certificate: Path | None = None) -> None:
        self.seen: list[Seen] = []
        self.closing = threading.Event()
        self.seconds_ahead = 0.0  # of its clock, as its answers say
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                seen = Seen(self.command, self.path, dict(self.headers), body)
                outer.seen.append(seen)
                reply = answer(seen)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.parts is None:
                    self.send_header("Content-Length", str(len(reply.body)))
                if reply.slow_headers:
                    self.flush_headers()
                    self._send(Reply(parts=[b"X-Trickle: x\r\n"] * 90, pause=reply.pause))
                self.end_headers()
                self._send(reply)

            def _send(self, reply: Reply) -> None:
                try:
                    for part in reply.parts or [reply.body]:
                        self.wfile.write(part)
                        if outer.closing.wait(reply.pause):
                            return
                except OSError:
                    self.close_connection = True  # the client had enough

            do_GET = do_HEAD = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string((timestamp or time.time()) + outer.seconds_ahead)

            def log_message(self, *args: object) -> None:
                """Nothing is to be printed."""

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = False
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.host = f"{host}:{self.port}"
        self.url = f"http://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> "FakeServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def paths(self) -> list[str]:
        return [seen.path for seen in self.seen]
