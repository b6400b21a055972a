"""The log line of a request."""

import logging

import pytest

from my_backend.web.middleware.request_log import LOGGED_PATH
from tests.my_backend.conftest import Client


def test_long_path_is_logged_short(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client.http.get("/" + "a-" * 4000)

    [line] = [line for line in caplog.messages if line.startswith("GET /a-a-")]
    assert len(line) < LOGGED_PATH + 50
