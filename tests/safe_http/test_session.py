import re
import socket
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from urllib3.connection import HTTPConnection

from safe_http import session as session_module
from safe_http.session import (
    POOL_SIZE,
    Base,
    ForbiddenAddress,
    Limits,
    Origin,
    SafeSession,
    as_browsers_read,
    check_address,
    explain,
    read_body,
    url_without_secrets,
)
from testing.http_server import Answer, FakeServer, Reply, Seen
from tests.safe_http.silent_port import silent_port

TOKEN = {"Authorization": "Token secret"}
PATIENCE = 30  # seconds: much more than a busy machine needs, and much less than what must not be waited for

Start = Callable[[Answer], FakeServer]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(FakeServer(answer))


@pytest.fixture
def open_session() -> Iterator[Callable[..., SafeSession]]:
    with ExitStack() as stack:

        def open_session(*allowed: str) -> SafeSession:
            session = SafeSession(allowed)
            stack.callback(session.close)
            return session

        yield open_session


OpenSession = Callable[..., SafeSession]


def ok(seen: Seen) -> Reply:
    return Reply(200, b"fine")


def read(response: requests.Response, max_bytes: int = 1000, seconds: float = 60) -> bytes:
    return read_body(response, max_bytes=max_bytes, deadline=time.monotonic() + seconds)


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "fec0::1",
        "fc00::1",
        "fd12::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "2002:c0a8:101::1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::10.0.0.1",
        "64:ff9b:1:808:8:800::",
        "::ffff:0:10.0.0.1",
        "2001:0:808:808::f5ff:fffe",
        "2606:2800:220:1:0:5efe:10.0.0.1",
    ],
)
def test_address_that_is_not_public_is_refused_with_the_fix(address: str) -> None:
    with pytest.raises(ForbiddenAddress, match="IMAGE_HOSTS=images"):
        check_address("images", 80, address, ())
    check_address("images", 80, address, ("images",))


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:8.8.8.8"]
)
def test_public_address_is_allowed(address: str) -> None:
    check_address("images", 80, address, ())


METADATA = [
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "169.254.42.42",
    "169.254.255.255",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "fe80::1",
    "fe80::a9fe:a9fe%eth0",
    "febf::1",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
    "fd00:a9fe:a9fe::1",
]
EMBEDDED = [
    "::ffff:{}",  # mapped
    "::{}",  # compatible
    "::ffff:0:{}",  # translated
    "64:ff9b::{}",  # NAT64
    "64:ff9b:1::{}",  # NAT64 of an organization
    "2606:2800:220:1:0:5efe:{}",  # ISATAP
    "2606:2800:220:1:200:5efe:{}",
]


def refused_as_metadata(address: str) -> None:
    with pytest.raises(ForbiddenAddress, match="metadata"):
        check_address("images", 80, address, ("images", "images:80", address))


@pytest.mark.parametrize("address", METADATA)
def test_metadata_address_is_refused_whatever_is_allowed(address: str) -> None:
    refused_as_metadata(address)


@pytest.mark.parametrize("inner", [address for address in METADATA if ":" not in address])
@pytest.mark.parametrize("form", EMBEDDED)
def test_metadata_address_inside_another_is_refused_whatever_is_allowed(form: str, inner: str) -> None:
    refused_as_metadata(form.format(inner))


@pytest.mark.parametrize(
    "address",
    [
        "2002:a9fe:a9fe::",  # 6to4
        "2001:0:a9fe:a9fe::f7f7:f7f7",  # Teredo: its server
        "2001:0:808:808::5601:5601",  # and its client, with all bits turned
        "64:ff9b:1:a9fe:a9:fe00::",  # NAT64 with a prefix of 48 bits
        "64:ff9b:1:a9:fe:a9fe::",  # of 56
        "64:ff9b:1:0:a9:fea9:fe00:0",  # of 64
    ],
)
def test_metadata_address_behind_a_tunnel_is_refused_whatever_is_allowed(address: str) -> None:
    refused_as_metadata(address)


def test_address_that_translates_a_public_one_is_allowed() -> None:
    for address in ("64:ff9b::8.8.8.8", "::ffff:0:8.8.8.8", "2002:808:808::", "2606:2800:220:1:0:5efe:8.8.8.8"):
        check_address("images", 80, address, ())


def test_host_may_be_allowed_for_one_port() -> None:
    check_address("Images", 9000, "10.0.0.1", ("images:9000",))
    with pytest.raises(ForbiddenAddress):
        check_address("Images", 9001, "10.0.0.1", ("images:9000",))


# Where a session goes


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "127.1",
        "0",
        "0.0.0.0",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "user@127.0.0.1",
        "example.com@127.0.0.1",
        "example.com:80@127.0.0.1",
        "127.0.0.1.",
        "①②⑦.0.0.1",
    ],
)
def test_loopback_is_never_asked_however_it_is_written(start: Start, open_session: OpenSession, host: str) -> None:
    server = start(ok)

    with pytest.raises(requests.RequestException) as refused:
        open_session("example.com").request("GET", f"http://{host}:{server.port}/")

    assert server.seen == []
    assert any(words in explain(refused.value) for words in ("private network", "can't resolve", "not a valid IDNA"))


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0xa9.0xfe.0xa9.0xfe",
        "0251.0376.0251.0376",
        "025177524776",
        "169.254.43518",
        "169.16689662",
        "169.254.169.254.",
        "①⑥⑨.254.169.254",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[0:0:0:0:0:ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[FD00:EC2::254]",
        "user@169.254.169.254",
        "100.100.100.200",
        "1684301000",
        "192.0.0.192",
        "168.63.129.16",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_metadata_address_is_never_connected_to_however_it_is_written(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch, scheme: str, host: str
) -> None:
    connected: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: connected.append(address))
    name = host.rpartition("@")[2].strip("[]").lower()

    with pytest.raises(requests.RequestException) as refused:
        open_session(name, name.rstrip("."), "169.254.169.254").request("GET", f"{scheme}://{host}/latest/meta-data/")

    assert connected == []
    assert any(words in explain(refused.value) for words in ("metadata address", "not a valid IDNA"))


def test_allowed_name_is_refused_if_any_of_its_addresses_is_for_metadata(
    start: Start, open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = start(ok)
    closed.__exit__(None, None, None)
    looked_up = answers_of_dns(monkeypatch, ["127.0.0.1", "169.254.169.254"])

    with pytest.raises(ForbiddenAddress, match=r"metadata\.google\.internal is a cloud metadata address"):
        open_session("metadata.google.internal").request("GET", f"http://metadata.google.internal:{closed.port}/")

    assert looked_up == ["metadata.google.internal"]


def answers_of_dns(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Makes the next lookups return these addresses; returns the names that were looked up."""
    looked_up: list[str] = []

    def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
        looked_up.append(host)
        addresses = answers[min(len(looked_up), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return looked_up


def test_name_that_resolves_to_a_private_address_is_refused(
    start: Start, open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(ok)
    looked_up = answers_of_dns(monkeypatch, ["127.0.0.1"])

    with pytest.raises(requests.RequestException) as refused:
        open_session().request("GET", f"http://images.example.com:{server.port}/")

    assert explain(refused.value).startswith("images.example.com is on a private network (127.0.0.1)")
    assert (looked_up, server.seen) == (["images.example.com"], [])


def test_name_is_looked_up_once_and_that_very_address_is_connected_to(
    start: Start, open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(ok)
    looked_up = answers_of_dns(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])

    response = open_session("rebound.example.com").request("GET", f"http://rebound.example.com:{server.port}/")

    assert read(response) == b"fine"
    assert looked_up == ["rebound.example.com"]
    assert server.seen[0].headers["Host"] == f"rebound.example.com:{server.port}"


def test_second_address_is_tried_where_the_first_does_not_answer(
    start: Start, open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(ok)
    answers_of_dns(monkeypatch, ["127.0.0.9", "127.0.0.1"])

    assert read(open_session("images").request("GET", f"http://images:{server.port}/")) == b"fine"


def test_many_requests_at_the_same_time_cause_no_warnings(
    start: Start, open_session: OpenSession, caplog: pytest.LogCaptureFixture
) -> None:
    count = POOL_SIZE + 1
    all_at_once = threading.Barrier(count, timeout=60)

    def answer(seen: Seen) -> Reply:
        all_at_once.wait()
        return ok(seen)

    server, session = start(answer), open_session("127.0.0.1")
    with ThreadPoolExecutor(count) as threads:
        bodies = threads.map(lambda number: read(session.request("GET", f"{server.url}/{number}")), range(count))

    assert list(bodies) == [b"fine"] * count
    assert caplog.messages == []


def test_addresses_that_do_not_answer_share_the_time_to_connect(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hosts of some cloud storages have eight addresses, and a firewall may drop what is sent to them."""
    answers_of_dns(monkeypatch, [f"127.0.0.{number}" for number in range(1, 9)])
    begun = time.monotonic()
    with silent_port() as port, pytest.raises(requests.ConnectTimeout, match="can't connect to images: timed out"):
        open_session("images").request("GET", f"http://images:{port}/", limits=Limits(connect_seconds=1.0))

    assert 0.9 < time.monotonic() - begun < 6.0


def test_connection_to_one_of_several_addresses_has_all_the_time_for_what_follows(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS is negotiated next."""
    server = start(ok)
    answers_of_dns(monkeypatch, ["127.0.0.1"] * 8)
    connection = HTTPConnection("images", server.port, timeout=5.0)

    with session_module._connect(connection, frozenset({"images"})) as connected:
        assert connected.gettimeout() == 5.0


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hosts",
        "ftp://127.0.0.1/",
        "gopher://127.0.0.1/",
        "http://",
        "http://[",
        "http://h:99999/",
        "//127.0.0.1/",
        "",
        "http://" + "a" * 70 + ".com/",
        "http://a..b/",
        "http://%00/",
        "http://\ud800/",
        "no url",
    ],
)
def test_what_is_no_url_is_a_request_error(open_session: OpenSession, url: str) -> None:
    with pytest.raises(requests.RequestException):
        open_session().request("GET", url)


def test_environment_does_not_lead_around_the_check(
    start: Start, open_session: OpenSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, proxy = start(ok), start(ok)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)

    read(open_session("127.0.0.1").request("GET", server.url))

    assert (len(server.seen), proxy.seen) == (1, [])
    assert "Authorization" not in server.seen[0].headers


# Redirects, tokens, cookies


def redirect(to: str, status: int = 302) -> Answer:
    return lambda seen: Reply(status, b"", {"Location": to})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_followed(start: Start, open_session: OpenSession, status: int) -> None:
    def answer(seen: Seen) -> Reply:
        return Reply(status, b"", {"Location": "b?c=d"}) if seen.path == "/a" else ok(seen)

    server = start(answer)

    assert read(open_session(server.host).request("GET", f"{server.url}/a")) == b"fine"
    assert server.paths() == ["/a", "/b?c=d"]


def test_redirect_to_a_name_in_unicode_is_followed(start: Start, open_session: OpenSession) -> None:
    location = "/übung 1.png".encode().decode("latin-1")

    def answer(seen: Seen) -> Reply:
        return Reply(302, b"", {"Location": location}) if seen.path == "/a" else ok(seen)

    server = start(answer)

    assert read(open_session(server.host).request("GET", f"{server.url}/a")) == b"fine"
    assert server.paths()[1] == "/%C3%BCbung%201.png"


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/",
        "http://169.254.169.254/",
        "//169.254.169.254/",
        "\\\\169.254.169.254\\",
        "http:\\\\2852039166/",
        "file:///etc/hosts",
        "http://[",
    ],
)
def test_redirect_to_a_forbidden_place_is_refused(start: Start, open_session: OpenSession, target: str) -> None:
    private = start(ok)
    server = start(redirect(target.format(port=private.port)))

    with pytest.raises(requests.RequestException):
        open_session(server.host).request("GET", server.url)

    assert (len(server.seen), private.seen) == (1, [])


def test_redirect_to_a_metadata_address_is_refused_though_it_is_allowed(
    start: Start, open_session: OpenSession
) -> None:
    server = start(redirect("http://0xa9fea9fe/latest/meta-data/"))

    with pytest.raises(ForbiddenAddress, match="metadata"):
        open_session(server.host, "0xa9fea9fe", "169.254.169.254").request("GET", server.url)


def test_redirects_without_end_are_given_up(start: Start, open_session: OpenSession) -> None:
    server = start(redirect("/"))

    with pytest.raises(requests.TooManyRedirects):
        open_session(server.host).request("GET", server.url)

    assert len(server.seen) == 6


def test_body_of_a_redirect_is_not_read(start: Start, open_session: OpenSession) -> None:
    def answer(seen: Seen) -> Reply:
        if seen.path == "/b":
            return ok(seen)
        return Reply(302, headers={"Location": "/b"}, parts=[b"x" * 1000] * 10_000, pause=0.02)

    server = start(answer)
    begun = time.monotonic()

    assert read(open_session("127.0.0.1").request("GET", server.url)) == b"fine"
    assert time.monotonic() - begun < PATIENCE


def ask_with_token(session: SafeSession, url: str, owner: FakeServer, method: str = "GET", **more: Any) -> None:
    options = {"headers": lambda: TOKEN, "headers_for": Base.of(owner.url), **more}
    session.request(method, url, **options).close()


def test_token_goes_to_its_own_origin_only_also_across_redirects(start: Start, open_session: OpenSession) -> None:
    stranger = start(ok)
    owner = start(redirect(stranger.url))
    first = start(redirect(owner.url))

    ask_with_token(open_session("127.0.0.1"), first.url, owner)

    tokens = [server.seen[0].headers.get("Authorization") for server in (first, owner, stranger)]
    assert tokens == [None, "Token secret", None]


@pytest.mark.parametrize("path", ["//label-studio", "/a//label-studio/", "/label%2Fstudio", "/ü b"])
def test_own_server_gets_the_token_however_its_path_is_written(path: str) -> None:
    base = Base.of(f"http://localhost{path}")
    assert base.contains(f"http://localhost{path.rstrip('/')}/api/projects/7/")
    assert not base.contains(f"http://localhost{path.rstrip('/')}-other/api/projects/7/")
    assert not base.contains(f"http://localhost{path.rstrip('/')}/..%2f..%2f..%2fother")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{stranger}/",
        "http://127.0.0.1:{stranger}/?http://127.0.0.1:{owner}/",
        "http://127.0.0.1:{stranger}/#@127.0.0.1:{owner}/",
        "http://127.0.0.1:{stranger}\\@127.0.0.1:{owner}/",
        "http://127.0.0.1:{stranger}/\\@127.0.0.1:{owner}/",
        "http://127.0.0.1:{owner}@127.0.0.1:{stranger}/",
        "http://localhost:{owner}/",
        "http://127.0.0.1:{stranger}\t@127.0.0.1:{owner}/",
        "http://127.0.0.1:{stranger}\n@127.0.0.1:{owner}/",
        "HTTP://127.1:{owner}/",
    ],
)
def test_no_other_origin_gets_the_token_by_a_trick(start: Start, open_session: OpenSession, url: str) -> None:
    owner, stranger = start(ok), start(ok)
    written = url.format(owner=owner.port, stranger=stranger.port)
    session = open_session("127.0.0.1", "localhost", "127.1")
    try:
        ask_with_token(session, written, owner)
    except requests.RequestException:
        assert (owner.seen, stranger.seen) == ([], [])
        return

    sent = [
        ("Token secret", seen) for server in (owner, stranger) for seen in server.seen if "Token" in str(seen.headers)
    ]
    assert sent == []


@pytest.mark.parametrize("spelling", ["http://127.0.0.1:{}/", "HTTP://127.0.0.1:{}", "http://x@127.0.0.1:{}/"])
def test_own_origin_gets_the_token_however_it_is_written(
    start: Start, open_session: OpenSession, spelling: str
) -> None:
    owner = start(ok)

    ask_with_token(open_session("127.0.0.1"), spelling.format(owner.port), owner)

    assert owner.seen[0].headers["Authorization"] in ("Token secret", "Basic eDo=")


@pytest.mark.parametrize(
    "value", ["Token secret\n", "Token sec\r\nret", " secret", "Token secret…", "secret\x00", "\ud800"]
)
def test_header_that_cannot_be_sent_is_an_error_without_its_value(
    start: Start, open_session: OpenSession, value: str
) -> None:
    owner = start(ok)

    with pytest.raises(requests.RequestException) as refused:
        ask_with_token(open_session("127.0.0.1"), owner.url, owner, headers=lambda: {"Authorization": value})

    assert "Authorization" in str(refused.value)
    assert "sec" not in "".join(traceback.format_exception(refused.value, limit=0))
    assert owner.seen == []


def test_every_request_says_who_asks(start: Start, open_session: OpenSession) -> None:
    server = start(lambda seen: Reply(302, b"", {"Location": "/b"}) if seen.path == "/a" else ok(seen))
    session = open_session("127.0.0.1")

    session.request("GET", f"{server.url}/a").close()
    ask_with_token(session, server.url, server)

    agents = {seen.headers["User-Agent"] for seen in server.seen}
    assert len(server.seen) == 3
    assert len(agents) == 1
    assert re.fullmatch(r"image-classifier-backend/[\d.]+ \(.*Label Studio.*https://.*\)", agents.pop())


def test_post_is_not_sent_on_to_another_origin(start: Start, open_session: OpenSession) -> None:
    stranger = start(ok)
    owner = start(redirect(stranger.url, 307))

    with pytest.raises(requests.RequestException, match=stranger.url):
        ask_with_token(open_session("127.0.0.1"), owner.url, owner, "POST", json={"refresh": "secret"})

    assert stranger.seen == []


def test_cookies_are_not_kept(start: Start, open_session: OpenSession) -> None:
    server = start(lambda seen: Reply(200, b"", {"Set-Cookie": "session=of-one-user"}))
    session = open_session("127.0.0.1")

    for _ in range(2):
        session.request("GET", server.url).close()

    assert ["Cookie" in seen.headers for seen in server.seen] == [False, False]


# Limits


def test_body_of_the_allowed_size_is_read_and_a_larger_one_is_not(start: Start, open_session: OpenSession) -> None:
    server = start(lambda seen: Reply(200, b"x" * 5000))
    session = open_session("127.0.0.1")

    assert read(session.request("GET", server.url), max_bytes=5000) == b"x" * 5000
    with pytest.raises(requests.RequestException, match=r"more than [0-9,]+ bytes"):
        read(session.request("GET", server.url), max_bytes=4999)


def test_compressed_body_is_limited_by_its_real_size(start: Start, open_session: OpenSession) -> None:
    packed = zlib.compress(b"x" * 20_000_000)
    server = start(lambda seen: Reply(200, packed, {"Content-Encoding": "deflate"}))

    with pytest.raises(requests.RequestException, match=r"more than [0-9,]+ bytes"):
        read(open_session("127.0.0.1").request("GET", server.url), max_bytes=1_000_000)


def test_body_that_trickles_ends_at_the_deadline(start: Start, open_session: OpenSession) -> None:
    server = start(lambda seen: Reply(200, parts=[b"x"] * 10_000, pause=0.02))
    begun = time.monotonic()

    with pytest.raises(requests.Timeout):
        read(open_session("127.0.0.1").request("GET", server.url), seconds=0.3)

    assert time.monotonic() - begun < PATIENCE


def test_server_that_says_nothing_ends_at_the_deadline(start: Start, open_session: OpenSession) -> None:
    def hang(seen: Seen) -> Reply:
        server.closing.wait(2 * PATIENCE)
        return Reply()

    server = start(hang)
    begun = time.monotonic()

    with pytest.raises(requests.RequestException):
        open_session("127.0.0.1").request("GET", server.url, deadline=begun + 0.3)

    assert time.monotonic() - begun < PATIENCE


def test_redirects_share_one_deadline(start: Start, open_session: OpenSession) -> None:
    def slow(seen: Seen) -> Reply:
        server.closing.wait(0.2)
        return Reply(302, b"", {"Location": "/"})

    server = start(slow)

    with pytest.raises(requests.Timeout):
        open_session("127.0.0.1").request("GET", server.url, deadline=time.monotonic() + 0.3)

    assert len(server.seen) <= 2


@pytest.mark.parametrize(("method", "succeeds"), [("GET", True), ("POST", False)])
def test_connection_that_was_kept_and_is_closed_is_opened_again(
    open_session: OpenSession, method: str, succeeds: bool
) -> None:
    connections = []

    def serve(listener: socket.socket) -> None:
        for reads_one_more in (True, False):
            with listener.accept()[0] as connection:
                connections.append(connection)
                if connection.recv(10_000):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")
                if reads_one_more:
                    connection.recv(10_000)  # and does not answer it

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread = threading.Thread(target=serve, args=[listener], daemon=True)
        thread.start()
        session = open_session("127.0.0.1")
        assert read(session.request("GET", url)) == b"fine"
        if succeeds:
            assert read(session.request(method, url)) == b"fine"
        else:
            with pytest.raises(requests.ConnectionError):
                session.request(method, url)
            socket.create_connection(listener.getsockname()).close()  # what the server waits for
        session.close()
        thread.join()
    assert len(connections) == 2


def test_body_that_is_cut_short_is_an_error(start: Start, open_session: OpenSession) -> None:
    server = start(lambda seen: Reply(200, headers={"Content-Length": "1000"}, parts=[b"x" * 10]))

    with pytest.raises(requests.RequestException):
        read(open_session("127.0.0.1").request("GET", server.url))


def test_answer_that_is_not_http_is_an_error_that_says_so(open_session: OpenSession) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\0\xff\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(requests.RequestException, match=r"^its server doesn't speak HTTP$"):
            open_session("127.0.0.1").request("GET", f"http://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join()


# Words


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@host:1/a.png?sig=secret#secret", "https://host:1/a.png?…"),
        ("https://host/a.png", "https://host/a.png"),
        ("/data/upload/1/a.png?token=secret", "/data/upload/1/a.png"),
        ("http://[?secret", "http://["),
        ("//user:secret@host/a.png?sig=secret", "//host/a.png?…"),
        ("x" * 500, "x" * 200),
    ],
)
def test_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert url_without_secrets(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@127.0.0.1:{}/a.png?X-Amz-Signature=secret&x=secret",
        "http://user:secret@nowhere.invalid/?secret",
        "http://127.0.0.1:99999/a?sig=secret",
        "http:///a?sig=secret",
    ],
)
def test_error_is_explained_without_secrets(open_session: OpenSession, url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    with pytest.raises(requests.RequestException) as failed:
        open_session("127.0.0.1").request("GET", url.format(port))

    assert "secret" not in explain(failed.value)
    assert "Max retries" not in explain(failed.value)
    # Logging the error with its causes reveals no more.
    assert "secret" not in "".join(traceback.format_exception(failed.value, limit=0))


def test_error_of_a_body_is_told_without_secrets(start: Start, open_session: OpenSession) -> None:
    server = start(lambda seen: Reply(200, headers={"Content-Length": "1000"}, parts=[b"x" * 10]))
    response = open_session("127.0.0.1").request("GET", f"{server.url}/?sig=secret")

    with pytest.raises(requests.RequestException) as failed:
        read(response)

    assert "secret" not in "".join(traceback.format_exception(failed.value, limit=0))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (" \n http://h/a.png\t ", "http://h/a.png"),
        ("http://h/a\n b.pn\r\ng", "http://h/a b.png"),
        ("HTTP://Host/A.png", "http://Host/A.png"),
        ("http:\\\\h\\a\\b.png?c=\\d#\\e", "http://h/a/b.png?c=\\d#\\e"),
        ("\\data\\upload\\7\\a.png", "/data/upload/7/a.png"),
        ("\\\\h\\a.png", "//h/a.png"),
        ("DATA:image/png;BASE64,AA\\AA", "data:image/png;BASE64,AA\\AA"),
        ("/data/upload/7/a b.png", "/data/upload/7/a b.png"),
        ("", ""),
        (" ", ""),
    ],
)
def test_url_is_read_as_browsers_read_it(written: str, read: str) -> None:
    assert as_browsers_read(written) == read


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://Host/a", Origin("http", "host", 80)),
        ("https://host", Origin("https", "host", 443)),
        ("http://u:p@[::1]:8080/", Origin("http", "::1", 8080)),
        ("http://BÜcher.example", Origin("http", "xn--bcher-kva.example", 80)),
        ("http://no．name⒈/", Origin("http", "no．name⒈", 80)),  # it can't be connected to
    ],
)
def test_origin_is_scheme_host_and_port(url: str, origin: Origin) -> None:
    assert Origin.of(url) == origin
