"""Gives each request an id and a line in the log, and counts it."""

import logging
import re
import time
from collections.abc import Iterable
from secrets import token_hex
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask, Response, request

from my_backend import context
from my_backend.counters.in_process import RequestCounts
from safe_http.redaction import shortened

log = logging.getLogger(__name__)

LOGGED_PATH = 500  # characters; the backend's own paths are shorter

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def with_request_id(app: WSGIApplication) -> WSGIApplication:
    """Wraps everything, so that each log line and each answer has the id; keeps an id that the caller sends."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        given = str(environ.get("HTTP_X_REQUEST_ID", ""))
        request_id = given if _REQUEST_ID.fullmatch(given) else token_hex(8)

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, [*headers, ("X-Request-ID", request_id)], *more)

        with context.working_for(request_id=request_id):
            return app(environ, start)

    return answer


def account(app: Flask, counts: RequestCounts) -> None:
    """Counts and logs every request, including refused ones."""

    @app.before_request
    def begin() -> None:
        request.environ["my_backend.begin"] = time.perf_counter()
        counts.in_progress.inc()

    @app.after_request
    def end(response: Response) -> Response:
        spent = time.perf_counter() - request.environ["my_backend.begin"]
        endpoint = request.url_rule.rule if request.url_rule else "unknown"
        counts.requests.labels(endpoint, _method(), str(response.status_code)).inc()
        counts.seconds.labels(endpoint).observe(spent)
        _tell(response.status_code, spent)
        return response

    @app.teardown_request
    def leave(error: BaseException | None) -> None:
        counts.in_progress.dec()


def _tell(status: int, seconds: float) -> None:
    """One line per request; successful reads are frequent and rarely interesting, so they are logged as DEBUG."""
    level = logging.DEBUG if request.method in ("GET", "HEAD") and status < 400 else logging.INFO
    milliseconds = round(seconds * 1000, 1)
    path = shortened(request.path, LOGGED_PATH)
    fields = {"method": request.method, "path": path, "status": status, "milliseconds": milliseconds}
    text = "%s %s: %s in %.1f ms"
    log.log(level, text, request.method, path, status, milliseconds, extra={"fields": fields})


def _method() -> str:
    """The method, or "other" because clients can make methods up."""
    return request.method if request.method in ("GET", "HEAD", "POST", "OPTIONS") else "other"
