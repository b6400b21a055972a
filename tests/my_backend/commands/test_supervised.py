import os
import subprocess
import sys
from pathlib import Path

import pytest

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
