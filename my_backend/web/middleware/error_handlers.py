"""Every error without a traceback: as a page to browsers that open an address, as JSON to everyone else."""

import logging
from collections.abc import Callable

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from my_backend import context, files
from my_backend.counters.in_process import RequestCounts
from my_backend.errors import BackendError
from my_backend.web.bodies import Json
from my_backend.web.browser import wants_page
from safe_http.redaction import shortened

log = logging.getLogger(__name__)


def handle_errors(app: Flask, counts: RequestCounts, error_page: Callable[[str], Response]) -> None:
    """Turns exceptions into answers; counts the unexpected ones. `error_page` renders the page for a person."""

    def answer(said: str) -> Response | Json:
        if request.method == "GET" and wants_page():
            try:
                return error_page(said)
            except Exception:
                log.exception("can't render the error page")
        return refusal(said)

    @app.errorhandler(BackendError)
    def expected(error: BackendError) -> tuple[Response | Json, int]:
        if error.status >= 500:
            log.warning("%s %s: %s", request.method, request.path, error)
        return answer(str(error)), error.status

    @app.errorhandler(HTTPException)
    def http(error: HTTPException) -> tuple[Response | Json, int, dict[str, str]]:
        headers = {"Allow": ", ".join(sorted(error.valid_methods or ()))} if isinstance(error, MethodNotAllowed) else {}
        said = f"{error.name}: {request.method} {shortened(request.path, 200)}"
        return answer(said), error.code or 500, headers

    @app.errorhandler(OSError)
    def unwritten(error: OSError) -> tuple[Response | Json, int]:
        if error.errno not in files.DISK_ERRORS:
            return unexpected(error)
        log.warning("%s %s: %s", request.method, request.path, error)
        said = f"can't write to MODEL_DIR or CACHE_DIR ({error.strerror}): free up disk space and resend the request"
        return answer(said), 507

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> tuple[Response | Json, int]:
        counts.errors.inc()
        log.exception("%s %s failed", request.method, request.path)
        return answer("unexpected error; see the backend's log"), 500


def refusal(error: str) -> Json:
    """The body of an error: what is wrong, and the request id to find its lines in the log."""
    return {"error": error, "request_id": context.ids().get("request_id", "")}
