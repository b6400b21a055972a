"""The requests of a block to Label Studio, recorded; any of them can fail, hang, or take effect twice.

What comes instead of an answer is what a network, a proxy or a busy server gives: errors before the request takes
effect or after it, pages of HTML, half of a body, answers in another format.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import requests
from urllib3.response import HTTPResponse

from safe_http import session
from testing.fake_label_studio.server import FakeLabelStudio
from testing.http_server import Reply, Seen

Send = Callable[..., requests.Response]
PAGE = b"<html><body>Please try again later</body></html>"
STATUSES = (401, 403, 404, 429, 500, 502, 503)
UNTRUE = ("an empty object", "an empty list")  # only instead of data: no server says that it did what it hasn't done
REFUSALS = ("401", "403", "404")  # which a person has to look at
LASTING = ("refused", "hangs", "503")  # a server that is down or restarts stays so for a while


@dataclass(frozen=True)
class PeerFault:
    """What happens to a request, by its number: one of `WAYS`."""

    at: int
    way: str
    lasting: bool = False  # all later requests, too

    def concerns(self, number: int) -> bool:
        return number == self.at or (self.lasting and number > self.at)


def answered_here(label_studio: FakeLabelStudio) -> Send:
    """Answers requests in the thread that sends them, so trials need no server and wait for nothing."""

    def send(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        body = request.body or b""
        given = body.encode() if isinstance(body, str) else bytes(body)
        seen = Seen(str(request.method), request.path_url, dict(request.headers), given)
        label_studio.server.seen.append(seen)
        return _response(request, label_studio._answer(seen))

    return send


def _response(request: requests.PreparedRequest, reply: Reply, length: int | None = None) -> requests.Response:
    """The reply as `requests` returns it; `length` is that of the whole body if only a part of it came."""
    response = requests.Response()
    response.status_code, response.request, response.url = reply.status, request, str(request.url)
    headers = {**reply.headers, "Content-Length": str(len(reply.body) if length is None else length)}
    response.headers.update(headers)
    response.raw = HTTPResponse(io.BytesIO(reply.body), headers, reply.status, preload_content=False)
    return response


def _before(error: Exception) -> Callable[[Send, Any], requests.Response]:
    def fail(send: Send, request: requests.PreparedRequest) -> requests.Response:
        raise error

    return fail


def _after(error: Exception) -> Callable[[Send, Any], requests.Response]:
    def fail(send: Send, request: requests.PreparedRequest) -> requests.Response:
        send(None, request)
        raise error

    return fail


def _instead(status: int, body: bytes = PAGE, kind: str = "text/html") -> Callable[[Send, Any], requests.Response]:
    return lambda send, request: _response(request, Reply(status, body, {"Content-Type": kind}))


def _bad_gateway_after(send: Send, request: requests.PreparedRequest) -> requests.Response:
    send(None, request)
    return _response(request, Reply(502, PAGE, {"Content-Type": "text/html"}))


def _changed(change: Callable[[bytes], bytes], *, cut: bool = False) -> Callable[[Send, Any], requests.Response]:
    """The answer with another body; if it is cut, its length doesn't match."""

    def answer(send: Send, request: requests.PreparedRequest) -> requests.Response:
        whole = send(None, request)
        body = whole.raw.read()
        reply = Reply(whole.status_code, change(body), {"Content-Type": "text/plain"})
        return _response(request, reply, len(body) if cut else None)

    return answer


def _twice(send: Send, request: requests.PreparedRequest) -> requests.Response:
    send(None, request)
    return send(None, request)


WAYS: dict[str, Callable[[Send, Any], requests.Response]] = {
    "refused": _before(requests.ConnectionError("connection refused")),
    "reset after it": _after(requests.ConnectionError("connection reset by peer")),
    "hangs": _before(requests.ReadTimeout("read timed out")),
    "hangs after it": _after(requests.ReadTimeout("read timed out")),
    **{str(status): _instead(status) for status in STATUSES},
    "502 after it": _bad_gateway_after,
    "a page": _instead(200),
    "an empty object": _instead(200, b"{}", "application/json"),
    "an empty list": _instead(200, b"[]", "application/json"),
    "half of the body": _changed(lambda body: body[: len(body) // 2], cut=True),
    "half of it without a length": _changed(lambda body: body[: len(body) // 2]),
    "no body": _changed(lambda body: b""),
    "another content type": _changed(lambda body: body),
    "twice": _twice,
}


class Requests:
    """The requests to Label Studio in a block."""

    def __init__(self, label_studio: FakeLabelStudio, fault: PeerFault | None = None) -> None:
        self.fault = fault
        self.calls: list[tuple[str, str]] = []
        self.dead = self.hit = False
        self._send = answered_here(label_studio)

    @contextmanager
    def watching(self) -> Iterator["Requests"]:
        """Records the requests of the block, and has them fail."""

        def send(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            number, fault = len(self.calls), self.fault
            self.calls.append((str(request.method), urlsplit(request.path_url).path))
            if fault is None or not fault.concerns(number):
                return self._send(session, request)
            self.hit = True
            return WAYS[fault.way](self._send, request)

        with patch.object(session._Session, "send", send):
            yield self


def faults(calls: Sequence[tuple[str, str]]) -> Iterator[PeerFault]:
    """Every fault of these requests."""
    for way in WAYS:
        for number, (method, _) in enumerate(calls):
            if way not in UNTRUE or method == "GET":
                yield PeerFault(number, way)
            if way in LASTING:
                yield PeerFault(number, way, lasting=True)
