"""Access control: the password, requests from other sites, and how many requests run at once."""

import hmac
from base64 import b64decode
from collections.abc import Callable
from ipaddress import ip_address

from flask import Flask, Response, jsonify, request

from my_backend.errors import Forbidden
from my_backend.settings import LOOPBACK, Settings
from my_backend.web.bodies import Json
from my_backend.web.browser import wants_page
from my_backend.web.middleware.admission import Share
from my_backend.web.middleware.error_handlers import refusal

PROBES = ("/health", "/ready")  # small answers from memory: always a thread for them
# They need only the disk of CACHE_DIR.
FROM_MEMORY = ("/setup", "/predict", "/api/models/predict")
# Requested by Label Studio, Prometheus and probes under any host name; they contain no titles and no images.
FOR_PROGRAMS = ("/health", "/ready", "/metrics", "/versions", "/openapi.json")
# Both together are fewer than uWSGI's threads.
FROM_MEMORY_AT_ONCE = 40
OTHERS_AT_ONCE = 16


# Headers that proxies add to a request; others start with FORWARDED_PREFIXES.
FORWARDED = {"Forwarded", "Via", "True-Client-Ip"}
FORWARDED_PREFIXES = ("X-Forwarded", "X-Real-", "X-Client-", "X-Original-", "X-Cluster-", "X-Envoy-", "X-Proxy", "Cf-")


def guard(
    app: Flask,
    basic_auth: tuple[str, str] | None,
    event_refused: Callable[[], None],
    came_through_proxy: Callable[[], None],
    refusing_page: Callable[[str], Response],
) -> None:
    """Requires the password if one is set, and refuses requests from pages of other sites.

    `refusing_page` renders the page that tells a person why.
    """

    @app.before_request
    def look_for_proxy() -> None:
        if is_forwarded():
            came_through_proxy()

    @app.before_request
    def check_password() -> Response | None:
        if basic_auth is None or request.path == "/ready":
            return None
        given = _given_password()
        user, password = given or ("", "")
        right = hmac.compare_digest(user.encode(), basic_auth[0].encode())
        if hmac.compare_digest(password.encode(), basic_auth[1].encode()) and right:
            return None
        if given is None and request.path == "/webhook":
            event_refused()
        answer = jsonify(refusal("this backend requires a password: connect as http://user:password@host:port"))
        answer.status_code = 401
        answer.headers["WWW-Authenticate"] = 'Basic realm="image classifier"'
        return answer

    @app.before_request
    def check_origin() -> tuple[Json, int] | None:
        # Browsers say which page sends a form; Label Studio and other programs send no Origin.
        origin = request.headers.get("Origin")
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return None
        if origin is None and request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
            return None
        # Some proxies add the port, which browsers leave out.
        own = (requested_host(), requested_host().removesuffix(":443"))
        if origin is None or origin.partition("://")[2] not in own:
            return refusal(f"requests from other sites' pages ({(origin or 'unknown')[:100]}) are refused"), 403
        return (refusal(_name_refused()), 403) if anyones_page() else None

    @app.before_request
    def check_name() -> Response | tuple[Json, int] | None:
        # The browser treats a page with such a name as ours: it may read every answer, without sending an Origin.
        if request.method not in ("GET", "HEAD") or not anyones_page():
            return None
        if request.path in FOR_PROGRAMS or request.endpoint == "page.static":
            return None
        said = _name_refused()
        return refusing_page(said) if wants_page() else (refusal(said), 403)

    def anyones_page() -> bool:
        return basic_auth is None and _anyone_may_own(requested_host())


def _given_password() -> tuple[str, str] | None:
    """The user and password of the request; None if it has none.

    Browsers and curl encode them in UTF-8. Label Studio does so in Latin-1, as Python's requests does by default.
    """
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        given = b64decode(encoded.strip(), validate=True)
    except ValueError:  # werkzeug's `request.authorization` fails if this isn't ASCII
        return None
    try:
        text = given.decode()
    except UnicodeDecodeError:
        text = given.decode("latin-1")
    user, colon, password = text.partition(":")
    return (user, password) if colon else None


def is_forwarded() -> bool:
    """Whether a proxy's headers say that it forwards the request for someone else."""
    names = {name.title() for name, _ in request.headers}
    return not names.isdisjoint(FORWARDED) or any(name.startswith(FORWARDED_PREFIXES) for name in names)


def is_known(settings: Settings) -> bool:
    """Whether the caller has sent the password, or must be on this machine because nobody else can call."""
    return settings.trusts_setup and (settings.basic_auth is not None or is_from_this_machine())


def require_token(settings: Settings, token: str) -> None:
    """Raises Forbidden if the caller is unknown and sends no token; Label Studio decides whether a token is valid."""
    if not (is_known(settings) or token):
        raise Forbidden(
            "this request needs this backend's password or your own Label Studio token: send your personal access "
            'token as "token", or have the operator set BASIC_AUTH_USER and BASIC_AUTH_PASS'
        )


def require_known(settings: Settings) -> None:
    """Raises Forbidden if the caller is unknown."""
    if not is_known(settings):
        raise Forbidden(
            "this request needs the backend's password: set BASIC_AUTH_USER and BASIC_AUTH_PASS, or send the request "
            "from the machine that the backend runs on"
        )


def is_from_this_machine() -> bool:
    """Whether the request was made by a program on this machine, and not by a proxy on it for someone else.

    A proxy that sends no headers is detected by the requested host name, or by nginx's HTTP/1.0.
    """
    peer = request.remote_addr or ""
    direct = request.environ.get("SERVER_PROTOCOL") != "HTTP/1.0" and not is_forwarded()
    host = requested_host()
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return direct and _is_loopback(peer) and _is_loopback(name)


def _is_loopback(host: str) -> bool:
    if host in LOOPBACK:
        return True
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def requested_host() -> str:
    """The host as the browser names it: werkzeug's `request.host` is empty if the name has an underscore."""
    return request.headers.get("Host", "").removesuffix(":80")


def _name_refused() -> str:
    said = f"no password is set, so requests for a public host name such as {requested_host()[:100]} are refused"
    return f"{said}: set BASIC_AUTH_USER and BASIC_AUTH_PASS, or use this machine's IP address"


def _anyone_may_own(host: str) -> bool:
    """Whether someone could own this host name and point it at this machine, to make their page pass for ours.

    This isn't possible for an IP address, or a name without a dot (`localhost`, a compose service).
    """
    name = host.rpartition(":")[0] or host
    if name.startswith("[") or name.replace(".", "").isdigit():
        return False
    return "." in name.rstrip(".")


def keep_threads_free(app: Flask) -> None:
    """Keeps threads free for predictions if the disk of MODEL_DIR hangs, and for probes if clients are slow."""
    from_memory, others = Share(FROM_MEMORY_AT_ONCE), Share(OTHERS_AT_ONCE)

    @app.before_request
    def enter() -> tuple[Json, int] | None:
        if request.path in PROBES:
            return None
        share, why = (
            (from_memory, "are clients or image servers slow?")
            if request.path in FROM_MEMORY
            else (others, "is the disk of MODEL_DIR responding?")
        )
        return None if share.hold() else (refusal(f"{share.size} requests are already in progress: {why}"), 503)
