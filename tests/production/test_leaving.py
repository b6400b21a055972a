"""A server that is asked to end while it computes ends without a crash."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from testing.process import Process, answers, free_port
from testing.production import START_SECONDS, Redis
from testing.waiting import eventually
from tests.my_backend.namespaces import UNSHARE, needs_namespaces
from tests.production.conftest import ROOT, MakeProduction
from tests.production.memorizing_model import MODEL_CLASS, Script

THREADS = 2
TIMES = 3  # of which chance would hardly spare all


def compute() -> None:
    while True:
        (torch.ones(60, 60) @ torch.ones(60, 60)).sum()


class Restless:
    """A model class whose threads never rest."""

    def __init__(self, **kwargs: Any) -> None:
        pass

    @classmethod
    def warm_up(cls) -> str:
        for _ in range(THREADS):
            threading.Thread(target=compute, daemon=True).start()
        return ""

    @classmethod
    def describe(cls) -> dict[str, str]:
        return {"network": "restless", "weights": "no", "device": "cpu"}


# Python imports it at its start. It lets uWSGI load the application forever.
ENDLESS_LOADING = """
import os, sys, time
from pathlib import Path

class Gate:
    def find_spec(self, name, path=None, target=None):
        if name == "my_backend._wsgi" and "uwsgi" in sys.modules:
            written = Path(__file__).with_name("written")
            written.write_text(str(os.getpid()))
            written.rename(written.with_name("loading"))
            while True:
                time.sleep(0.01)

sys.meta_path.insert(0, Gate())
"""


@pytest.fixture
def loading(redis: Redis, production: MakeProduction, script: Script, tmp_path: Path) -> Iterator[Process]:
    """A server that loads the application forever; the file `loading` names the process."""
    (tmp_path / "sitecustomize.py").write_text(ENDLESS_LOADING)
    made = production(redis)
    made.folder.mkdir()
    environment = made.environment | {
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
    }
    command = [sys.executable, "-m", "my_backend", "uwsgi"]
    with Process(command, env=environment, folder=made.folder, log=made.folder / "server.log") as process:
        process.wait_until((tmp_path / "loading").exists, START_SECONDS)
        yield process


@pytest.mark.parametrize("replaced", [False, True])
def test_server_that_is_stopped_while_it_loads_ends(replaced: bool, loading: Process, tmp_path: Path) -> None:
    """Also if another process loads it again because the first one was killed."""
    master = psutil.Process(loading.pid)
    if replaced:
        file = tmp_path / "loading"
        os.kill(int(file.read_text()), signal.SIGKILL)
        file.unlink()
        loading.wait_until(file.exists, START_SECONDS)

    master.terminate()

    assert eventually(lambda: not master.is_running() or master.status() == psutil.STATUS_ZOMBIE), (
        loading.log.read_text()
    )
    assert "goodbye to uWSGI.\n" in loading.log.read_text()


def test_ctrl_c_while_a_server_loads_is_no_failure(loading: Process) -> None:
    """In a terminal, it goes to all processes."""
    os.killpg(loading.pid, signal.SIGINT)

    assert eventually(lambda: psutil.Process(loading.pid).status() == psutil.STATUS_ZOMBIE), loading.log.read_text()
    logs = loading.log.read_text()
    assert ("Traceback" in logs, "failed loading" in logs) == (False, False), logs


@pytest.mark.parametrize("attempt", range(TIMES))
def test_server_that_computes_ends_without_a_crash(
    redis: Redis, production: MakeProduction, monkeypatch: pytest.MonkeyPatch, attempt: int
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = production(redis, MODEL_CLASS="tests.production.test_leaving:Restless")
    server = made.server()
    assert eventually(lambda: server.get("/health")["model"])

    server.process.stop()

    logs = made.logs()
    assert [word for word in ("Segmentation", "Traceback", "terminate called") if word in logs] == [], logs[-4000:]
    assert "my_backend.commands.shutdown: stopped" in logs, "its threads were ended before"


@pytest.mark.parametrize("number", [*[signal.SIGTERM] * TIMES, signal.SIGINT])
def test_server_ends_if_all_of_its_processes_get_the_signal(
    redis: Redis, production: MakeProduction, script: Script, number: signal.Signals
) -> None:
    """Shells, `timeout` and service managers may send it to all of them, and Ctrl-C does."""
    made = production(redis)
    master = psutil.Process(made.server().process.pid)

    os.killpg(master.pid, number)

    assert eventually(lambda: master.status() == psutil.STATUS_ZOMBIE, 10), made.logs()


def test_server_starts_with_a_long_temporary_path_and_leaves_nothing(
    redis: Redis, production: MakeProduction, script: Script, tmp_path: Path
) -> None:
    temporary = tmp_path / ("x" * 100)
    temporary.mkdir()
    server = production(redis).server(TMPDIR=str(temporary))
    command = psutil.Process(server.process.pid).cmdline()
    socket = Path(command[command.index("--socket") + 1])
    assert socket.exists()

    server.process.stop()

    assert not socket.parent.exists()


def test_server_ends_where_redis_has_gone(own_redis: Redis, production: MakeProduction, script: Script) -> None:
    made = production(own_redis)
    server = made.server()
    own_redis.kill()

    server.process.stop()

    assert "my_backend.commands.shutdown: stopped" in made.logs()
    assert "Segmentation" not in made.logs()


@needs_namespaces
def test_server_that_is_the_first_process_of_a_container_ends_at_once(redis: Redis, tmp_path: Path) -> None:
    """uWSGI waits for all of its children, and whoever has no parent is the first process's child."""
    environment = {
        **os.environ,
        "REDIS_URL": redis.url,
        "MODEL_DIR": str(tmp_path / "models"),
        "CACHE_DIR": str(tmp_path / "cache"),
        "LOG_FILE": str(tmp_path / "logs" / "backend.log"),
        "MODEL_CLASS": MODEL_CLASS,
        "PYTHONPATH": str(ROOT),
        "HOST": "127.0.0.1",
        "PORT": (port := str(free_port())),
    }
    command = [*UNSHARE, sys.executable, "-m", "my_backend", "uwsgi"]
    with Process(command, env=environment, folder=tmp_path, log=tmp_path / "log") as process:
        process.wait_until(lambda: answers(f"http://127.0.0.1:{port}/ready"), START_SECONDS)
        [first] = psutil.Process(process.pid).children()
        first.send_signal(signal.SIGTERM)
        assert eventually(lambda: not first.is_running() or first.status() == psutil.STATUS_ZOMBIE)
    assert "goodbye to uWSGI.\n" in Path(environment["LOG_FILE"]).read_text()
