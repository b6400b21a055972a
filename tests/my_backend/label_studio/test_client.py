import base64
import gzip
import json
import re
import socket
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest

from my_backend.errors import LabelStudioDown, LabelStudioError, TokenRefused
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.task_pages import task_pages
from safe_http.session import Limits, SafeSession, read_body
from testing.fake_label_studio.server import JWT_KEY, PNG, FakeLabelStudio
from testing.http_server import FakeServer, Reply, Seen, json_reply
from testing.waiting import eventually
from tests.my_backend.conftest import MakeSettings

EXCHANGE = "/api/token/refresh/"
INF = float("inf")
PERSONAL = jwt.encode({"token_type": "refresh"}, JWT_KEY)


def connect(server: FakeLabelStudio, token: str | None = None) -> LabelStudio:
    return LabelStudio(server.url, server.pat if token is None else token, SafeSession(["127.0.0.1"]))


def tokens(server: FakeLabelStudio) -> list[str]:
    return [seen.headers.get("Authorization", "") for seen in server.server.seen]


def test_personal_access_token_is_exchanged_once_and_never_sent_as_it_is(label_studio: FakeLabelStudio) -> None:
    client = connect(label_studio)

    client.project(7)
    client.project(7)

    access = f"Bearer {label_studio.access_tokens[0]}"
    assert tokens(label_studio) == ["", access, access]
    assert label_studio.server.paths()[0] == "/api/token/refresh/"


def test_access_token_that_is_about_to_end_is_renewed(label_studio: FakeLabelStudio) -> None:
    label_studio.token_seconds = 20.0  # less than the margin
    client = connect(label_studio)

    client.project(7)
    client.project(7)

    assert len(label_studio.access_tokens) == 2
    assert tokens(label_studio)[-1] == f"Bearer {label_studio.access_tokens[1]}"


def test_many_threads_exchange_the_token_once(label_studio: FakeLabelStudio) -> None:
    client = connect(label_studio)

    in_threads(8, lambda: client.project(7))

    assert len(label_studio.access_tokens) == 1


def restart(server: FakeLabelStudio) -> None:
    """With another key, so that it accepts no access token from before."""
    server.access_tokens.clear()


ASK_WITH_TOKEN: dict[str, Callable[[LabelStudio], Any]] = {
    "question": lambda client: client.project(7),
    "change": lambda client: client.change_project(7, title="Pets"),
    "image": lambda client: read_body(client.get(f"{client.url}/a.png", Limits(), INF), max_bytes=1000, deadline=INF),
}


@pytest.mark.parametrize("ask", ASK_WITH_TOKEN.values(), ids=ASK_WITH_TOKEN)
def test_access_token_from_before_a_restart_is_exchanged_again(
    label_studio: FakeLabelStudio, ask: Callable[[LabelStudio], Any]
) -> None:
    label_studio.files["/a.png"] = PNG
    client = connect(label_studio)
    before = ask(client)
    restart(label_studio)

    assert ask(client) == before
    assert tokens(label_studio)[-1] == f"Bearer {label_studio.access_tokens[0]}"
    assert label_studio.server.paths().count(EXCHANGE) == 2


def test_threads_exchange_a_refused_token_once(label_studio: FakeLabelStudio) -> None:
    client = connect(label_studio)
    client.project(7)
    restart(label_studio)

    assert {project["title"] for project in in_threads(8, lambda: client.project(7))} == {"Pets"}
    assert label_studio.server.paths().count(EXCHANGE) == 2


def test_url_closed_to_the_token_costs_one_more_exchange(label_studio: FakeLabelStudio) -> None:
    label_studio.files["/closed.png"] = Reply(401)
    client = connect(label_studio)

    for _ in range(5):
        assert client.get(f"{label_studio.url}/closed.png", Limits(), INF).status_code == 401
        client.project(7)

    assert label_studio.server.paths().count(EXCHANGE) == 2


@pytest.mark.parametrize("expiry", [None, "never", [1], 10**400])
def test_odd_expiry_of_a_token_counts_as_unknown(label_studio: FakeLabelStudio, expiry: Any) -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"token_type": "refresh", "exp": expiry}).encode()).decode()
    begin, _, end = label_studio.pat.split(".")
    label_studio.pat = f"{begin}.{claims.rstrip('=')}.{end}"

    assert connect(label_studio).token().expires == float("inf")
    assert connect(label_studio).project(7)["id"] == 7


def test_token_label_studio_takes_back_is_reported_with_the_fix(label_studio: FakeLabelStudio) -> None:
    client = connect(label_studio)
    client.project(7)
    restart(label_studio)
    label_studio.pat = "another"

    for _ in range(2):
        with pytest.raises(TokenRefused, match=r"rejected the token .* set LABEL_STUDIO_API_KEY"):
            client.project(7)


@pytest.mark.parametrize("kind", ["legacy", "access"])
def test_token_from_the_settings_is_not_tried_again(label_studio: FakeLabelStudio, kind: str) -> None:
    token = label_studio.legacy if kind == "legacy" else jwt.encode({"token_type": "access"}, JWT_KEY)

    with pytest.raises(TokenRefused):
        connect(label_studio, token).project(7)

    assert len(label_studio.server.seen) == 1


def test_401_of_an_image_server_is_not_about_the_token(label_studio: FakeLabelStudio) -> None:
    with FakeServer(lambda seen: Reply(401)) as images:
        client = LabelStudio(label_studio.url, label_studio.pat, SafeSession(["127.0.0.1"]))
        client.project(7)

        assert client.get(images.url, Limits(), INF).status_code == 401
        assert len(images.seen) == 1
    assert label_studio.server.paths().count(EXCHANGE) == 1


def test_threads_that_wait_for_an_exchange_share_its_failure() -> None:
    """If each tried for itself, Label Studio's silence would hold them one after the other."""
    waiting = Counting()

    def answer(seen: Seen) -> Reply:
        assert eventually(lambda: waiting.count == 8)
        return Reply(503)

    with FakeServer(answer) as server:
        client = LabelStudio(server.url, PERSONAL, SafeSession(["127.0.0.1"]))
        client._lock = waiting  # type: ignore[assignment]  # it does what a lock does

        assert in_threads(8, lambda: error_of(client)) == ["Label Studio answered 503 to POST /api/token/refresh/"] * 8
        assert server.paths() == [EXCHANGE]

        waiting.count = 7
        assert error_of(client)
        assert server.paths() == [EXCHANGE, EXCHANGE]  # who comes later tries again


class Counting:
    """A lock that counts who has come to it."""

    def __init__(self) -> None:
        self.count = 0
        self._own, self._lock = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._own:
            self.count += 1
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def in_threads(count: int, ask: Callable[[], Any]) -> list[Any]:
    """What each of so many threads gets, which begin together."""
    start = threading.Barrier(count)

    def begin() -> Any:
        start.wait()
        return ask()

    with ThreadPoolExecutor(count) as threads:
        return [one.result() for one in [threads.submit(begin) for _ in range(count)]]


def error_of(client: LabelStudio) -> str:
    with pytest.raises(LabelStudioError) as failed:
        client.headers()
    return str(failed.value)


def test_legacy_token_is_sent_as_it_is(label_studio: FakeLabelStudio) -> None:
    label_studio.legacy_enabled = True

    assert connect(label_studio, label_studio.legacy).project(7)["title"] == "Pets"
    assert tokens(label_studio) == [f"Token {label_studio.legacy}"]


def test_access_token_is_sent_as_it_is(label_studio: FakeLabelStudio) -> None:
    token = jwt.encode({"token_type": "access"}, JWT_KEY)
    label_studio.access_tokens.append(token)

    connect(label_studio, token).project(7)

    assert tokens(label_studio) == [f"Bearer {token}"]


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("", "requires a token"),
        ("0123456789abcdef0123456789abcdef01234567", "legacy tokens are disabled"),
        (jwt.encode({"token_type": "refresh"}, JWT_KEY), "rejected the token"),
        (jwt.encode({"token_type": "access"}, JWT_KEY), "rejected the token"),
    ],
    ids=["none", "legacy", "unknown personal access token", "unknown access token"],
)
def test_refused_token_is_explained_with_the_fix(label_studio: FakeLabelStudio, token: str, said: str) -> None:
    with pytest.raises(LabelStudioError, match=said) as refused:
        connect(label_studio, token).project(7)

    assert "set LABEL_STUDIO_API_KEY" in str(refused.value)
    assert not token or token not in str(refused.value)


def test_watermark_changes_with_the_newest_task_and_the_numbers(label_studio: FakeLabelStudio) -> None:
    client = connect(label_studio)
    first = client.watermark(7)
    assert client.watermark(7) == first

    label_studio.updated_at = "2026-11-20T13:35:52Z"
    second = client.watermark(7)
    label_studio.annotated = [{}]

    assert len({first, second, client.watermark(7)}) == 3


def test_watermark_looks_at_annotated_tasks_alone(label_studio: FakeLabelStudio) -> None:
    connect(label_studio).watermark(7)

    [path] = [path for path in label_studio.server.paths() if path.startswith("/api/tasks/")]
    query = parse_qs(urlsplit(path).query)
    assert query["review"] == ["true"], "otherwise Label Studio first requests a missing prediction"
    [annotated] = json.loads(query["query"][0])["filters"]["items"]
    assert (annotated["filter"], annotated["operator"], annotated["value"]) == (
        "filter:tasks:total_annotations",
        "greater",
        0,
    )


@pytest.mark.parametrize(
    "token", ["secretabcd\n", "\nsecretabcd", "secret\r\nabcd", "secret…abcd", "secret\x00abcd", "\ud800secret"]
)
def test_token_that_cannot_be_sent_is_explained_and_not_shown(label_studio: FakeLabelStudio, token: str) -> None:
    with pytest.raises(TokenRefused, match="set LABEL_STUDIO_API_KEY") as refused:
        connect(label_studio, token).project(7)

    assert "secret" not in "".join(traceback.format_exception(refused.value, limit=0))
    assert label_studio.server.seen == []


def test_access_token_that_cannot_be_sent_is_an_error_without_it(label_studio: FakeLabelStudio) -> None:
    with FakeServer(lambda seen: json_reply({"access": "secret\nsecret"})) as server:
        client = LabelStudio(server.url, label_studio.pat, SafeSession(["127.0.0.1"]))
        with pytest.raises(LabelStudioError) as failed:
            client.project(7)

    assert "secret" not in "".join(traceback.format_exception(failed.value, limit=0))


def test_unknown_project_is_explained(label_studio: FakeLabelStudio) -> None:
    with pytest.raises(LabelStudioError, match="404 to GET /api/projects/9/: the project doesn't exist"):
        connect(label_studio).project(9)


ASK: dict[str, Callable[[LabelStudio], Any]] = {
    "annotated tasks": lambda client: list(task_pages(client, 7, annotated=True)),
    "project": lambda client: client.project(7),
    "watermark": lambda client: client.watermark(7),
}


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK.keys())
@pytest.mark.parametrize("answer", [Reply(200, b"<html>"), Reply(200, b""), Reply(500, b"oh"), json_reply("text")])
def test_answer_of_another_shape_is_an_error_of_label_studio(ask: Callable[[LabelStudio], Any], answer: Reply) -> None:
    with FakeServer(lambda seen: answer) as server:
        client = LabelStudio(server.url, "legacy", SafeSession(["127.0.0.1"]))
        with pytest.raises(LabelStudioError):
            ask(client)


def test_response_that_is_damaged_says_so() -> None:
    packed = gzip.compress(b'{"id": 7}' * 100)
    damaged = Reply(200, packed[:20] + b"damage" + packed[26:], {"Content-Encoding": "gzip"})
    with FakeServer(lambda seen: damaged) as server, pytest.raises(LabelStudioDown) as failed:
        LabelStudio(server.url, "", SafeSession(["127.0.0.1"])).project(7)

    assert str(failed.value).startswith("Can't read Label Studio's response to GET /api/projects/7")
    assert "it is damaged" in str(failed.value)


@pytest.mark.parametrize(
    "answer", [json_reply({}), json_reply([]), Reply(200, b"<html>"), json_reply({"access": None})]
)
def test_exchange_that_gives_no_token_is_an_error_of_label_studio(answer: Reply, label_studio: FakeLabelStudio) -> None:
    with FakeServer(lambda seen: answer) as server:
        client = LabelStudio(server.url, label_studio.pat, SafeSession(["127.0.0.1"]))
        with pytest.raises(LabelStudioError):
            client.headers()


def test_label_studio_that_does_not_answer_is_named_without_secrets(label_studio: FakeLabelStudio) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        place = f"127.0.0.1:{closed.getsockname()[1]}"
    client = LabelStudio(f"http://user:secret@{place}", label_studio.pat, SafeSession(["127.0.0.1"]))

    why = re.escape(f"Can't reach Label Studio at http://{place} (can't connect to 127.0.0.1: Connection refused)")
    with pytest.raises(LabelStudioError, match=why) as failed:
        client.project(7)

    assert "LABEL_STUDIO_URL" in str(failed.value)
    assert "secret" not in str(failed.value)
    assert label_studio.pat not in str(failed.value)


def test_missing_file_of_certificates_is_named() -> None:
    client = LabelStudio("https://127.0.0.1:1", "", SafeSession(["127.0.0.1"], ca_bundle="/nowhere.pem"))
    with pytest.raises(LabelStudioError, match=r"/nowhere\.pem; check REQUESTS_CA_BUNDLE"):
        client.release()


def test_what_is_no_label_studio_is_doubted() -> None:
    with FakeServer(lambda seen: Reply(404, b"<html>")) as server, pytest.raises(LabelStudioError) as failed:
        LabelStudio(server.url, "", SafeSession(["127.0.0.1"])).release()

    assert str(failed.value).endswith(f"404 to GET /api/version/: is {server.url} a Label Studio server?")


def test_personal_access_token_does_not_follow_label_studios_redirect(label_studio: FakeLabelStudio) -> None:
    with FakeServer(lambda seen: json_reply({"access": "x"})) as stranger:
        moved = Reply(307, b"", {"Location": f"{stranger.url}/api/token/refresh/"})
        with FakeServer(lambda seen: moved) as server:
            client = LabelStudio(server.url, label_studio.pat, SafeSession(["127.0.0.1"]))
            with pytest.raises(LabelStudioError, match=f"redirects to {stranger.url}"):
                client.project(7)

        assert stranger.seen == []


def test_headers_that_trickle_end_at_a_deadline() -> None:
    with FakeServer(lambda seen: Reply(200, b"{}", slow_headers=True, pause=0.1)) as server:
        client = LabelStudio(server.url, "", SafeSession(["127.0.0.1"]))
        with pytest.raises(LabelStudioError, match=r"took too long|timed out"):
            client.call("GET", "/api/version/", read_seconds=0.3)


def test_redirect_to_another_address_is_not_taken_for_a_rejected_token(label_studio: FakeLabelStudio) -> None:
    """With HTTP instead of HTTPS in LABEL_STUDIO_URL, for example."""
    label_studio.legacy_enabled = True
    with FakeServer(lambda seen: Reply(301, b"", {"Location": label_studio.url + seen.path})) as server:
        client = LabelStudio(server.url, label_studio.legacy, SafeSession(["127.0.0.1"]))
        for ask in (client.release, lambda: client.project(7)):
            with pytest.raises(LabelStudioError, match=f"redirects to {label_studio.url}: use that address"):
                ask()

    assert label_studio.server.seen == []


def test_redirect_to_another_address_names_it_with_its_sub_path() -> None:
    with FakeServer(lambda seen: Reply(301, b"", {"Location": f"/moved{seen.path}"})) as server:
        client = LabelStudio(f"{server.url}/label-studio", "", SafeSession(["127.0.0.1"]))
        with pytest.raises(LabelStudioError, match=f"redirects to {server.url}/moved/label-studio: use that address"):
            client.project(7)


def test_redirect_to_a_login_page_is_not_taken_for_label_studios_new_address() -> None:
    with FakeServer(lambda seen: Reply(302, b"", {"Location": f"/login?next={seen.path}"})) as server:
        client = LabelStudio(f"{server.url}/label-studio", "", SafeSession(["127.0.0.1"]))
        with pytest.raises(LabelStudioError, match=f"redirects to {server.url}/login, perhaps a login page: use"):
            client.project(7)


def test_label_studio_may_have_a_name_in_unicode(
    label_studio: FakeLabelStudio, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", label_studio.server.port))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [address])
    url = f"http://bücher.example:{label_studio.server.port}"
    client = Connections(make_settings(label_studio_url=url, label_studio_api_key=label_studio.pat)).label_studio()

    assert client
    assert client.project(7)["id"] == 7


def test_label_studio_under_a_sub_path_is_asked_there() -> None:
    with FakeLabelStudio(prefix="/label-studio").running() as server:
        assert connect(server).project(7)["id"] == 7
        assert server.server.paths() == ["/label-studio/api/token/refresh/", "/label-studio/api/projects/7/"]
