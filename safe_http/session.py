"""HTTP requests to URLs from task data: allowed addresses only, within limits, with the token for its server only."""

import ipaddress
import logging
import posixpath
import re
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import BadStatusLine, IncompleteRead, RemoteDisconnected
from http.cookiejar import DefaultCookiePolicy
from importlib.metadata import version
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)

from safe_http.connecting import connect_directly, sharing
from safe_http.deadline import TimedResponse, until
from safe_http.https_proxy import HttpsProxy
from safe_http.redaction import said

POOL_SIZE = 32  # connections to a host that stay open for the next requests

# Where clouds give credentials and settings to anyone who asks from inside: never connect, whatever IMAGE_HOSTS says.
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
# IPv6 networks whose addresses end in the actual IPv4 address: compatible, translated, NAT64
_OF_IPV4 = tuple(ipaddress.ip_network(network) for network in ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96"))
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
_ISATAP = (0x00005EFE, 0x02005EFE)  # precedes the IPv4 address at the end of a tunnel, in any network

_BLANKS = "".join(map(chr, range(0x21)))
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:")
_PLACE = re.compile(r"[^?#]*")

# Hosts such as Wikimedia refuse the default name of an HTTP library; they want to know who is asking and why.
USER_AGENT = (
    f"image-classifier-backend/{version('image-classifier-backend')} "
    "(machine-learning backend for Label Studio; https://labelstud.io)"
)

# More connections than POOL_SIZE at the same time are fine; urllib3 warns about each one that it doesn't keep open.
logging.getLogger("urllib3.connectionpool").addFilter(lambda record: "pool is full" not in str(record.msg))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Headers = Callable[[], Mapping[str, str]]
Refusal = Callable[[str], str]  # why a URL must not be requested; "" if it may be


@dataclass(frozen=True)
class Limits:
    """How long to wait to connect and for each part of the response, and how many redirects to follow."""

    connect_seconds: float = 5.0
    read_seconds: float = 20.0
    redirects: int = 5


class ForbiddenAddress(requests.RequestException):
    """The host's address must not be connected to."""


class TooLarge(requests.RequestException):
    """The response is larger than allowed."""


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Origin":
        """The URL's origin; raises ValueError if it isn't an http(s) URL."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http(s) URL: {url_without_secrets(url)}")
        if not parts.hostname.isascii():
            with suppress(ValueError):  # requests connects by the name in ASCII, or not at all if there is none
                parts = urlsplit(str(requests.Request("GET", url).prepare().url))
        return cls(parts.scheme, str(parts.hostname).lower(), parts.port or (443 if parts.scheme == "https" else 80))


@dataclass(frozen=True)
class Base:
    """An origin and a path: a token belongs to the URLs below it. The same host may also have other programs."""

    origin: Origin
    paths: tuple[str, ...]  # as from `_paths`, without a slash at the end

    @classmethod
    def of(cls, url: str) -> "Base":
        """Raises ValueError if it isn't an http(s) URL."""
        return cls(Origin.of(url), tuple(path.rstrip("/") for path in _paths(url)))

    def contains(self, url: str) -> bool:
        """Whether the URL is below this one, both as it is written and with its escapes and dots resolved."""
        url, origin = _read_url(url)
        paths = zip(_paths(url), self.paths, strict=True)
        return origin == self.origin and all(f"{path}/".startswith(f"{own}/") for path, own in paths)


def _paths(url: str) -> tuple[str, str]:
    """The URL's path without escapes, as it is written and with its dots resolved."""
    path = unquote(urlsplit(url).path)
    return path, posixpath.normpath("/" + path.replace("\\", "/").lstrip("/"))


def as_browsers_read(url: str) -> str:
    """Normalizes a URL as browsers do (URL Standard), so that URLs which work in Label Studio's page work here too.

    Surrounding whitespace and line ends are removed, the scheme becomes lower case, and backslashes before the query
    become slashes.
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


def url_without_secrets(url: str) -> str:
    """A URL without the parts that may be secret: user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if not parts.netloc:
        return url.partition("?")[0][:200]
    host = parts.netloc.rpartition("@")[2]
    return SplitResult(parts.scheme, host, parts.path, "…" if parts.query else "", "").geturl()[:200]


def explain(error: BaseException) -> str:
    """The error's message without the libraries' wrapping and without parts of URLs that may be secret."""
    inner = innermost(error)
    if isinstance(inner, IncompleteRead):
        return "the connection ended before the whole response had arrived"
    if isinstance(inner, ReadTimeoutError):
        return "it took too long"
    if isinstance(inner, BadStatusLine) and not isinstance(inner, RemoteDisconnected):
        return "its server doesn't speak HTTP"
    text = re.sub(r"^\w+\(host='[^']*', port=\d+\): |\[Errno -?\d+\] ", "", said(inner))
    return re.sub(r"\?[^\s'\")>]+", "?…", re.sub(r"//[^\s/@]*@", "//", text))


def innermost(error: BaseException) -> BaseException:
    """The original error inside those that the libraries have wrapped around it."""
    inner = getattr(error, "reason", None) or (error.args[-1] if error.args else None)
    return innermost(inner) if isinstance(inner, Exception) else error


@contextmanager
def _without_secrets() -> Iterator[None]:
    """Replaces the libraries' errors: their messages, and those of the errors they wrap, contain the whole URL."""
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
        raise ForbiddenAddress(f"{host} is a cloud metadata address; requests to it are never allowed")
    private = next((ip for ip in meant if _is_private(ip)), None)
    if private and not {host.lower(), f"{host.lower()}:{port}"} & set(allowed):
        raise ForbiddenAddress(
            f"{host} is on a private network ({private}); to allow reading images from it, set IMAGE_HOSTS={host}"
        )


def is_public(address: str) -> bool:
    """Whether connections to the address leave for the internet."""
    return not any(map(_is_private, _meant(ipaddress.ip_address(address.partition("%")[0]))))


def _is_private(ip: Address) -> bool:
    return not ip.is_global or ip.is_multicast or getattr(ip, "is_site_local", False)


def _meant(ip: Address) -> tuple[Address, ...]:
    """Where a connection to the address leads: to it, or to an IPv4 address inside it (translation or tunnel)."""
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
    """The IPv4 addresses a translator may derive, for prefix lengths 48, 56, 64 and 96 (RFC 6052)."""
    found = (
        (ip >> 64 & 0xFFFF) << 16 | ip >> 40 & 0xFFFF,
        (ip >> 64 & 0xFF) << 24 | ip >> 32 & 0xFFFFFF,
        ip >> 24 & 0xFFFFFFFF,
        ip & 0xFFFFFFFF,
    )
    return tuple(map(ipaddress.IPv4Address, found))


class SafeSession:
    """A requests session that checks the address each connection is actually made to.

    Hosts in `allowed` (`host` or `host:port`) may be private. The session follows redirects itself, so that each is
    checked and none takes a token to another server. HTTPS connections to public addresses go through `proxy`. It uses
    no other proxies and no .netrc: the environment must not bypass the check.
    """

    def __init__(self, allowed: Collection[str] = (), *, ca_bundle: str = "", proxy: HttpsProxy | None = None) -> None:
        self._session = _Session()
        self._session.trust_env = False
        self._session.verify = ca_bundle or True
        self._session.headers["User-Agent"] = USER_AGENT
        self._session.cookies.set_policy(_NoCookies())
        adapter = _CheckingAdapter(frozenset(name.lower() for name in allowed), proxy)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    @_without_secrets()
    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Headers | None = None,
        headers_for: Base | None = None,
        refuse: Refusal = lambda url: "",
        limits: Limits = Limits(),
        deadline: float = float("inf"),
        **arguments: Any,
    ) -> requests.Response:
        """A streamed response; `headers` are sent to URLs in `headers_for` only. Raises requests.RequestException.

        `deadline` (monotonic) covers all redirects, and `refuse` is asked about each. No error message contains a
        header's value or a part of a URL that may be secret.
        """
        for _ in range(limits.redirects + 1):
            url, origin = _read_url(url)
            if why := refuse(url):
                raise ForbiddenAddress(why)
            trusted = headers_for is not None and headers_for.contains(url)
            arguments["headers"] = _checked(headers()) if trusted and headers else None
            try:
                response = self._send(method, url, limits, deadline, **arguments)
            except requests.ConnectionError as error:
                # A server may close an idle connection just when it is used again.
                if method != "GET" or not _was_closed(error):
                    raise
                response = self._send(method, url, limits, deadline, **arguments)
            if not response.is_redirect:
                return response
            response.close()
            try:
                url = urljoin(url, as_browsers_read(self._session.get_redirect_target(response) or ""))
                target = _read_url(url)[1]
            except ValueError as error:  # the fault of the server, and not of the URL that was to be requested
                raise requests.RequestException(f"it redirects to an invalid URL ({said(error)})") from None
            if method != "GET" and target != origin:
                # Its body may contain a token.
                raise requests.TooManyRedirects(f"it redirects to {url_without_secrets(url)}: use that address instead")
        raise requests.TooManyRedirects(f"more than {limits.redirects} redirects")

    def _send(self, method: str, url: str, limits: Limits, deadline: float, **arguments: Any) -> requests.Response:
        left = deadline - time.monotonic()
        if left <= 0:
            raise requests.Timeout("it took too long")
        timeout = (min(limits.connect_seconds, left), min(limits.read_seconds, left))
        try:
            with until(deadline):
                return self._session.request(
                    method, url, stream=True, allow_redirects=False, timeout=timeout, **arguments
                )
        except requests.RequestException:
            raise
        except OSError as error:  # requests can't find the certificates
            raise requests.exceptions.SSLError(f"{said(error)}; check REQUESTS_CA_BUNDLE") from None

    def close(self) -> None:
        self._session.close()


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers, checked: errors that requests and http.client raise for invalid ones contain their values."""
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable() and value == value.strip()):
            raise requests.exceptions.InvalidHeader(
                f"the value of the header {name} has surrounding whitespace, a line break or a non-ASCII character"
            )
    return dict(headers)


def _was_closed(error: requests.ConnectionError) -> bool:
    reasons = [inner for reason in error.args if isinstance(reason, ProtocolError) for inner in reason.args]
    return any(isinstance(inner, ConnectionError) for inner in reasons)


def _read_url(url: str) -> tuple[str, Origin]:
    """The URL as requests will read it, and its origin; Python's own parser sees a different host in some URLs."""
    try:
        url = str(requests.Request("GET", as_browsers_read(url)).prepare().url)
        return url, Origin.of(url)
    except ValueError as error:
        raise requests.exceptions.InvalidURL(said(error)) from None


@_without_secrets()
def read_body(response: requests.Response, *, max_bytes: int, deadline: float) -> bytes:
    """The response's body; raises requests.RequestException if it is too large or late (`deadline` is monotonic)."""
    body = bytearray()
    with response, until(deadline):
        for chunk in _chunks(response):
            body += chunk
            if len(body) > max_bytes:
                raise TooLarge(f"more than {max_bytes:,} bytes")
            if time.monotonic() > deadline:
                raise requests.Timeout("it took too long")
    return bytes(body)


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """The body as it arrives: requests' own iterator waits for whole chunks, for hours if a server is slow."""
    try:
        while chunk := response.raw.read1(1 << 16, decode_content=True):
            yield chunk
    except ReadTimeoutError as error:
        raise requests.ReadTimeout(error) from error
    except DecodeError as error:
        why = "it isn't compressed as its server says in the header Content-Encoding, or it is damaged"
        raise requests.exceptions.ContentDecodingError(why) from error
    except HTTPError as error:
        raise requests.ConnectionError(error) from error


class _Session(requests.Session):
    def resolve_redirects(self, *_: Any, **__: Any) -> Iterator[Any]:
        """Yields nothing: even without following a redirect, requests would read its whole body, without limit."""
        yield from ()


class _NoCookies(DefaultCookiePolicy):
    """A cookie of one user's image server must not travel with another's request."""

    def set_ok(self, cookie: Any, request: Any) -> bool:
        return False


class _CheckingAdapter(HTTPAdapter):
    def __init__(self, allowed: frozenset[str], proxy: HttpsProxy | None) -> None:
        self._allowed, self._proxy = allowed, proxy
        super().__init__(pool_maxsize=POOL_SIZE)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **arguments: Any) -> None:
        allowed, proxy = self._allowed, self._proxy

        class Http(HTTPConnection):
            response_class = TimedResponse

            def _new_conn(self) -> socket.socket:
                return _connect(self, allowed)

        class Https(HTTPSConnection):
            response_class = TimedResponse

            def _new_conn(self) -> socket.socket:
                return _connect(self, allowed, proxy)

        class HttpPool(HTTPConnectionPool):
            ConnectionCls = Http

        class HttpsPool(HTTPSConnectionPool):
            ConnectionCls = Https

        self.poolmanager = PoolManager(connections, maxsize=maxsize, block=block, **arguments)
        self.poolmanager.pool_classes_by_scheme = {"http": HttpPool, "https": HttpsPool}


def _connect(connection: HTTPConnection, allowed: frozenset[str], proxy: HttpsProxy | None = None) -> socket.socket:
    """Resolves the host, checks the address and connects to exactly that one, so no second lookup can differ."""
    host = connection.host.strip("[]")
    proxy = proxy if proxy and proxy.is_for(host) else None
    error: OSError | None = None
    try:
        found = socket.getaddrinfo(host, connection.port, type=socket.SOCK_STREAM)
    except UnicodeError as impossible:
        raise requests.exceptions.InvalidURL(f"can't resolve {host}: {said(impossible)}") from impossible
    except OSError as unknown:
        needed = ". This machine must be able to resolve the host, even with HTTPS_PROXY" if proxy else ""
        raise NewConnectionError(connection, f"can't resolve {host}: {said(unknown)}{needed}") from unknown
    for (family, kind, protocol, _, address), seconds in sharing(found, _seconds(connection)):
        ip = str(address[0])
        check_address(host, connection.port, ip, allowed)
        try:
            if proxy and is_public(ip):
                connected = proxy.connect(ip, int(address[1]), seconds)
            else:
                connected = connect_directly(socket.socket(family, kind, protocol), address, seconds)
        except OSError as refused:
            error = refused
        else:
            connected.settimeout(_seconds(connection))
            return connected
    if isinstance(error, TimeoutError):
        raise ConnectTimeoutError(connection, f"can't connect to {host}: {error}")
    raise NewConnectionError(connection, f"can't connect to {host}: {error}")


def _seconds(connection: HTTPConnection) -> float:
    return float(connection.timeout)  # type: ignore[arg-type]  # SafeSession always sets it
