"""Downloads of many images: patient if a server asks for it, and clear about what failed."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from safe_http import download
from safe_http.download import ATTEMPTS, MOST_REFUSED, Downloader, DownloadError
from safe_http.settings import FetchSettings
from testing.fake_label_studio.server import PNG
from testing.http_server import Answer, FakeServer, Reply, Seen

# More seconds than a busy machine needs.
PATIENT = {"image_hosts": "127.0.0.1", "image_seconds": 120, "image_read_seconds": 120, "image_connect_seconds": 120}

Start = Callable[..., tuple[FakeServer, Downloader]]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)


@pytest.fixture
def start() -> Iterator[Start]:
    """A server, and a downloader that may ask it."""
    with ExitStack() as stack:

        def start(answer: Answer, **given: object) -> tuple[FakeServer, Downloader]:
            server = stack.enter_context(FakeServer(answer))
            settings = FetchSettings.model_validate({**PATIENT, **given})
            downloader = Downloader(settings, threading.Event())
            stack.callback(downloader.close)
            return server, downloader

        yield start


def failing(times: int, status: int, **headers: str) -> Answer:
    """Answers with an image after so many failures."""
    seen: Counter[str] = Counter()

    def answer(one: Seen) -> Reply:
        seen[one.path] += 1
        return Reply(status, b"later", headers) if seen[one.path] <= times else Reply(200, PNG)

    return answer


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_failure_that_may_pass_is_tried_again(start: Start, status: int) -> None:
    server, downloader = start(failing(ATTEMPTS - 1, status))

    assert downloader(f"{server.url}/1.png") == PNG
    assert len(server.seen) == ATTEMPTS


def cut_short(times: int) -> Answer:
    """Answers with an image after as many halves of it."""
    half = Reply(200, headers={"Content-Length": str(len(PNG))}, parts=[PNG[: len(PNG) // 2]])
    left = iter(range(times))
    return lambda seen: half if next(left, None) is not None else Reply(200, PNG)


def test_download_that_is_cut_short_is_tried_again(start: Start) -> None:
    server, downloader = start(cut_short(ATTEMPTS - 1))

    assert downloader(f"{server.url}/1.png") == PNG
    assert len(server.seen) == ATTEMPTS


def test_download_that_is_always_cut_short_is_an_error(start: Start) -> None:
    server, downloader = start(cut_short(100))

    with pytest.raises(DownloadError) as failed:
        downloader(f"{server.url}/1.png")

    assert (failed.value.reason, len(server.seen)) == ("unreachable", ATTEMPTS)


def test_download_that_cannot_be_decoded_is_not_tried_again(start: Start) -> None:
    server, downloader = start(lambda seen: Reply(200, b"not gzip", {"Content-Encoding": "gzip"}))

    with pytest.raises(DownloadError, match="isn't compressed as its server says") as failed:
        downloader(f"{server.url}/1.png")

    assert (failed.value.reason, len(server.seen)) == ("server_error", 1)


@pytest.mark.parametrize(
    ("status", "reason", "requests"),
    [
        (503, "server_error", ATTEMPTS),
        (429, "too_many_requests", ATTEMPTS),
        (404, "not_found", 1),
        (403, "refused", 1),
        (410, "not_found", 1),
    ],
)
def test_failure_that_stays_is_an_error(start: Start, status: int, reason: str, requests: int) -> None:
    server, downloader = start(failing(100, status))

    with pytest.raises(DownloadError, match=f"its server answered {status}") as failed:
        downloader(f"{server.url}/1.png")

    assert (failed.value.reason, len(server.seen)) == (reason, requests)


@pytest.mark.parametrize("status", [302, 304])
def test_redirect_that_does_not_say_where_to_is_named(start: Start, status: int) -> None:
    server, downloader = start(lambda seen: Reply(status))

    with pytest.raises(DownloadError, match=f"^its server answered {status}$") as failed:
        downloader(f"{server.url}/1.png")

    assert (failed.value.reason, len(server.seen)) == ("server_error", 1)


class Waits(threading.Event):
    """Notes how long it is waited for, and doesn't wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        if len(self.seconds) > 3:  # the time that is waited for doesn't come
            self.set()
        return self.is_set()


def in_an_hour() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)


@pytest.mark.parametrize("asked", ["0", "nonsense", "Wed, 01 Jan 2020 00:00:00 GMT"])
def test_server_that_asks_for_no_pause_is_asked_at_once(start: Start, asked: str) -> None:
    server, _ = start(failing(1, 429, **{"Retry-After": asked}))
    waits = Waits()

    with closing(Downloader(FetchSettings.model_validate(PATIENT), waits)) as downloader:
        assert downloader(f"{server.url}/1.png") == PNG

    assert waits.seconds == []


@pytest.mark.parametrize(("asked", "least"), [("100", 90), ("7", 6)])
def test_server_says_how_long_to_wait(start: Start, asked: str, least: float) -> None:
    server, _ = start(failing(1, 429, **{"Retry-After": asked}))
    waits = Waits()
    downloader = Downloader(FetchSettings.model_validate(PATIENT), waits)

    with closing(downloader), suppress(DownloadError):  # interrupted, because `Waits` has enough
        downloader(f"{server.url}/1.png")

    assert waits.seconds[0] >= least


def test_other_images_of_a_server_wait_too(start: Start) -> None:
    server, _ = start(failing(1, 429, **{"Retry-After": "100"}))
    waits = Waits()
    downloader = Downloader(FetchSettings.model_validate(PATIENT), waits)

    for name in ("1.png", "2.png"):
        with pytest.raises(DownloadError, match="interrupted"):
            downloader(f"{server.url}/{name}")
    downloader.close()

    assert server.paths() == ["/1.png"]


@pytest.mark.parametrize("asked", [lambda: "3600", in_an_hour])
def test_retry_after_of_an_hour_is_an_error(start: Start, asked: Callable[[], str]) -> None:
    server, _ = start(failing(1, 503, **{"Retry-After": asked()}))
    downloader = Downloader(FetchSettings.model_validate(PATIENT), Waits())

    with closing(downloader), pytest.raises(DownloadError, match=r"asks clients to wait 3,[56].. s: try again later"):
        downloader(f"{server.url}/1.png")

    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("status", "asked", "requests"), [(429, "0", ATTEMPTS), (503, "0", ATTEMPTS), (503, "3600", 1)]
)
def test_server_that_refuses_many_images_in_a_row_is_left_alone(
    start: Start, status: int, asked: str, requests: int
) -> None:
    server, downloader = start(lambda seen: Reply(status, headers={"Retry-After": asked}))
    other, _ = start(lambda seen: Reply(200, PNG))

    for number in range(MOST_REFUSED):
        with pytest.raises(DownloadError, match=f"its server answered {status}"):
            downloader(f"{server.url}/{number}.png")
    with pytest.raises(DownloadError, match="in a row: try again later") as refused:
        downloader(f"{server.url}/another.png")

    assert refused.value.reason == "too_many_requests"
    assert len(server.seen) == MOST_REFUSED * requests
    assert downloader(f"{other.url}/1.png") == PNG


def test_server_that_refuses_only_some_images_is_asked_for_the_others(start: Start) -> None:
    answers = {
        "/busy.png": Reply(429),
        "/gone.png": Reply(404),
        "/broken.png": Reply(500),
        "/fine.png": Reply(200, PNG),
    }
    server, downloader = start(lambda seen: answers[seen.path])

    for name in (*("busy.png",) * (MOST_REFUSED - 1), "fine.png", *("busy.png", "gone.png", "broken.png") * 9):
        with suppress(DownloadError):
            downloader(f"{server.url}/{name}")

    assert downloader(f"{server.url}/fine.png") == PNG


@pytest.mark.parametrize(
    ("answer", "given", "reason", "said"),
    [
        (lambda seen: Reply(200, b"<!doctype html><p>Log in"), {}, "not_an_image", "a web page instead of an image"),
        (lambda seen: Reply(200, PNG), {"max_image_bytes": 3}, "too_large", "raise MAX_IMAGE_BYTES"),
        (lambda seen: Reply(200, PNG), {"image_hosts": ""}, "forbidden_address", "set IMAGE_HOSTS=127.0.0.1"),
        (
            lambda seen: Reply(302, b"", {"Location": "http://localhost:1/?token=s3cr3t"}),
            {},
            "forbidden_address",
            "localhost is on a private network",
        ),
        (lambda seen: Reply(302, b"", {"Location": "/"}), {}, "too_many_redirects", "raise IMAGE_REDIRECTS"),
        (
            lambda seen: Reply(302, b"", {"Location": "http://h:99999/?token=s3cr3t"}),
            {},
            "unreachable",
            "it redirects to an invalid URL (Failed to parse: http://h:99999/?…)",
        ),
        (
            lambda seen: Reply(200, b"", {}, [b"x"], 30),
            {"image_read_seconds": 0.2},
            "timeout",
            "it took too long; raise IMAGE_SECONDS and IMAGE_READ_SECONDS",
        ),
        (
            lambda seen: Reply(200, headers={"Content-Length": "1000"}, parts=[PNG]),
            {},
            "unreachable",
            "the connection ended before the whole response had arrived",
        ),
        (
            lambda seen: Reply(200, headers={"Transfer-Encoding": "chunked"}, parts=[b"20\r\nabc"]),
            {},
            "unreachable",
            "the connection ended before the whole response had arrived",
        ),
    ],
)
def test_image_that_cannot_be_had_says_why(
    start: Start, answer: Answer, given: dict[str, object], reason: str, said: str
) -> None:
    server, downloader = start(answer, **given)

    with pytest.raises(DownloadError) as failed:
        downloader(f"http://me:s3cr3t@{server.host}/1.png?sig=s3cr3t")

    assert failed.value.reason == reason
    assert said in str(failed.value)
    assert "s3cr3t" not in str(failed.value)


@pytest.mark.parametrize("host", ["[::1", "h:99999", "exa mple.com", "a..b", f"{'a' * 70}.com", f"\xe4{'a' * 70}.com"])
def test_url_that_cannot_be_valid_is_no_failure_of_a_server(start: Start, host: str) -> None:
    _, downloader = start(lambda seen: Reply(200, PNG))

    with pytest.raises(DownloadError) as failed:
        downloader(f"http://{host}/1.png")

    assert failed.value.reason == "other"


def test_missing_certificates_are_an_error_not_a_crash(start: Start) -> None:
    _, downloader = start(lambda seen: Reply(200, PNG), requests_ca_bundle="/nowhere.pem")

    with pytest.raises(DownloadError, match=r"nowhere\.pem"):
        downloader("https://127.0.0.1:1/1.png")
