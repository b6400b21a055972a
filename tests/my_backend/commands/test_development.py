import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from flask import Flask, request
from werkzeug.serving import ThreadedWSGIServer

from my_backend.commands import development
from my_backend.commands.development import DevelopmentServer
from testing.waiting import eventually

Connect = Callable[[bytes], socket.socket]


@pytest.fixture
def held() -> threading.Event:
    """What a request for /held waits for."""
    return threading.Event()


@pytest.fixture
def connect(held: threading.Event) -> Iterator[Connect]:
    """Connects to a server, and sends something."""
    app = Flask(__name__)

    @app.get("/<path>")
    def answer(path: str) -> str:
        if path == "held":
            held.wait(60)
        return request.path

    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server = stack.enter_context(DevelopmentServer(app, "127.0.0.1", listening))
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        stack.callback(held.set)

        def connect(said: bytes) -> socket.socket:
            client = stack.enter_context(socket.create_connection(listening.getsockname(), timeout=20))
            client.sendall(said)
            return client

        yield connect


def answer_to(client: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    with client.makefile("rb") as answer:
        return answer.read()


def is_cut_off(client: socket.socket) -> bool:
    """Sends one more byte; whether the server has closed the connection."""
    try:
        client.sendall(b"a")
    except OSError:
        return True
    return False


def asked(path: str) -> bytes:
    return f"GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def test_client_that_asks_nothing_in_time_is_cut_off(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(development, "WAITING_SECONDS", 0.05)

    assert answer_to(connect(b"")) == b""
    assert answer_to(connect(b"GET /a HT")) == b""


def test_client_that_sends_its_header_byte_by_byte_is_cut_off(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(development, "WAITING_SECONDS", 0.05)
    client = connect(b"GET /a HTTP/1.1\r\nX-A: ")

    assert eventually(lambda: is_cut_off(client))


def test_request_that_is_being_answered_takes_as_long_as_it_needs(
    connect: Connect, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(development, "WAITING_SECONDS", 1.0)  # enough to read a request, even on a busy machine
    client = connect(asked("held"))
    answer_to(connect(b""))  # is cut off, so the other one's time is over too

    held.set()

    assert answer_to(client).endswith(b"\r\n\r\n/held")


def test_client_that_sends_more_than_its_request_is_cut_off(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(development, "WAITING_SECONDS", 1.0)  # enough to read a request, even on a busy machine
    assert answer_to(connect(asked("a") + asked("b") * 1000)).endswith(b"\r\n\r\n/a")


def test_client_that_never_stops_sending_is_cut_off(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(development, "WAITING_SECONDS", 0.05)
    client = connect(asked("a"))

    assert eventually(lambda: is_cut_off(client))


def test_the_longest_waiting_client_makes_room_for_the_newest(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(development, "MOST_WAITING", 3)
    silent = [connect(b"") for _ in range(3)]

    assert answer_to(connect(asked("probe"))).endswith(b"/probe")

    assert answer_to(silent[0]) == b""
    for client in silent[1:]:
        client.sendall(asked("late"))
        assert answer_to(client).endswith(b"/late")


def test_client_that_has_left_takes_no_place_among_those_that_wait(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(development, "MOST_WAITING", 2)
    silent = connect(b"")

    for _ in range(3):
        client = connect(b"")
        client.shutdown(socket.SHUT_WR)
        assert answer_to(client) == b""

    silent.sendall(asked("late"))
    assert answer_to(silent).endswith(b"/late")


def test_connection_that_is_broken_already_is_cut_off_without_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(development, "WAITING_SECONDS", 0)
    monkeypatch.setattr(ThreadedWSGIServer, "process_request", lambda *arguments: None)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        DevelopmentServer(Flask(__name__), "127.0.0.1", listening) as server,
        socket.socket() as broken,
    ):
        server.process_request(broken, ("127.0.0.1", 1))

        server.service_actions()


def test_what_is_no_http_is_refused_as_everything_else(connect: Connect) -> None:
    for nonsense in (b"NONSENSE\r\n\r\n", b"GET /a HTTP/9.9\r\n\r\n", b"GET /a b c HTTP/1.1\r\n\r\n"):
        answer = answer_to(connect(nonsense))

        assert b"X-Content-Type-Options: nosniff" in answer
        assert b"Cache-Control: no-store" in answer
