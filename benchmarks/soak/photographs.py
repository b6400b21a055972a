"""Photographs that nobody has seen yet, as many as are asked for, and a file that is none."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.photographs import write_photographs

BASES = 20
BROKEN = "/broken.jpg"


class Photographs:
    """1280×960 JPEGs on a web server. Each address has its own content: some bytes behind the image differ."""

    def __init__(self, folder: Path) -> None:
        self._images = [(folder / name).read_bytes() for name, _ in write_photographs(folder, BASES)]
        self._numbers = itertools.count()

    @contextmanager
    def served(self) -> Iterator[None]:
        images = self._images

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.encode()
                body = b"no image" if self.path == BROKEN else images[sum(name) % BASES] + name
                self.send_response(200)
                self.send_header("Content-Type", "image/jpeg")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Nothing is to be printed."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.host = f"127.0.0.1:{server.server_port}"
            yield
            server.shutdown()

    def unseen(self) -> str:
        """An address whose content nobody has asked for."""
        return f"http://{self.host}/{next(self._numbers)}.jpg"

    def broken(self) -> str:
        """An address whose content is no image."""
        return f"http://{self.host}{BROKEN}"
