"""Each request has an id, a line in the log, and is counted."""

import logging
import re
import time
from collections.abc import Iterable
from secrets import token_hex
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask, Response, request

from my_backend import context
from my_backend.metrics.counters import RequestCounts
from my_backend.redaction import shortened

log = logging.getLogger(__name__)

LOGGED_PATH = 500  # characters; ours are shorter

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def with_request_id(app: WSGIApplication) -> WSGIApplication:
    """Around everything, so that each line and each answer has it; a caller's own id goes on."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        given = str(environ.get("HTTP_X_REQUEST_ID", ""))
        request_id = given if _REQUEST_ID.fullmatch(given) else token_hex(8)

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, [*headers, ("X-Request-ID", request_id)], *more)

        with context.working_for(request_id=request_id):
            return app(environ, start)

    return answer


def account(app: Flask, counts: RequestCounts) -> None:
    """Every request, those too that are refused."""

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
    """One line a request; those that only look and find what they look for are many, and seldom of interest."""
    level = logging.DEBUG if request.method in ("GET", "HEAD") and status < 400 else logging.INFO
    milliseconds = round(seconds * 1000, 1)
    path = shortened(request.path, LOGGED_PATH)
    fields = {"method": request.method, "path": path, "status": status, "milliseconds": milliseconds}
    text = "%s %s: %s in %.1f ms"
    log.log(level, text, request.method, path, status, milliseconds, extra={"fields": fields})


def _method() -> str:
    """Anybody may make one up."""
    return request.method if request.method in ("GET", "HEAD", "POST", "OPTIONS") else "other"
