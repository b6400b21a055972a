import socket
import sys
import threading
import time
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest

from my_backend.errors import BadRequest, TooSlow
from my_backend.web.middleware import deadlines as deadlines_module
from my_backend.web.middleware.deadlines import BYTES_PER_SECOND, GRACE_SECONDS, Deadlines, TimedInput, connection_of
from testing.waiting import eventually
from tests.my_backend.web.middleware.conftest import Pair, is_open


def test_connection_is_cut_off_once_its_time_is_over(pair: Pair) -> None:
    ours, theirs = pair
    deadlines, begun = Deadlines(), time.monotonic()

    with deadlines.transferring(ours.fileno(), 5 * BYTES_PER_SECOND, begun):
        deadlines.enforce(begun + GRACE_SECONDS + 4)
        assert is_open(theirs)
        deadlines.enforce(begun + GRACE_SECONDS + 6)
        assert not is_open(theirs)


def test_connection_is_left_alone_after_its_transfer(pair: Pair) -> None:
    ours, theirs = pair
    deadlines, begun = Deadlines(), time.monotonic()

    with deadlines.transferring(ours.fileno(), 0, begun):
        pass
    deadlines.enforce(begun + 1000)

    assert is_open(theirs)


def test_all_late_connections_are_cut_off_even_if_one_is_closed_already(pair: Pair) -> None:
    ours, theirs = pair
    deadlines, begun = Deadlines(), time.monotonic()
    with socket.socket() as closed:
        gone = closed.fileno()

    with deadlines.transferring(gone, 0, begun), deadlines.transferring(ours.fileno(), 0, begun):
        deadlines.enforce(begun + 1000)

    assert not is_open(theirs)


def test_thread_ends_with_the_last_transfer_and_starts_again_with_the_next(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines_module, "LOOK_SECONDS", 0.01)
    ours, theirs = pair
    deadlines = Deadlines()
    others = set(threading.enumerate())
    with deadlines.transferring(ours.fileno(), 0, time.monotonic()):
        [thread] = set(threading.enumerate()) - others
    assert eventually(lambda: not thread.is_alive())

    with deadlines.transferring(ours.fileno(), 0, time.monotonic() - 1000):
        assert eventually(lambda: not is_open(theirs))


def test_connection_is_known_to_uwsgi(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connection_of({}) is None
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(connection_fd=lambda: 7))
    assert connection_of({}) == 7


class Arriving:
    """A body whose parts each take some seconds to arrive, on a clock of its own, until the connection is cut off."""

    def __init__(self, connection: socket.socket, deadlines: Deadlines, seconds: float, part: bytes) -> None:
        self.now = 0.0
        self._connection, self._deadlines, self._seconds, self._part = connection, deadlines, seconds, part

    def read(self, size: int) -> bytes:
        self.now += self._seconds
        self._deadlines.enforce(self.now)
        return self._part[:size] if not is_cut_off(self._connection) else b""


def is_cut_off(server: socket.socket) -> bool:
    """Whether the server's end can receive nothing more."""
    try:
        return server.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


def body_arriving(ours: socket.socket, seconds: float, part: bytes, monkeypatch: pytest.MonkeyPatch) -> TimedInput:
    deadlines = Deadlines()
    stream = Arriving(ours, deadlines, seconds, part)
    clock = SimpleNamespace(monotonic=lambda: stream.now, sleep=time.sleep)
    monkeypatch.setattr(deadlines_module, "time", clock)
    return TimedInput({"wsgi.input": stream, "werkzeug.socket": ours}, deadlines, lambda arrived: None)


def test_parts_of_a_body_have_one_deadline_together(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    body = body_arriving(pair[0], GRACE_SECONDS / 4, b"a", monkeypatch)

    with pytest.raises(TooSlow, match="only 4 bytes arrived"):
        for _ in range(100):
            body.read(1000)


def test_large_body_that_arrives_fast_enough_has_time_for_all_its_parts(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = bytes(BYTES_PER_SECOND)
    body = body_arriving(pair[0], 0.9, part, monkeypatch)

    for _ in range(100):
        assert body.read(len(part)) == part


def test_slow_body_ends_the_wait_for_it_and_can_be_answered(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
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
