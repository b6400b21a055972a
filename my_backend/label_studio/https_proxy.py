"""The proxy that HTTPS connections to public hosts go through, if there is one."""

import base64
import http.client
import socket
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed lacks it

from my_backend.redaction import said


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
        """A connection to the address through the proxy; raises ProxyError, or TimeoutError after `seconds` of waiting.

        No error contains the proxy's user or password.
        """
        try:
            parts = urlsplit(self._url if "://" in self._url else f"http://{self._url}")
            host, proxy_port = parts.hostname, parts.port or 80
        except ValueError:
            raise ProxyError("HTTPS_PROXY isn't a URL such as http://proxy:3128") from None
        if parts.scheme != "http" or not host:
            raise ProxyError(f"HTTPS_PROXY must be http://host:port; {parts.scheme}:// isn't supported")
        tunnel = http.client.HTTPConnection(host, proxy_port, timeout=seconds)
        tunnel.set_tunnel(address, port, _authorization(parts.username, parts.password))
        try:
            tunnel.connect()
        except TimeoutError:
            tunnel.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            tunnel.close()
            reason = said(error).removeprefix("Tunnel connection failed: ") or "it closed the connection"
            raise ProxyError(f"the proxy {host}:{proxy_port} (HTTPS_PROXY): {reason}{_remedy(reason)}") from error
        return tunnel.sock


def _authorization(user: str | None, password: str | None) -> dict[str, str]:
    if user is None:
        return {}
    credentials = f"{unquote(user)}:{unquote(password or '')}".encode()
    return {"Proxy-Authorization": "Basic " + base64.b64encode(credentials).decode()}


def _remedy(reason: str) -> str:
    if reason.startswith("407"):
        return "; put its user and password into HTTPS_PROXY"
    if reason.startswith("403"):
        return (
            "; it must permit connections to addresses, not only to names. NO_PROXY names hosts to connect to directly"
        )
    return ""
