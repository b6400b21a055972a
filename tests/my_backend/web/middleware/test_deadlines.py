import socket
import time
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest

from my_backend.errors import BadRequest, TooSlow
from my_backend.web.middleware.deadlines import BYTES_PER_SECOND, GRACE_SECONDS, Deadlines, TimedInput


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end of a connection, and the client's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(20)
        yield ours, theirs


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True


def test_connection_is_cut_off_once_its_time_is_over(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    deadlines, begun = Deadlines(), time.monotonic()

    with deadlines.transferring(ours.fileno(), 5 * BYTES_PER_SECOND, begun):
        deadlines.enforce(begun + GRACE_SECONDS + 4)
        assert is_open(theirs)
        deadlines.enforce(begun + GRACE_SECONDS + 6)
        assert not is_open(theirs)


def test_connection_is_left_alone_after_its_transfer(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    deadlines, begun = Deadlines(), time.monotonic()

    with deadlines.transferring(ours.fileno(), 0, begun):
        pass
    deadlines.enforce(begun + 1000)

    assert is_open(theirs)


def test_slow_body_ends_the_wait_for_it_and_can_be_answered(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("my_backend.web.middleware.deadlines.GRACE_SECONDS", 0.05)
    monkeypatch.setattr("my_backend.web.middleware.deadlines.LOOK_SECONDS", 0.01)
    ours, theirs = pair
    theirs.sendall(b"{")
    with ours.makefile("rb") as stream:
        body = TimedInput({"wsgi.input": stream, "werkzeug.socket": ours}, Deadlines(), lambda arrived: None)

        with pytest.raises(TooSlow, match="only 1 bytes arrived"):
            while True:
                body.read(1000)

    ours.sendall(b"408")
    assert theirs.recv(3) == b"408"


def test_body_that_is_cut_short_is_no_body() -> None:
    arrived: list[int] = []
    body = TimedInput({"wsgi.input": BytesIO(b"{}")}, Deadlines(), arrived.append)

    assert body.read(10) == b"{}"
    with pytest.raises(BadRequest, match="ended after 2 bytes"):
        body.read(8)
    assert arrived == [2]


def test_body_whose_connection_breaks_is_cut_short() -> None:
    class Broken:
        def read(self, size: int) -> Any:
            raise OSError("error during read")

    with pytest.raises(BadRequest, match="ended after 0 bytes"):
        TimedInput({"wsgi.input": Broken()}, Deadlines(), lambda arrived: None).read(8)
