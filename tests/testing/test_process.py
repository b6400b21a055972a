"""A server in a process of its own: it ends when it should, and nothing of it is left."""

import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from testing.process import Process, ServerError, free_port
from testing.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, or only Linux can do it")


def running(group: int) -> bool:
    """Whether a process of the group runs; one that has ended may be listed until its parent asks for it."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone since it was listed
            state, _, its_group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                return True
    return False


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_process_that_ends_by_itself_is_reported_with_its_log(tmp_path: Path) -> None:
    command = python("print('what went wrong'); raise SystemExit(3)")
    with (
        Process(command, env={}, folder=tmp_path, log=tmp_path / "log") as process,
        pytest.raises(ServerError, match=r"(?s)exit status 3.*what went wrong"),
    ):
        process.wait_until(lambda: False, seconds=30)


@needs_proc
def test_stop_ends_what_ignores_it_and_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testing.process.STOP_SECONDS", 0.5)
    log = tmp_path / "log"
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); "
    child = f"{stubborn} signal.pause()"
    parent = f"{stubborn} import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = Process(python(parent), env={}, folder=tmp_path, log=log)
    process.wait_until(lambda: log.read_text().count("deaf") == 2, seconds=30)

    process.stop()
    process.stop()

    assert eventually(lambda: not running(process.pid))


@needs_proc
def test_process_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from testing.process import Process
folder = Path({str(tmp_path)!r})
server = Process(["/bin/sh", "-c", "echo up; exec sleep 60"], env={{}}, folder=folder, log=folder / "log")
print(server.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(python(code), cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert eventually(lambda: "up" in (tmp_path / "log").read_text())

        parent.kill()

    assert eventually(lambda: not running(pid))


def test_free_port_prefers_the_one_asked_for() -> None:
    free = free_port()
    assert free_port(free) == free
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) not in (0, port)


def test_free_port_is_none_that_a_connection_may_take_before_the_server() -> None:
    first_of_connections = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(free_port() for _ in range(50)) < first_of_connections
