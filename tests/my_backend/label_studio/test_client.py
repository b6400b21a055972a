import json
import re
import socket
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest

from my_backend.errors import LabelStudioError, TokenRefused
from my_backend.label_studio.client import LabelStudio, find_label_studio
from my_backend.label_studio.safe_http import Limits, SafeSession
from my_backend.projects.registry import Credentials
from tests.my_backend.conftest import MakeSettings
from tests.my_backend.fake_server import JWT_KEY, FakeLabelStudio, FakeServer, Reply, json_reply


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
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        client.project(7)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(label_studio.access_tokens) == 1


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
def test_refused_token_is_explained_with_the_remedy(label_studio: FakeLabelStudio, token: str, said: str) -> None:
    with pytest.raises(LabelStudioError, match=said) as refused:
        connect(label_studio, token).project(7)

    assert "set LABEL_STUDIO_API_KEY" in str(refused.value)
    assert not token or token not in str(refused.value)


def test_annotated_tasks_are_the_export(label_studio: FakeLabelStudio) -> None:
    label_studio.export = [{"id": 1, "annotations": []}]

    assert connect(label_studio).annotated_tasks(7) == [{"id": 1, "annotations": []}]


def test_watermark_changes_with_the_newest_task_and_the_numbers(label_studio: FakeLabelStudio) -> None:
    client = connect(label_studio)
    first = client.watermark(7)
    assert client.watermark(7) == first

    label_studio.updated_at = "2026-11-20T13:35:52Z"
    second = client.watermark(7)
    label_studio.export = [{}]

    assert len({first, second, client.watermark(7)}) == 3


def test_watermark_looks_at_annotated_tasks_alone(label_studio: FakeLabelStudio) -> None:
    connect(label_studio).watermark(7)

    [path] = [path for path in label_studio.server.paths() if path.startswith("/api/tasks/")]
    asked = json.loads(parse_qs(urlsplit(path).query)["query"][0])
    [annotated] = asked["filters"]["items"]
    assert (annotated["filter"], annotated["operator"], annotated["value"]) == (
        "filter:tasks:total_annotations",
        "greater",
        0,
    )


@pytest.mark.parametrize(
    "token", ["0123abcd\n", "\n0123abcd", "0123\r\nabcd", "0123…abcd", "0123\x00abcd", "\ud8000123"]
)
def test_token_that_cannot_be_sent_is_explained_and_not_shown(label_studio: FakeLabelStudio, token: str) -> None:
    with pytest.raises(TokenRefused, match="set LABEL_STUDIO_API_KEY") as refused:
        connect(label_studio, token).project(7)

    assert "0123" not in "".join(traceback.format_exception(refused.value, limit=0))
    assert label_studio.server.seen == []


def test_access_token_that_cannot_be_sent_is_an_error_without_it(label_studio: FakeLabelStudio) -> None:
    with FakeServer(lambda seen: json_reply({"access": "secret\nsecret"})) as server:
        client = LabelStudio(server.url, label_studio.pat, SafeSession(["127.0.0.1"]))
        with pytest.raises(LabelStudioError) as failed:
            client.project(7)

    assert "secret" not in "".join(traceback.format_exception(failed.value, limit=0))


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "[::ffff:169.254.169.254]", "168.63.129.16"])
def test_label_studio_is_never_asked_at_a_metadata_address(make_settings: MakeSettings, host: str) -> None:
    settings = make_settings(label_studio_url=f"http://{host}", label_studio_api_key="x", image_hosts=(host,))
    found = find_label_studio(settings, None)
    assert found is not None

    with pytest.raises(LabelStudioError, match="metadata address"):
        found.release()


def test_unknown_project_is_explained(label_studio: FakeLabelStudio) -> None:
    with pytest.raises(LabelStudioError, match="404 to GET /api/projects/9/: the project doesn't exist"):
        connect(label_studio).project(9)


ASK: dict[str, Callable[[LabelStudio], Any]] = {
    "annotated tasks": lambda client: client.annotated_tasks(7),
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


def test_what_is_no_label_studio_is_doubted() -> None:
    with FakeServer(lambda seen: Reply(404, b"<html>")) as server, pytest.raises(LabelStudioError) as failed:
        LabelStudio(server.url, "", SafeSession(["127.0.0.1"])).release()

    assert str(failed.value).endswith(f"404 to GET /api/version/: is {server.url} a Label Studio server?")


def test_personal_access_token_is_not_sent_on_to_where_label_studio_redirects(label_studio: FakeLabelStudio) -> None:
    with FakeServer(lambda seen: json_reply({"access": "x"})) as stranger:
        moved = Reply(307, b"", {"Location": f"{stranger.url}/api/token/refresh/"})
        with FakeServer(lambda seen: moved) as server:
            client = LabelStudio(server.url, label_studio.pat, SafeSession(["127.0.0.1"]))
            with pytest.raises(LabelStudioError, match=f"redirects to {stranger.url}"):
                client.project(7)

        assert stranger.seen == []


def test_label_studio_under_a_sub_path_is_asked_there() -> None:
    with FakeLabelStudio(prefix="/label-studio").running() as server:
        assert connect(server).project(7)["id"] == 7
        assert server.server.paths() == ["/label-studio/api/token/refresh/", "/label-studio/api/projects/7/"]


CONFIGURED = {"label_studio_url": "http://configured:8080/", "label_studio_api_key": "key"}


@pytest.mark.parametrize(
    ("settings", "credentials", "expected"),
    [
        ({}, None, None),
        (CONFIGURED, None, ("http://configured:8080", "key")),
        (CONFIGURED, Credentials("http://told", "told"), ("http://configured:8080", "key")),
        ({}, Credentials("http://told:80/", "told"), ("http://told:80", "told")),
        ({"label_studio_api_key": "key"}, Credentials("http://told", "told"), ("http://told", "told")),
        (
            {"label_studio_url": "http://told:80"},
            Credentials("http://told", "told"),
            ("http://told", "told"),
        ),
        ({"label_studio_url": "http://configured"}, Credentials("http://told", "told"), ("http://configured", "")),
        ({"label_studio_url": "http://configured"}, Credentials("http://[", "told"), ("http://configured", "")),
        ({}, Credentials("told without a scheme", "told"), None),
        ({}, Credentials("http://[", "told"), None),
    ],
)
def test_key_goes_to_the_configured_label_studio_and_the_token_of_setup_to_the_one_that_sent_it(
    make_settings: MakeSettings,
    settings: dict[str, str],
    credentials: Credentials | None,
    expected: tuple[str, str] | None,
) -> None:
    found = find_label_studio(make_settings(**settings), credentials)

    assert (found and (found.url, found._token)) == expected


def test_label_studio_itself_may_be_private_but_not_the_other_ports_of_its_host(
    label_studio: FakeLabelStudio, make_settings: MakeSettings
) -> None:
    found = find_label_studio(
        make_settings(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat), None
    )
    assert found is not None
    assert found.project(7)["id"] == 7

    with FakeServer(lambda seen: Reply()) as other, pytest.raises(OSError, match="private network"):
        found.get(other.url, Limits(), time.monotonic() + 5)
