"""An HTTP proxy for tests: it answers CONNECT, and leads every connection to one server."""

import socket
import threading
from socketserver import StreamRequestHandler, ThreadingTCPServer


class FakeProxy:
    """Leads all tunnels to `target`, whatever was asked for, and remembers the head of each request.

    With another status than 200, it refuses them.
    """

    def __init__(self, target: tuple[str, int], status: str = "200 Connection established") -> None:
        self.heads: list[str] = []
        outer = self

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                head = b"".join(iter(self.rfile.readline, b"\r\n"))
                outer.heads.append(head.decode())
                self.wfile.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
                if not status.startswith("200"):
                    return
                with socket.create_connection(target) as server:
                    back = threading.Thread(target=_copy, args=(server, self.connection))
                    back.start()
                    _copy(self.connection, server)
                    back.join()

        self._server = ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self.place = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> "FakeProxy":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # the other end has closed it
        pass
