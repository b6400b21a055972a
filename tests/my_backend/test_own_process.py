"""Work in a separate process: it returns, fails, dies, or is killed."""

import os
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from my_backend.errors import BackendError, BadRequest, Stopped
from my_backend.own_process import run_in_own_process
from my_backend.settings import Settings
from testing.waiting import eventually
from tests.my_backend.conftest import MakeSettings


def tell(settings: Settings, *words: Any) -> list[Any]:
    return [str(settings.model_dir), os.getpid(), *words]


def fail(settings: Settings, how: str) -> None:
    if how == "refuse":
        raise BadRequest("it can't be done")
    if how == "exit":
        raise SystemExit("enough")
    if how == "die in its answer":
        os.write(sys._getframe(1).f_locals["sending"].fileno(), struct.pack("!i", 1000) + b"half")
    if how.startswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError(f"bad {settings.notify_url.get_secret_value()}")


def note_and_wait(settings: Settings, file: str) -> None:
    Path(file).write_text(str(os.getpid()))
    time.sleep(1000)


def begin_and_die(settings: Settings, file: str) -> None:
    """Is killed while its own process is still waiting."""
    run_in_own_process(settings, note_and_wait, file, seconds=100, is_stopping=lambda: _killed_if(file))


def _killed_if(file: str) -> bool:
    if Path(file).exists() and Path(file).read_text():
        os.kill(os.getpid(), signal.SIGKILL)
    return False


def test_result_comes_from_another_process(make_settings: MakeSettings) -> None:
    settings = make_settings()

    folder, process, *words = run_in_own_process(settings, tell, "a", 2, seconds=60)

    assert (folder, words) == (str(settings.model_dir), ["a", 2])
    assert process != os.getpid()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("refuse", "it can't be done"),
        ("exit", "SystemExit: enough"),
        ("die", "its process died with exit status -9"),
        ("die in its answer", "its process died with exit status -9"),
        ("raise", "ValueError: bad "),
    ],
)
def test_failure_is_an_error_without_secrets(
    make_settings: MakeSettings, capfd: pytest.CaptureFixture[str], how: str, said: str
) -> None:
    settings = make_settings(notify_url="https://chat.example/hooks/0123456789abcdef0123")

    with pytest.raises(BackendError) as error:
        run_in_own_process(settings, fail, how, seconds=60)

    assert str(error.value).startswith(said)
    logged = capfd.readouterr().err
    assert ("Traceback" in logged) is (how in ("exit", "raise"))
    assert "0123456789" not in str(error.value) + logged


def test_process_is_killed_after_its_time_and_when_the_server_stops(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    late, stopped = tmp_path / "late", tmp_path / "stopped"
    with pytest.raises(BackendError, match="took longer than 0 s"):
        run_in_own_process(make_settings(), note_and_wait, str(late), seconds=0)
    with pytest.raises(Stopped):
        run_in_own_process(make_settings(), note_and_wait, str(stopped), seconds=60, is_stopping=stopped.exists)


def test_process_ends_if_the_server_is_killed(make_settings: MakeSettings, tmp_path: Path) -> None:
    file = tmp_path / "process"

    with pytest.raises(BackendError, match="died"):
        run_in_own_process(make_settings(), begin_and_die, str(file), seconds=60)

    assert eventually(lambda: not psutil.pid_exists(int(file.read_text())))
