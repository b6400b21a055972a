"""A program that receives notifications."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from my_backend.diagnostics import lasting
from my_backend.notifications import notifier
from testing.http_server import FakeServer, Reply, Seen
from testing.waiting import eventually

SECRET = "/services/T0123/B4567/a-token-of-the-webhook"


class Inbox:
    """Takes notifications, unless `reply` says something else; `tried` also counts the others."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.tried = 0
        self.reply = Reply(200, b"ok")
        self.url = ""

    def answer(self, seen: Seen) -> Reply:
        if seen.method != "POST":
            return Reply(405)
        assert seen.path == SECRET
        self.tried += 1
        if self.reply.status == 200:
            self.messages.append(json.loads(seen.body))
        return self.reply

    def named(self, *events: str) -> list[Any]:
        """The messages about these events."""
        return [message for message in self.messages if message["event"] in events]

    def wait_for(self, event: str, count: int = 1) -> list[Any]:
        assert eventually(lambda: len(self.named(event)) >= count), self.messages
        return self.named(event)


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """At `inbox.url`; the backend looks often."""
    monkeypatch.setattr(notifier, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(notifier, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(notifier, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(lasting, "LASTING_SECONDS", 0.0)
    inbox = Inbox()
    with FakeServer(inbox.answer) as server:
        inbox.url = server.url + SECRET
        yield inbox
