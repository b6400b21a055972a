"""Clients that read their answers slowly, and what requests hold until then."""

import socket
import time
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from my_backend.web.middleware.admission import until_sent
from my_backend.web.middleware.deadlines import BYTES_PER_SECOND, GRACE_SECONDS, Deadlines
from tests.my_backend.web.middleware.conftest import Pair, is_open

LENGTH = 5 * BYTES_PER_SECOND


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("content-length", str(LENGTH))])
    if environ.get("fails"):
        raise RuntimeError("a bug")
    return [bytes(LENGTH)]


def ask(ours: socket.socket, deadlines: Deadlines, **given: Any) -> Any:
    environ = {"werkzeug.socket": ours, **given}
    return until_sent(app, deadlines)(environ, lambda *arguments: lambda data: None)


def test_client_that_reads_its_answer_slowly_is_cut_off(pair: Pair) -> None:
    ours, theirs = pair
    deadlines = Deadlines()
    now = time.monotonic()
    answer = ask(ours, deadlines)

    deadlines.enforce(now + GRACE_SECONDS + 4)
    assert is_open(theirs)
    deadlines.enforce(now + GRACE_SECONDS + 6)
    assert not is_open(theirs)
    answer.close()


def test_connection_is_left_alone_once_its_answer_is_sent(pair: Pair) -> None:
    ours, theirs = pair
    deadlines = Deadlines()

    ask(ours, deadlines).close()
    deadlines.enforce(time.monotonic() + 1000)
    assert is_open(theirs)


def test_connection_of_a_request_that_failed_is_left_alone(pair: Pair) -> None:
    ours, theirs = pair
    deadlines = Deadlines()

    with pytest.raises(RuntimeError) as failed:
        ask(ours, deadlines, fails=True)

    deadlines.enforce(time.monotonic() + 1000)
    assert is_open(theirs)
    assert failed.tb is not None, "frees nothing that only garbage collection would free"


def test_server_sends_no_file_on_its_own(pair: Pair) -> None:
    """What the answer holds would be released before the file is sent."""
    seen: list[WSGIEnvironment] = []

    def look(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ)
        return app(environ, start_response)

    environ = {"werkzeug.socket": pair[0], "wsgi.file_wrapper": iter}
    until_sent(look, Deadlines())(environ, lambda *arguments: lambda data: None).close()

    assert "wsgi.file_wrapper" not in seen[0]
