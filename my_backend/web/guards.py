"""Who is let in: by the password, from which pages, and as many as leave threads for predictions."""

import hmac
import threading
from collections.abc import Callable

from flask import Flask, Response, jsonify, request

from my_backend.page.routes import refused, wants_page
from my_backend.protocol.wire import Json
from my_backend.web.refusals import refusal

# They need no disk but that of CACHE_DIR.
FROM_MEMORY = ("/health", "/ready", "/setup", "/predict", "/api/models/predict")
# What Label Studio, Prometheus and probes ask, by whatever name they know this machine; no title or picture is in it.
FOR_PROGRAMS = ("/health", "/ready", "/metrics", "/versions", "/openapi.json")
OTHERS_AT_ONCE = 16  # half of uWSGI's threads
OTHERS_WAIT_SECONDS = 0.8  # Label Studio gives an event up after a second


def guard(app: Flask, basic_auth: tuple[str, str] | None, event_refused: Callable[[], None]) -> None:
    """Asks for the password where one is set, and refuses pages of other sites."""

    @app.before_request
    def check_password() -> Response | None:
        if basic_auth is None or request.path == "/ready":
            return None
        given = request.authorization
        user, password = (given.username or "", given.password or "") if given else ("", "")
        right = hmac.compare_digest(user.encode(), basic_auth[0].encode())
        if hmac.compare_digest(password.encode(), basic_auth[1].encode()) and right:
            return None
        if given is None and request.path == "/webhook":
            event_refused()
        answer = jsonify(refusal("this backend wants a password: connect as http://user:password@host:port"))
        answer.status_code = 401
        answer.headers["WWW-Authenticate"] = 'Basic realm="image classifier"'
        return answer

    @app.before_request
    def check_origin() -> tuple[Json, int] | None:
        # Browsers name the page that sends a form; Label Studio and programs send no Origin.
        origin = request.headers.get("Origin")
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return None
        if origin is None and request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
            return None
        if origin is None or origin.partition("://")[2] != _host():
            return refusal(f"requests from pages of other sites ({(origin or 'not named')[:100]}) are refused"), 403
        return (refusal(_name_refused()), 403) if anyones_page() else None

    @app.before_request
    def check_name() -> Response | tuple[Json, int] | None:
        # A browser takes a page under such a name for ours: it may read every answer, and names no page when it reads.
        if request.method not in ("GET", "HEAD") or not anyones_page():
            return None
        if request.path in FOR_PROGRAMS or request.endpoint == "page.static":
            return None
        said = _name_refused()
        return refused(said) if wants_page() else (refusal(said), 403)

    def anyones_page() -> bool:
        return basic_auth is None and _anyone_may_own(_host())


def _host() -> str:
    """As the browser names it: werkzeug's `request.host` is empty where a name has an underscore."""
    return request.headers.get("Host", "").removesuffix(":80")


def _name_refused() -> str:
    said = f"pages under a name like {_host()[:100]}, which anyone may own, are refused where no password is set"
    return f"{said}: set BASIC_AUTH_USER and BASIC_AUTH_PASS, or use this machine's address"


def _anyone_may_own(host: str) -> bool:
    """Whether it is a name that its owner can bind to this machine's address, so that his page passes for ours.

    An address is none, nor is a name without a dot (`localhost`, or a service of compose).
    """
    name = host.rpartition(":")[0] or host
    if name.startswith("[") or name.replace(".", "").isdigit():
        return False
    return "." in name.rstrip(".")


def keep_threads_for_predictions(app: Flask) -> None:
    """Where the disk of MODEL_DIR hangs, what waits for it must not take all of uWSGI's threads."""
    others = threading.BoundedSemaphore(OTHERS_AT_ONCE)

    @app.before_request
    def enter() -> tuple[Json, int] | None:
        if request.path in FROM_MEMORY:
            return None
        if not others.acquire(timeout=OTHERS_WAIT_SECONDS):
            return refusal(f"{OTHERS_AT_ONCE} requests wait already: does the disk of MODEL_DIR answer?"), 503
        request.environ["my_backend.entered"] = True
        return None

    @app.teardown_request
    def leave(error: BaseException | None) -> None:
        if request.environ.pop("my_backend.entered", False):
            others.release()
