"""The proxy that HTTPS connections to public hosts go through, if there is one."""

import socket
import time
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed lacks it

from safe_http.connecting import connect_directly, sharing
from safe_http.redaction import basic_authorization, said

LONGEST_HEAD = 16_384  # bytes of a proxy's answer


class ProxyError(OSError):
    """The proxy can't be used, can't be reached, or refused the connection."""


class HttpsProxy:
    """Connects to addresses through an HTTP proxy, with CONNECT (RFC 9110, section 9.3.6).

    The proxy gets the address that the caller has checked, not the host's name: the proxy's own lookup of the name may
    lead elsewhere. The host itself is named inside the TLS connection, which the proxy can't read.
    """

    def __init__(self, url: str, no_proxy: str = "") -> None:
        """`url` is http://[user:password@]host:port; `no_proxy` has hosts and domains, comma-separated, or `*`."""
        self._url, self._no_proxy = url, no_proxy

    def is_for(self, host: str) -> bool:
        """Whether connections to the host use the proxy: unless `no_proxy` has the host or its domain."""
        return not proxy_bypass_environment(host, {"no": self._no_proxy})

    def connect(self, address: str, port: int, seconds: float) -> socket.socket:
        """A connection to the address through the proxy; raises ProxyError, or TimeoutError after `seconds`.

        No error contains the proxy's user or password.
        """
        deadline = time.monotonic() + seconds
        proxy = self._parsed()
        host, proxy_port = str(proxy.hostname), proxy.port or 80
        target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{_authorization(proxy.username, proxy.password)}\r\n"
        place = f"the proxy {host}:{proxy_port} (HTTPS_PROXY)"
        try:
            connection = _connected(host, proxy_port, seconds)
            try:
                connection.sendall(head.encode())
                _read_answer(connection, deadline)
                connection.settimeout(seconds)
            except BaseException:
                connection.close()
                raise
        except TimeoutError as error:
            raise TimeoutError(f"{place} failed ({said(error)})") from None
        except (OSError, UnicodeError) as error:
            reason = said(error)
            raise ProxyError(f"{place} failed ({reason}){_remedy(reason)}") from error
        return connection

    def _parsed(self) -> SplitResult:
        """Raises ProxyError."""
        try:
            parts = urlsplit(self._url if "://" in self._url else f"http://{self._url}")
            _ = parts.port
        except ValueError:
            raise ProxyError("HTTPS_PROXY isn't a URL such as http://proxy:3128") from None
        if parts.path.strip("/") or parts.query or parts.fragment:
            # Perhaps a password with one of these characters.
            raise ProxyError(
                "HTTPS_PROXY isn't a URL such as http://proxy:3128: in a password, write # / ? as %23 %2F %3F"
            )
        if not parts.hostname:
            raise ProxyError("HTTPS_PROXY must be http://host:port, but it has no host")
        if parts.scheme != "http":
            raise ProxyError(f"HTTPS_PROXY must be http://host:port; {parts.scheme}:// isn't supported")
        return parts


def _connected(host: str, port: int, seconds: float) -> socket.socket:
    """A connection to the first address of the host that answers; raises OSError."""
    error = OSError("it has no address")
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for (family, kind, protocol, _, address), share in sharing(found, seconds):
        try:
            return connect_directly(socket.socket(family, kind, protocol), address, share)
        except OSError as refused:
            error = refused
    raise error


def _read_answer(connection: socket.socket, deadline: float) -> None:
    """Returns if the proxy has made the connection; raises OSError, with the proxy's status if it refuses."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("its response took too long")
        if len(head) > LONGEST_HEAD:
            raise ConnectionError("its response is too long")
        connection.settimeout(left)
        # Byte by byte: what follows belongs to the connection that it has made.
        if not (byte := connection.recv(1)):
            raise ConnectionError("it closed the connection")
        head += byte
    status = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")[2]
    if not status.startswith("2"):
        raise ConnectionError(status[:100] or "it isn't an HTTP proxy")


def _authorization(user: str | None, password: str | None) -> str:
    """The header's line, "" without a user."""
    if user is None:
        return ""
    return f"Proxy-Authorization: Basic {basic_authorization(unquote(user), unquote(password or ''))}\r\n"


def _remedy(reason: str) -> str:
    if reason.startswith("407"):
        return "; put its user name and password into HTTPS_PROXY"
    if reason.startswith("403"):
        return (
            "; it must permit connections to addresses, not only to names. To connect to a host directly, set NO_PROXY"
        )
    return ""
