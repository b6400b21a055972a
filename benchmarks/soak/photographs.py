"""New photographs, as many as requested, and a file that isn't an image."""

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
    """1280×960 JPEGs on a web server. Each URL has its own content: some bytes after the image differ."""

    def __init__(self, folder: Path) -> None:
        self._images = [(folder / name).read_bytes() for name, _ in write_photographs(folder, BASES)]
        self._numbers = itertools.count()

    @contextmanager
    def served(self) -> Iterator[None]:
        images = self._images

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.encode()
                body = b"not an image" if self.path == BROKEN else images[sum(name) % BASES] + name
                self.send_response(200)
                self.send_header("Content-Type", "image/jpeg")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Prints nothing."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.host = f"127.0.0.1:{server.server_port}"
            yield
            server.shutdown()

    def unseen(self) -> str:
        """A URL whose content hasn't been requested yet."""
        return f"http://{self.host}/{next(self._numbers)}.jpg"

    def broken(self) -> str:
        """A URL whose content isn't an image."""
        return f"http://{self.host}{BROKEN}"
