import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from testing.waiting import eventually

ROOT = Path(__file__).resolve().parents[3]
CONFIGURATION = """\
[supervisord]
nodaemon = true
logfile = /dev/null
logfile_maxbytes = 0
pidfile = {folder}/supervisord.pid

[program:server]
command = sh -c "{command}"
"""


@pytest.mark.parametrize(
    ("command", "said"), [("echo why >> uwsgi.log; exit 22", ["why"]), ("exit 22", [])], ids=["reason", "nothing"]
)
def test_last_line_is_what_this_server_logged(tmp_path: Path, command: str, said: list[str]) -> None:
    (tmp_path / "uwsgi.log").write_text("an earlier reason\n")
    (tmp_path / "conf").write_text(CONFIGURATION.format(folder=tmp_path, command=command))

    done = subprocess.run(
        [sys.executable, "-m", "my_backend.commands.supervised", "-c", "conf"],
        env={**os.environ, "LOG_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "Supervisor is running as root" not in line] == said


def test_processes_end_if_supervisor_is_killed(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text(CONFIGURATION.format(folder=tmp_path, command="echo > started; exec sleep 600"))
    supervisor = psutil.Popen(
        [sys.executable, "-m", "my_backend.commands.supervised", "-c", "conf"],
        env={**os.environ, "LOG_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    processes = []
    try:
        assert eventually((tmp_path / "started").exists)
        processes = supervisor.children(recursive=True)
        supervisor.kill()
        supervisor.wait()
        assert len(processes) == 1
        assert eventually(lambda: not processes[0].is_running(), 20)
    finally:
        for process in [supervisor, *processes]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        supervisor.wait()
