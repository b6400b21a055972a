"""The doctor's check of NOTIFY_URL."""

import pytest

from my_backend.diagnostics.doctor.notification_check import check_notifications
from my_backend.notifications.notice import Notice
from my_backend.notifications.outbox import Outbox
from testing.http_server import FakeServer, Reply
from testing.process import free_port
from tests.my_backend.conftest import MakeSettings


def test_receiver_is_reached_without_a_message_and_without_the_token(make_settings: MakeSettings) -> None:
    with FakeServer(lambda seen: Reply(404)) as receiver:
        check = check_notifications(make_settings(notify_url=f"{receiver.url}/hooks/the-token"))

    assert check.problems == ()
    assert check.said.startswith("to 127.0.0.1, which is reachable")
    assert [(seen.method, seen.path) for seen in receiver.seen] == [("HEAD", "/")]


@pytest.mark.parametrize("target", ["/login", "https://elsewhere.example/docs"])
def test_receiver_that_redirects_people_to_a_page_is_reachable(make_settings: MakeSettings, target: str) -> None:
    with FakeServer(lambda seen: Reply(302, b"", {"Location": target})) as receiver:
        check = check_notifications(make_settings(notify_url=f"{receiver.url}/hooks/the-token"))

        assert check.problems == ()
        assert [(seen.method, seen.path) for seen in receiver.seen] == [("HEAD", "/")]


def test_receiver_that_is_not_there(make_settings: MakeSettings) -> None:
    check = check_notifications(make_settings(notify_url=f"http://127.0.0.1:{free_port()}/hooks/the-token"))

    [problem] = check.problems
    assert problem.code == "notify"
    assert problem.message.startswith("Can't deliver notifications: no response from 127.0.0.1: ")
    assert "the-token" not in str(check)


def test_last_failure_is_reported(make_settings: MakeSettings) -> None:
    with FakeServer(lambda seen: Reply(200)) as receiver:
        settings = make_settings(notify_url=f"{receiver.url}/hooks/the-token")
        (settings.model_dir / "projects").mkdir(parents=True)
        outbox = Outbox(settings.model_dir / "projects")
        outbox.add([Notice("a", "problem", "Redis is unreachable.", 1.0)])
        outbox.failed("127.0.0.1 answered 404")
        check = check_notifications(settings)

    assert [problem.message for problem in check.problems] == ["Can't deliver notifications: 127.0.0.1 answered 404."]


def test_nothing_is_asked_without_an_address(make_settings: MakeSettings) -> None:
    assert check_notifications(make_settings()).said == "off: NOTIFY_URL is not set"
