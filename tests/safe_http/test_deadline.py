"""Servers that send without end what isn't the body: each byte comes before the socket's own timeout."""

import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress

import pytest
import requests

from safe_http.session import Limits, SafeSession, read_body

PATIENCE = 30  # seconds: much more than a busy machine needs, and much less than what must not be waited for
PAUSE = 0.02
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

Serve = Callable[[bytes, bytes], str]


def flushed() -> bytes:
    """The beginning of a compressed body, without content."""
    packer = zlib.compressobj(wbits=31)
    return packer.compress(b"") + packer.flush(zlib.Z_SYNC_FLUSH)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server for one request: it sends the first bytes once, and the others again and again."""
    over = threading.Event()

    def answer(listener: socket.socket, once: bytes, again: bytes) -> None:
        end = time.monotonic() + 2 * PATIENCE
        with suppress(OSError), listener.accept()[0] as client:
            client.recv(65536)
            client.sendall(once)
            while not over.wait(PAUSE) and time.monotonic() < end:
                client.sendall(again)

    with ExitStack() as stack:

        def serve(once: bytes, again: bytes) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(PATIENCE)  # if no request comes before its deadline
            thread = threading.Thread(target=answer, args=(listener, once, again))
            thread.start()
            stack.callback(thread.join)
            return f"http://127.0.0.1:{listener.getsockname()[1]}/"

        yield serve
        over.set()


@pytest.mark.parametrize(
    ("once", "again"),
    [
        pytest.param(b"HTTP/1.1 200 O", b"K", id="status"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: ", b"x", id="header"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="continue"),
        pytest.param(CHUNKED, b"0", id="size of a chunk"),
        pytest.param(CHUNKED + b"1\r\nx\r\n0\r\n", b"X: x\r\n", id="trailer"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + flushed(), b"\0\0\0\xff\xff", id="nothing"),
    ],
)
def test_answer_without_end_is_given_up_at_the_deadline(serve: Serve, once: bytes, again: bytes) -> None:
    begun = time.monotonic()
    deadline = begun + 0.5

    with closing(SafeSession(["127.0.0.1"])) as session, pytest.raises(requests.Timeout):
        response = session.request("GET", serve(once, again), limits=Limits(PATIENCE, PATIENCE), deadline=deadline)
        read_body(response, max_bytes=1000, deadline=deadline)

    assert time.monotonic() - begun < PATIENCE
