"""HTTPS connections to public hosts go through HTTPS_PROXY, and every address is still checked here."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from my_backend.label_studio.connections import Connections
from my_backend.settings import Settings, misspelled_names, settings_in_force
from safe_http.https_proxy import HttpsProxy
from safe_http.redaction import redact
from safe_http.session import ForbiddenAddress, Limits, SafeSession, explain
from testing.http_server import FakeServer, Reply
from tests.my_backend.fake_proxy import FakeProxy
from tests.safe_http.silent_port import silent_port

CERTIFICATE = Path(__file__).parents[1] / "data" / "images.example.com.pem"
URL = "https://images.example.com/cat.jpg"
PUBLIC, PRIVATE = "93.184.215.14", "127.0.0.1"

Lookup = Callable[..., None]


@pytest.fixture
def image_server() -> Iterator[FakeServer]:
    with FakeServer(lambda seen: Reply(200, b"an image"), certificate=CERTIFICATE) as server:
        yield server


@pytest.fixture
def proxy(image_server: FakeServer) -> Iterator[FakeProxy]:
    with FakeProxy(("127.0.0.1", image_server.port)) as proxy:
        yield proxy


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Lookup:
    """Makes images.example.com, or another host, resolve to these addresses, or to none."""

    def resolve(*found: str, named: str = "images.example.com") -> None:
        resolved = socket.getaddrinfo

        def getaddrinfo(host: str, port: int, *arguments: Any, **more: Any) -> list[Any]:
            if host != named:
                return resolved(host, port, *arguments, **more)
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return resolve


@pytest.fixture
def get(resolve: Lookup) -> Iterator[Callable[..., bytes]]:
    resolve(PUBLIC)
    with ExitStack() as stack:

        def get(proxy: HttpsProxy, url: str = URL, allowed: str = "", **more: Any) -> bytes:
            session = SafeSession([allowed], ca_bundle=str(CERTIFICATE), proxy=proxy)
            stack.callback(session.close)
            return session.request("GET", url, **more).content

        yield get


Get = Callable[..., bytes]


def test_proxy_gets_the_checked_address_and_the_server_the_name(
    get: Get, proxy: FakeProxy, image_server: FakeServer
) -> None:
    assert get(HttpsProxy(f"http://{proxy.place}")) == b"an image"

    [head] = proxy.heads
    assert head.startswith(f"CONNECT {PUBLIC}:443 HTTP/1.")
    assert "images.example.com" not in head
    assert "authorization" not in head.lower()
    [seen] = image_server.seen
    assert (seen.path, seen.headers["Host"]) == ("/cat.jpg", "images.example.com")


def test_proxy_gets_its_own_password_and_nobody_else_does(get: Get, proxy: FakeProxy, image_server: FakeServer) -> None:
    get(HttpsProxy(f"http://me:s%40cret@{proxy.place}"))

    assert "Proxy-Authorization: Basic bWU6c0BjcmV0" in proxy.heads[0]
    assert not [name for name in image_server.seen[0].headers if "authorization" in name.lower()]


def test_server_whose_certificate_is_for_another_name_is_refused(
    get: Get, proxy: FakeProxy, image_server: FakeServer
) -> None:
    with pytest.raises(requests.exceptions.SSLError):
        get(HttpsProxy(f"http://{proxy.place}"), f"https://{PUBLIC}/cat.jpg")

    assert image_server.seen == []


@pytest.mark.parametrize("address", [PRIVATE, "169.254.169.254", "10.0.0.7"])
def test_private_address_is_refused_and_the_proxy_not_asked(
    get: Get, resolve: Lookup, proxy: FakeProxy, address: str
) -> None:
    resolve(address)

    with pytest.raises(ForbiddenAddress):
        get(HttpsProxy(f"http://{proxy.place}"))
    with pytest.raises(ForbiddenAddress):
        get(HttpsProxy(f"http://{proxy.place}"), f"https://{address}/cat.jpg")

    assert proxy.heads == []


def test_name_that_cannot_be_resolved_here_is_not_given_to_the_proxy(
    get: Get, resolve: Lookup, proxy: FakeProxy
) -> None:
    resolve()

    with pytest.raises(requests.ConnectionError) as failed:
        get(HttpsProxy(f"http://{proxy.place}"))

    assert explain(failed.value).startswith("can't resolve images.example.com")
    assert "HTTPS_PROXY" in explain(failed.value)
    assert proxy.heads == []


def test_allowed_private_host_is_connected_to_directly(
    get: Get, resolve: Lookup, proxy: FakeProxy, image_server: FakeServer
) -> None:
    resolve(PRIVATE)
    url = f"https://images.example.com:{image_server.port}/cat.jpg"

    assert get(HttpsProxy(f"http://{proxy.place}"), url, "images.example.com") == b"an image"
    assert proxy.heads == []


@pytest.mark.parametrize("no_proxy", ["images.example.com", "localhost, example.com", ".example.com", "*"])
def test_hosts_in_no_proxy_do_not_use_the_proxy(no_proxy: str) -> None:
    assert not HttpsProxy("http://proxy:3128", no_proxy).is_for("images.example.com")
    assert HttpsProxy("http://proxy:3128", no_proxy.replace("*", "")).is_for("images.example.org")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("403 Forbidden", "must permit connections to addresses"),
        ("407 Proxy Authentication Required", "put its user name and password into HTTPS_PROXY"),
        ("502 Bad Gateway", "502 Bad Gateway"),
    ],
)
def test_refusal_of_the_proxy_is_explained_without_its_password(get: Get, status: str, words: str) -> None:
    with FakeProxy(("127.0.0.1", 9), status) as proxy, pytest.raises(requests.ConnectionError) as failed:
        get(HttpsProxy(f"http://me:s3cr3t@{proxy.place}"))

    said = explain(failed.value)
    place = f"the proxy {proxy.place} (HTTPS_PROXY)"
    assert said.startswith(f"can't connect to images.example.com: {place} failed ({status}")
    assert words in said
    assert "s3cr3t" not in str(failed.value) + said


def test_proxy_that_is_gone_is_named(get: Get) -> None:
    with FakeProxy(("127.0.0.1", 9)) as proxy:
        place = proxy.place

    with pytest.raises(requests.ConnectionError) as failed:
        get(HttpsProxy(f"http://{place}"))

    assert f"the proxy {place} (HTTPS_PROXY) failed (" in explain(failed.value)
    assert "Connection refused" in explain(failed.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:s3cr3t@proxy:3128",
        "socks5://me:s3cr3t@proxy:1080",
        "http://[s3cr3t",
        "http://h:s3cr3t",
        "://",
        "http://me:12#s3cr3t@proxy:3128",
        "http://me:s3/cr3t@proxy:3128",
        "http://.proxy:3128",
        f"http://{'a' * 64}:3128",
        "http://pro xy:3128",
    ],
)
def test_proxy_that_cannot_be_used_is_an_error_without_its_password(get: Get, url: str) -> None:
    with pytest.raises(requests.ConnectionError, match="HTTPS_PROXY") as failed:
        get(HttpsProxy(url))

    assert "s3cr3t" not in str(failed.value) + explain(failed.value)


def test_settings_name_the_proxy_and_hide_its_password(
    get: Get, proxy: FakeProxy, image_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", f"http://me:s3cr3t-0123@{proxy.place}")
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    settings = Settings(requests_ca_bundle=str(CERTIFICATE))

    assert Connections(settings).images().request("GET", URL).content == b"an image"
    assert len(proxy.heads) == 1
    assert misspelled_names([]) == {}
    assert redact("at s3cr3t-0123") != "at s3cr3t-0123"
    assert "s3cr3t" not in str(settings_in_force(settings)) + repr(settings)


def test_addresses_of_a_proxy_that_do_not_answer_share_the_time_to_connect(get: Get, resolve: Lookup) -> None:
    resolve(*(f"127.0.0.{number}" for number in range(1, 9)), named="proxy")
    begun = time.monotonic()
    with silent_port() as port, pytest.raises(requests.ConnectTimeout, match=r"HTTPS_PROXY\) failed \(timed out\)"):
        get(HttpsProxy(f"http://proxy:{port}"), limits=Limits(connect_seconds=1.0))

    assert 0.9 < time.monotonic() - begun < 6.0


def test_address_that_the_proxy_cannot_reach_leaves_time_for_the_next_one(get: Get, resolve: Lookup) -> None:
    given: list[float] = []

    class Deaf(HttpsProxy):
        def connect(self, address: str, port: int, seconds: float) -> socket.socket:
            given.append(seconds)
            raise TimeoutError("timed out")

    resolve(PUBLIC, PUBLIC)
    with pytest.raises(requests.ConnectTimeout):
        get(Deaf("http://proxy:3128"), limits=Limits(connect_seconds=60.0))

    assert given == [pytest.approx(30.0, abs=1.0), pytest.approx(60.0, abs=2.0)]


@pytest.mark.parametrize("answer", ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\n" + "X-Drop: x\r\n" * 100_000])
def test_proxy_with_an_endless_answer_is_given_up_and_disconnected(answer: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"

        def say() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(30)
                assert connection.recv(1000).startswith(b"CONNECT")
                try:
                    connection.sendall(answer.encode())
                    assert connection.recv(1000) == b"", "it is closed"
                except ConnectionError:  # with something unread
                    pass

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(say)
            with pytest.raises(OSError, match=rf"the proxy {place} \(HTTPS_PROXY\) failed \((timed out|its response)"):
                HttpsProxy(f"http://{place}").connect(PUBLIC, 443, 1.0)
            done.result()


def test_address_of_ipv6_is_named_in_brackets(proxy: FakeProxy) -> None:
    HttpsProxy(proxy.place).connect("2606:2800:220:1::1", 443, 30).close()

    assert proxy.heads[0].startswith("CONNECT [2606:2800:220:1::1]:443 HTTP/1.1\r\nHost: [2606:2800:220:1::1]:443\r\n")


def test_password_of_a_proxy_without_a_scheme_is_known_to_be_secret() -> None:
    settings = Settings(https_proxy=SecretStr("me:s3cr3t-4567@proxy:3128"))

    assert "s3cr3t-4567" in settings.secrets
