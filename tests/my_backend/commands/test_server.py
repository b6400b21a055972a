"""How a server starts."""

from collections.abc import Callable

import pytest
from flask import Flask

from my_backend.backend import Backend
from my_backend.commands import server
from tests.my_backend.conftest import FAKE_MODEL
from tests.my_backend.fake_model import Script


def test_routes_are_added_before_the_threads_start(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    """Otherwise, in Python 3.11, an exception that a thread logs meanwhile may keep the server from starting."""
    create_app, ends = server.create_app, list[Callable[[], None]]()
    ran: list[bool] = []

    def create(backend: Backend) -> Flask:
        ran.append(backend.serving._thread.is_alive())
        return create_app(backend)

    monkeypatch.setenv("MODEL_CLASS", FAKE_MODEL)
    monkeypatch.setattr(server, "set_up_logs", lambda settings: None)
    monkeypatch.setattr(server, "at_exit_of_uwsgi", ends.append)
    monkeypatch.setattr(server, "leave", lambda: None)
    monkeypatch.setattr(server, "create_app", create)

    app = server.application_for_uwsgi()
    [end] = ends
    try:
        assert app.test_client().get("/health").json["status"] == "UP"  # type: ignore[index]
        assert ran == [False]
    finally:
        end()
