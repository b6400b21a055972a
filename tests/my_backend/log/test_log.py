import base64
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from my_backend import context
from my_backend.errors import BackendError
from my_backend.log.recent import recent_lines
from my_backend.log.setup import collect_output, set_up_logs
from tests.my_backend.conftest import MakeSettings

ROOT = Path(__file__).resolve().parents[3]
KEY = "my-label-studio-token"
PASSWORD = 'pa"ss\\wörd'


@pytest.fixture(autouse=True)
def root_logger_as_before() -> Iterator[None]:
    root, werkzeug = logging.getLogger(), logging.getLogger("werkzeug")
    before = root.handlers[:], root.level, werkzeug.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    yield
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    logging.captureWarnings(False)
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
        "http://0123456789abcdef@label-studio/",
        "eyJhbGciOi.eyJ0b2tlbl90.c2lnbmF0dXJl",
        "0123456789abcdef0123456789abcdef01234567",
        f"{{'access_token': '{KEY}', 'password': '0123456789abcdef'}}",
        "BASIC_AUTH_PASS=0123456789abcdef",
        "me:" + quote(PASSWORD),
    ],
)
def test_secrets_are_taken_out(
    make_settings: MakeSettings, capsys: pytest.CaptureFixture[str], log_format: str, line: str
) -> None:
    settings = {"label_studio_api_key": KEY, "basic_auth_user": "me", "basic_auth_pass": PASSWORD}
    set_up_logs(make_settings(**settings, log_format=log_format))

    logging.getLogger("x").info("%s end", line)
    logging.getLogger("x").info("with its fields", extra={"fields": {"a": [line], "b": {"c": line}}})
    try:
        try:
            raise RuntimeError(line)
        except RuntimeError as error:
            raise ValueError("because of that") from error
    except ValueError:
        logging.getLogger("x").exception("failed")

    written = capsys.readouterr().err
    assert written.count("***") >= 2
    assert "RuntimeError" in written
    secrets = (
        KEY,
        PASSWORD,
        json.dumps(PASSWORD, ensure_ascii=False)[1:-1],
        "0123456789",
        "c2lnbmF0dXJl",
        "dXNlcjpw",
        quote(PASSWORD),
    )
    assert [secret for secret in secrets if secret in written] == []


def test_secrets_of_the_settings(make_settings: MakeSettings) -> None:
    settings = make_settings(
        label_studio_api_key=KEY,
        basic_auth_user="user",
        basic_auth_pass="password",
        redis_url="redis://:of%2Fredis@redis:6379/0",
        https_proxy="http://me:of-the-url@proxy:3128",
    )

    basic = base64.b64encode(b"user:password").decode()
    assert set(settings.secrets) == {KEY, "password", basic, "of%2Fredis", "of/redis", "of-the-url"}
    assert make_settings().secrets == []


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
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert set(first) == {"time", "level", "logger", "message"}
    assert "ValueError: x" in second["traceback"]


def test_password_that_is_part_of_json_leaves_it_json(
    make_settings: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logs(make_settings(log_format="json", basic_auth_user="me", basic_auth_pass='":'))

    logging.getLogger("a").info('x": {"message": 1}')

    assert json.loads(capsys.readouterr().err)["message"] == 'x*** {"message*** 1}'


def test_nobody_can_forge_a_line(make_settings: MakeSettings, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(make_settings())

    logging.getLogger("a").info("GET /%s", "x\n2026-11-20 INFO forged\r\x1b[31m\u2028\x85")
    try:
        raise ValueError("x\n2026-11-20 INFO forged")
    except ValueError:
        logging.getLogger("a").exception("failed")

    first, second, *traceback = capsys.readouterr().err.splitlines()
    assert first.endswith(r"GET /x\n2026-11-20 INFO forged\r\x1b[31m\u2028\x85")
    assert second.endswith("failed")
    assert all(line.startswith("    ") for line in traceback)


def test_event_of_a_wrong_call_is_not_lost(
    make_settings: MakeSettings, capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    set_up_logs(make_settings(log_format=log_format))

    logging.getLogger("a").info("%s and %s", KEY)

    assert "%s and %s" in capsys.readouterr().err


def test_ids_are_in_each_line(make_settings: MakeSettings, capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    set_up_logs(make_settings(log_format=log_format))

    with context.working_for(request_id="r1", project=""):
        context.now_for(project="7.1")
        with context.working_for(job="head-1"):
            logging.getLogger("a").info("inside")
        logging.getLogger("a").info("outside")
    logging.getLogger("a").info("nothing")

    inside, outside, nothing = capsys.readouterr().err.splitlines()
    if log_format == "text":
        assert inside.endswith("a: inside [request_id=r1, project=7.1, job=head-1]")
        assert outside.endswith("a: outside [request_id=r1, project=7.1]")
        assert nothing.endswith("a: nothing")
    else:
        assert json.loads(inside).items() >= {"request_id": "r1", "project": "7.1", "job": "head-1"}.items()
        assert "job" not in json.loads(outside)
        assert set(json.loads(nothing)) == {"time", "level", "logger", "message"}


@pytest.mark.parametrize(("level", "expected"), [("DEBUG", 4), ("WARNING", 2), ("ERROR", 1)])
def test_level_is_the_least_that_is_shown(
    make_settings: MakeSettings, capsys: pytest.CaptureFixture[str], level: str, expected: int
) -> None:
    set_up_logs(make_settings(log_level=level))

    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger("x").log(number, "line")

    assert len(capsys.readouterr().err.splitlines()) == expected


# --- a whole process ----------------------------------------------------------

BEGIN = """
import ctypes, logging, os, subprocess, sys, threading, time, warnings
from pathlib import Path
from my_backend.log.setup import collect_output, set_up_logs
from my_backend.settings import Settings
settings = Settings(_env_file=None)
collect_output(settings, "raw", settings.log_file)
set_up_logs(settings)
key = settings.label_studio_api_key.get_secret_value()
"""
NOISE = r"""
logging.getLogger("x").info("key %s", key)
warnings.warn("a warning")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
print("printed", key, flush=True)
os.write(2, b"10 %\r20 %\r100 %\n\n")
ctypes.CDLL(None).puts(b"from a C library \xff")
ctypes.CDLL(None).fflush(None)
subprocess.run(["sh", "-c", "echo '{\"a program\": 1}'; printf 'cut off'"])
os.write(1, ('{"time": "t", "level": "INFO", "logger": "l", "message": "m ' + key + '"}' + chr(10)).encode())
raise RuntimeError("the end of " + key)
"""


def ran(code: str, folder: Path, **settings: str) -> str:
    """What a process has written to its standard error, and nothing to its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code],
        cwd=ROOT,
        env={**os.environ, "MODEL_DIR": str(folder), **settings},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.stdout == ""
    return done.stderr


def test_every_line_of_a_process_is_json_regardless_of_its_writer(tmp_path: Path) -> None:
    written = ran(NOISE, tmp_path, LOG_FORMAT="json", LABEL_STUDIO_API_KEY=KEY)

    events = [json.loads(line) for line in written.splitlines()]
    assert all(event.keys() >= {"time", "level", "logger", "message"} for event in events)
    assert KEY not in written
    said = {(event["logger"], event["message"]) for event in events}
    assert {("x", "key ***"), ("raw", "printed ***"), ("raw", "10 %"), ("raw", "100 %"), ("l", "m ***")} <= said
    assert {("raw", "from a C library \\xff"), ("raw", '{"a program": 1}'), ("raw", "cut off")} <= said
    assert any(logger == "py.warnings" and "a warning" in message for logger, message in said)
    caught = [event["traceback"] for event in events if event["message"] == "uncaught exception"]
    assert ["ZeroDivisionError" in caught[0], "the end of ***" in caught[1]] == [True, True]
    assert {event["level"] for event in events if "traceback" in event} == {"CRITICAL"}


def test_text_of_a_process_has_no_secret_either(tmp_path: Path) -> None:
    written = ran(NOISE, tmp_path, LABEL_STUDIO_API_KEY=KEY, LOG_FILE=str(tmp_path / "log"))

    assert KEY not in written
    assert "printed ***" in written
    assert (tmp_path / "log").read_text() == written


def test_log_file_has_one_writer_and_is_rotated(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "backend.log"
    again = """
logging.getLogger("x").info("first")
code = os.environ["AGAIN"]
subprocess.run([sys.executable, "-c", code], env={**os.environ, "AGAIN": ""}, stderr=2) if code else None
logging.getLogger("x").info("last")
"""
    written = ran(again, tmp_path, LOG_FILE=str(file), AGAIN=BEGIN + "logging.getLogger('x').info('other')")

    assert [line.rpartition(": ")[2] for line in file.read_text().splitlines()] == ["first", "other", "last"]
    assert written == file.read_text(), "the other one's lines came through the first"


def test_collector_writes_the_last_words_of_a_process_that_is_killed(tmp_path: Path) -> None:
    written = ran("print('last words', flush=True); os.kill(os.getpid(), 9)", tmp_path, LOG_FORMAT="json")

    assert json.loads(written)["message"] == "last words"


def test_nothing_is_collected_where_nothing_needs_it(tmp_path: Path) -> None:
    assert ran("print('x', flush=True, file=sys.stderr)", tmp_path) == "x\n"


def test_log_file_is_refused_on_a_system_that_cannot_fork(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "fork")

    collect_output(make_settings(log_format="json"), "server")
    with pytest.raises(BackendError, match=r"LOG_FILE=.*log doesn't work on this system: unset it"):
        collect_output(make_settings(), "server", tmp_path / "log")


def test_log_goes_to_standard_error(make_settings: MakeSettings, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(make_settings())

    logging.getLogger("x").info("line")

    assert capsys.readouterr().out == ""
    handlers: list[Any] = logging.getLogger().handlers
    assert [handler.stream for handler in handlers if isinstance(handler, logging.StreamHandler)] == [sys.stderr]
    assert len(recent_lines()) == 1, "and to the page"
