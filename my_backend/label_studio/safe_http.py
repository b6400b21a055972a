"""HTTP to places that task data names: only where it may go, within limits, the token only to its own origin."""

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from importlib.metadata import version
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProtocolError, ReadTimeoutError

from my_backend.redaction import said

POOL_SIZE = 32

# Where clouds hand credentials and settings to whoever asks from inside: never, whatever is allowed otherwise.
_METADATA = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",  # nearly all clouds
        "fe80::/10",  # the same in IPv6, OpenStack among them
        "fd00:ec2::/32",  # AWS
        "fd20:ce::/32",  # Google
        "fd00:c1::/32",  # Oracle
        "fd00:42::/32",  # Scaleway
        "fd00:a9fe:a9fe::/48",  # Akamai
        "100.100.100.200/32",  # Alibaba
        "192.0.0.192/32",  # Oracle
        "168.63.129.16/32",  # Azure
    )
)
# IPv6 networks whose addresses end in the IPv4 address that is meant: compatible, translated, NAT64
_OF_IPV4 = tuple(ipaddress.ip_network(network) for network in ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96"))
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
_ISATAP = (0x00005EFE, 0x02005EFE)  # before the IPv4 address that a tunnel of any network leads to

_BLANKS = "".join(map(chr, range(0x21)))
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:")
_PLACE = re.compile(r"[^?#]*")

# Hosts such as Wikimedia's refuse the bare name of an HTTP library, and want to know who asks and what for.
USER_AGENT = (
    f"image-classifier-backend/{version('image-classifier-backend')} "
    "(machine-learning backend for Label Studio; https://labelstud.io)"
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Headers = Callable[[], Mapping[str, str]]
Refusal = Callable[[str], str]  # why a URL must not be asked; "" where it may be


@dataclass(frozen=True)
class Limits:
    """How long to wait for a server, to connect and for each part of its answer, and how often it may redirect."""

    connect_seconds: float = 5.0
    read_seconds: float = 20.0
    redirects: int = 5


class ForbiddenAddress(requests.RequestException):
    """A host whose address may not be connected to."""


class TooLarge(requests.RequestException):
    """An answer of more bytes than were allowed."""


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port: what a token belongs to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Origin":
        """Raises ValueError for what is no http(s) URL."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http(s) URL: {redact(url)}")
        return cls(parts.scheme, parts.hostname.lower(), parts.port or (443 if parts.scheme == "https" else 80))


def as_browsers_read(url: str) -> str:
    """The URL as a browser takes it from a page, where people have seen that it works (URL Standard).

    Blanks around it and line ends in it do not count, nor do capitals in its scheme; in what leads to a server or a
    file there, a backslash is a slash.
    """
    url = url.strip(_BLANKS)
    for character in "\t\n\r":
        url = url.replace(character, "")
    if scheme := _SCHEME.match(url):
        url = scheme[0].lower() + url[scheme.end() :]
    if scheme and scheme[0].lower() not in ("http:", "https:"):
        return url
    place = _PLACE.match(url)
    return place[0].replace("\\", "/") + url[place.end() :] if place else url


def redact(url: str) -> str:
    """A URL without what may be secret: user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if not parts.netloc:
        return url.partition("?")[0][:200]
    host = parts.netloc.rpartition("@")[2]
    return SplitResult(parts.scheme, host, parts.path, "…" if parts.query else "", "").geturl()[:200]


def explain(error: BaseException) -> str:
    """What went wrong, without the wrapping of the libraries and what may be secret in a URL."""
    text = re.sub(r"^\w+\(host='[^']*', port=\d+\): |\[Errno -?\d+\] ", "", said(innermost(error)))
    return re.sub(r"\?[^\s'\")>]+", "?…", re.sub(r"//[^\s/@]*@", "//", text))


def innermost(error: BaseException) -> BaseException:
    """What the libraries have wrapped."""
    inner = getattr(error, "reason", None) or (error.args[-1] if error.args else None)
    return innermost(inner) if isinstance(inner, Exception) else error


@contextmanager
def _without_secrets() -> Iterator[None]:
    """Errors of the libraries in our words: theirs have the whole URL, and what they wrap is shown with them."""
    try:
        yield
    except requests.RequestException as error:
        inner = innermost(error)
        kind = type(inner) if isinstance(inner, requests.RequestException) else type(error)
        raise kind(explain(error)) from None


def check_address(host: str, port: int, address: str, allowed: Collection[str]) -> None:
    """Raises ForbiddenAddress unless the address is public, or `host` or `host:port` is allowed by name."""
    meant = _meant(ipaddress.ip_address(address.partition("%")[0]))
    if any(ip in network for ip in meant for network in _METADATA):
        raise ForbiddenAddress(f"{host} is a cloud's metadata address, which is never asked")
    private = next((ip for ip in meant if _is_private(ip)), None)
    if private and not {host.lower(), f"{host.lower()}:{port}"} & set(allowed):
        raise ForbiddenAddress(
            f"{host} is on a private network ({private}); if its images may be read, set IMAGE_HOSTS={host}"
        )


def _is_private(ip: Address) -> bool:
    return not ip.is_global or ip.is_multicast or getattr(ip, "is_site_local", False)


def _meant(ip: Address) -> tuple[Address, ...]:
    """Where a connection to the address leads: there, or to an IPv4 address in it that a translator or tunnel takes."""
    if isinstance(ip, ipaddress.IPv4Address):
        return (ip,)
    last = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip.ipv4_mapped or any(ip in network for network in _OF_IPV4):
        return (last,)
    if ip.sixtofour:
        return (ip.sixtofour,)
    if ip.teredo:
        return (ip, *ip.teredo)
    if ip in _LOCAL_NAT64:
        return (ip, *_in_local_nat64(int(ip)))
    return (ip, last) if (int(ip) >> 32) & 0xFFFFFFFF in _ISATAP else (ip,)


def _in_local_nat64(ip: int) -> tuple[ipaddress.IPv4Address, ...]:
    """Whom a translator may take the address for, by the length of its prefix (RFC 6052): 48, 56, 64, 96."""
    found = (
        (ip >> 64 & 0xFFFF) << 16 | ip >> 40 & 0xFFFF,
        (ip >> 64 & 0xFF) << 24 | ip >> 32 & 0xFFFFFF,
        ip >> 24 & 0xFFFFFFFF,
        ip & 0xFFFFFFFF,
    )
    return tuple(map(ipaddress.IPv4Address, found))


class SafeSession:
    """A requests session whose connections are checked on the address that is really connected to.

    What `allowed` names, as `host` or `host:port`, may be private. Redirects are followed here, so that each is
    checked and none carries a token to another origin. No proxies and no .netrc: the environment must not route
    around the check.
    """

    def __init__(self, allowed: Collection[str] = (), *, ca_bundle: str = "") -> None:
        self._session = _Session()
        self._session.trust_env = False
        self._session.verify = ca_bundle or True
        self._session.headers["User-Agent"] = USER_AGENT
        self._session.cookies.set_policy(_NoCookies())
        adapter = _CheckingAdapter(frozenset(name.lower() for name in allowed))
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    @_without_secrets()
    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Headers | None = None,
        headers_for: Origin | None = None,
        refuse: Refusal = lambda url: "",
        limits: Limits = Limits(),
        deadline: float = float("inf"),
        **arguments: Any,
    ) -> requests.Response:
        """A streamed response; `headers` go to `headers_for` alone. Raises requests.RequestException.

        All redirects are within `deadline` (monotonic), and each is put to `refuse`. No error's text has a header's
        value, or what may be secret in a URL.
        """
        for _ in range(limits.redirects + 1):
            url, origin = _read_url(url)
            if why := refuse(url):
                raise ForbiddenAddress(why)
            trusted = headers is not None and origin == headers_for
            arguments["headers"] = _checked(headers()) if trusted and headers else None
            try:
                response = self._send(method, url, limits, deadline, **arguments)
            except requests.ConnectionError as error:
                # A server may close a connection that was kept for more at the moment at which more is asked.
                if method != "GET" or not _was_closed(error):
                    raise
                response = self._send(method, url, limits, deadline, **arguments)
            if not response.is_redirect:
                return response
            response.close()
            try:
                url = urljoin(url, as_browsers_read(self._session.get_redirect_target(response) or ""))
            except ValueError as error:
                raise requests.exceptions.InvalidURL(said(error)) from None
            if method != "GET" and _read_url(url)[1] != origin:
                # Its body may have a token.
                raise requests.RequestException(f"it redirects to {redact(url)}: use that address")
        raise requests.TooManyRedirects(f"more than {limits.redirects} redirects")

    def _send(self, method: str, url: str, limits: Limits, deadline: float, **arguments: Any) -> requests.Response:
        left = deadline - time.monotonic()
        if left <= 0:
            raise requests.Timeout("it took too long")
        timeout = (min(limits.connect_seconds, left), min(limits.read_seconds, left))
        return self._session.request(method, url, stream=True, allow_redirects=False, timeout=timeout, **arguments)

    def close(self) -> None:
        self._session.close()


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers; the errors that requests and http.client raise for them have their values."""
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable() and value == value.strip()):
            raise requests.exceptions.InvalidHeader(
                f"the value for the header {name} has blanks around it, a line end or a character that is not ASCII"
            )
    return dict(headers)


def _was_closed(error: requests.ConnectionError) -> bool:
    reasons = [inner for reason in error.args if isinstance(reason, ProtocolError) for inner in reason.args]
    return any(isinstance(inner, ConnectionError) for inner in reasons)


def _read_url(url: str) -> tuple[str, Origin]:
    """The URL as requests will read it, and its origin; Python's own parser sees another host in some."""
    try:
        url = str(requests.Request("GET", as_browsers_read(url)).prepare().url)
        return url, Origin.of(url)
    except ValueError as error:
        raise requests.exceptions.InvalidURL(said(error)) from None


@_without_secrets()
def read_body(response: requests.Response, *, max_bytes: int, deadline: float) -> bytes:
    """The body; raises requests.RequestException where it is larger, or comes later than `deadline` (monotonic)."""
    body = bytearray()
    with response:
        for chunk in _chunks(response):
            body += chunk
            if len(body) > max_bytes:
                raise TooLarge(f"more than {max_bytes:,} bytes")
            if time.monotonic() > deadline:
                raise requests.Timeout("it took too long")
    return bytes(body)


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """The body as it comes: requests' own iterator waits for whole chunks, for hours where a server dawdles."""
    try:
        while chunk := response.raw.read1(1 << 16, decode_content=True):
            yield chunk
    except ReadTimeoutError as error:
        raise requests.ReadTimeout(error) from error
    except HTTPError as error:
        raise requests.ConnectionError(error) from error


class _Session(requests.Session):
    def resolve_redirects(self, *_: Any, **__: Any) -> Iterator[Any]:
        """None: even where it is not to follow a redirect, requests would read all of its body, without limit."""
        yield from ()


class _NoCookies(DefaultCookiePolicy):
    """A cookie of one user's image server must not travel with another's request."""

    def set_ok(self, cookie: Any, request: Any) -> bool:
        return False


class _CheckingAdapter(HTTPAdapter):
    def __init__(self, allowed: frozenset[str]) -> None:
        self._allowed = allowed
        super().__init__(pool_maxsize=POOL_SIZE)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **arguments: Any) -> None:
        allowed = self._allowed

        class Http(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return _connect(self, allowed)

        class Https(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return _connect(self, allowed)

        class HttpPool(HTTPConnectionPool):
            ConnectionCls = Http

        class HttpsPool(HTTPSConnectionPool):
            ConnectionCls = Https

        self.poolmanager = PoolManager(connections, maxsize=maxsize, block=block, **arguments)
        self.poolmanager.pool_classes_by_scheme = {"http": HttpPool, "https": HttpsPool}


def _connect(connection: HTTPConnection, allowed: frozenset[str]) -> socket.socket:
    """Resolves, checks and connects to the very address that was checked: no second look-up can differ."""
    host = connection.host.strip("[]")
    error: OSError | None = None
    try:
        found = socket.getaddrinfo(host, connection.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as unknown:
        raise NewConnectionError(connection, f"{host} is not known: {said(unknown)}") from unknown
    for family, kind, protocol, _, address in found:
        check_address(host, connection.port, str(address[0]), allowed)
        candidate = socket.socket(family, kind, protocol)
        try:
            candidate.settimeout(float(connection.timeout))  # type: ignore[arg-type]  # SafeSession always sets it
            candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            candidate.connect(address)
            return candidate
        except OSError as refused:
            candidate.close()
            error = refused
    if isinstance(error, TimeoutError):
        raise ConnectTimeoutError(connection, f"{host} does not answer: {error}")
    raise NewConnectionError(connection, f"{host} does not answer: {error}")
