import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from my_backend.logs import set_up_logs
from tests.my_backend.conftest import MakeSettings

ROOT = Path(__file__).resolve().parents[2]
KEY = "my-label-studio-token"
PASSWORD = 'pa"ss\\wörd'


@pytest.fixture(autouse=True)
def root_logger_as_before() -> Iterator[None]:
    root, werkzeug = logging.getLogger(), logging.getLogger("werkzeug")
    before = root.handlers[:], root.level, werkzeug.level
    yield
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:], root.level = before[:2]
    werkzeug.setLevel(before[2])


@pytest.fixture(params=["text", "json"])
def log_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    "line",
    [
        f"key {KEY}",
        f"password {PASSWORD}",
        "Authorization: Token 0123456789abcdef0123456789abcdef01234567",
        "{'Authorization': 'Bearer eyJhbGciOi.eyJ0b2tlbl90.c2lnbmF0dXJl'}",
        "authorization: basic dXNlcjpwYXNzd29yZA==",
        "GET https://b.s3.amazonaws.com/a.png?X-Amz-Credential=AKIA0123456789&X-Amz-Signature=0123456789abcdef",
        "GET /a.png?X-Goog-Credential=robot0123456789&X-Goog-Signature=0123456789abcdef",
        "GET /a.png?sv=2020&sig=0123456789abcdef%3D",
        "GET /a.png?AWSAccessKeyId=AKIA0123456789&Signature=0123456789abcdef",
        "GET /a.png?token=0123456789abcdef&access_token=0123456789abcdef",
        "redis://:0123456789abcdef@redis:6379/0",
        "http://user:0123456789abcdef@label-studio/",
    ],
)
def test_secrets_are_taken_out(
    make_settings: MakeSettings, capsys: pytest.CaptureFixture[str], log_format: str, line: str
) -> None:
    set_up_logs(make_settings(label_studio_api_key=KEY, basic_auth_pass=PASSWORD, log_format=log_format))

    logging.getLogger("x").info("%s end", line)
    try:
        raise RuntimeError(line)
    except RuntimeError:
        logging.getLogger("x").exception("failed")

    written = capsys.readouterr().err
    assert written.count("***") >= 2
    assert "RuntimeError" in written
    secrets = (KEY, PASSWORD, json.dumps(PASSWORD, ensure_ascii=False)[1:-1], "0123456789", "c2lnbmF0dXJl", "dXNlcjpw")
    assert [secret for secret in secrets if secret in written] == []


def test_ordinary_lines_are_left_alone(make_settings: MakeSettings, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(make_settings())

    logging.getLogger("my.logger").warning("task 7: http://host:80/a.png?page=12345678 is no token: see Basic usage")

    line = capsys.readouterr().err
    assert line.endswith(
        " WARNING my.logger: task 7: http://host:80/a.png?page=12345678 is no token: see Basic usage\n"
    )


def test_json_is_an_object_a_line(make_settings: MakeSettings, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(make_settings(log_format="json"))

    logging.getLogger("a").info("naïve\n“line”")
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("b").exception("failed")

    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("INFO", "a", "naïve\n“line”")
    assert set(first) == {"time", "level", "logger", "message"}
    assert "ValueError: x" in second["traceback"]


@pytest.mark.parametrize(("level", "expected"), [("DEBUG", 4), ("WARNING", 2), ("ERROR", 1)])
def test_level_is_the_least_that_is_shown(
    make_settings: MakeSettings, capsys: pytest.CaptureFixture[str], level: str, expected: int
) -> None:
    set_up_logs(make_settings(log_level=level))

    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger("x").log(number, "line")

    assert len(capsys.readouterr().err.splitlines()) == expected


def test_log_file_has_the_same_lines_without_secrets_and_one_writer(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "backend.log"
    code = f"""
import logging
from pathlib import Path
from my_backend.logs import claim_log, set_up_logs
from my_backend.settings import Settings
file = Path({str(file)!r})
set_up_logs(Settings(_env_file=None, label_studio_api_key={KEY!r}), file)
logging.getLogger("x").info("key %s; whether it may be written twice: %s", {KEY!r}, claim_log(file))
"""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert file.read_text() == process.stderr
    assert "key ***; whether it may be written twice: False" in file.read_text()


def test_log_goes_to_standard_error(make_settings: MakeSettings, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(make_settings())

    logging.getLogger("x").info("line")

    assert capsys.readouterr().out == ""
    handlers: list[Any] = logging.getLogger().handlers
    assert [handler.stream for handler in handlers] == [sys.stderr]
