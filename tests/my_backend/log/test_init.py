"""The first process of a container: tried in a namespace of processes, where the program begins as number 1."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from my_backend.log.init import LAST_WORDS_SECONDS
from tests.my_backend.log.test_log import BEGIN, ROOT
from tests.my_backend.namespaces import UNSHARE, needs_namespaces

pytestmark = needs_namespaces


@contextmanager
def first(code: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A program that begins as the first process, and whose outputs are collected."""
    environment = {**os.environ, "MODEL_DIR": str(folder), "LOG_FORMAT": "json", "LOG_FILE": str(folder / "log")}
    command = [*UNSHARE, sys.executable, "-c", BEGIN + code]
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: "subprocess.Popen[str]") -> str:
    """The next line's message."""
    assert process.stderr is not None
    return str(json.loads(process.stderr.readline())["message"])


@pytest.mark.parametrize(
    ("end", "status"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 128 + 9), ("os._exit(0)", 0)]
)
def test_it_writes_the_last_words_and_ends_with_the_programs_status(tmp_path: Path, end: str, status: int) -> None:
    with first(f"print(os.getpid() == 1, 'last words', flush=True); {end}", tmp_path) as process:
        assert said(process) == "False last words"
        assert process.wait(60) == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_are_passed_on(tmp_path: Path, number: int) -> None:
    code = f"""
import signal
signal.signal({int(number)}, lambda *_: sys.exit(7))
print("ready", flush=True)
time.sleep(60)
"""
    with first(code, tmp_path) as process:
        assert said(process) == "ready"
        (collector,) = psutil.Process(process.pid).children()
        collector.send_signal(number)
        assert process.wait(60) == 7


def test_signal_that_comes_before_it_can_hear_is_not_lost(tmp_path: Path) -> None:
    with first("os.kill(1, 15); time.sleep(60)", tmp_path) as process:
        assert process.wait(60) == 128 + 15


def test_orphans_are_reaped_and_the_program_does_not_wait_for_them(tmp_path: Path) -> None:
    code = """
if os.fork() == 0:  # whose own child has no parent then
    os._exit(0) if os.fork() else (time.sleep(0.1), os._exit(0))
os.wait()
dead = lambda: [n for n in os.listdir("/proc") if n.isdigit() and ") Z " in Path(f"/proc/{n}/stat").read_text()]
while len([n for n in os.listdir("/proc") if n.isdigit()]) > 2 or dead():
    time.sleep(0.01)
try:
    os.wait()
except ChildProcessError:
    print("no children", flush=True)
"""
    with first(code, tmp_path) as process:
        assert said(process) == "no children"
        assert process.wait(60) == 0


def test_child_that_keeps_the_outputs_ends_a_while_after_the_program(tmp_path: Path) -> None:
    with first("subprocess.Popen(['sleep', '600']); print('bye', flush=True)", tmp_path) as process:
        assert said(process) == "bye"
        assert process.wait(LAST_WORDS_SECONDS + 60) == 0
