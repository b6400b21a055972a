"""Production mode with settings that the model class refuses, or without a model class."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
import redis as redis_py

from benchmarks.soak.site import Site
from my_backend.commands.production import CANNOT_LOAD
from my_backend.jobs.store import claimed_model_dir
from my_backend.production_process import find_production
from my_backend.settings import Settings
from testing.process import answers, free_port
from testing.production import NOT_PASSED_ON, START_SECONDS, Redis
from testing.waiting import eventually
from tests.production.conftest import ROOT

START = "The server can't start: "
INVALID = (
    "EPOCHS",
    "-1",
    "Invalid settings (environment or .env): EPOCHS: Input should be greater than 0 (the value is '-1')",
)
UNKNOWN = ("MODEL_CLASS", "no_such_module:Model", "can't load MODEL_CLASS=no_such_module:Model: No module named")


def run(command: str, folder: Path, **settings: str) -> tuple[int, str]:
    """Its exit status, and its output."""
    with (folder / "log").open("w+") as log:
        status = run_into(log, command, folder, **settings)
        log.seek(0)
        return status, log.read()


def run_into(output: IO[str] | socket.socket, command: str, folder: Path, **settings: str) -> int:
    """Its exit status."""
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    own = {"HOST": "127.0.0.1", "PORT": str(free_port()), "MODEL_DIR": str(folder / "models")}
    process = subprocess.Popen(
        [sys.executable, "-m", "my_backend", command],
        env={**inherited, **own, "CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT), **settings},
        cwd=folder,
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    try:
        return process.wait(START_SECONDS)
    finally:
        process.terminate()  # only the first process, which then ends the others
        process.wait()


@pytest.mark.parametrize(("name", "value", "reason"), [INVALID, UNKNOWN])
def test_server_that_can_never_be_ready_ends_and_says_why_last(
    redis: Redis, tmp_path: Path, name: str, value: str, reason: str
) -> None:
    status, log = run("uwsgi", tmp_path, REDIS_URL=redis.url, **{name: value})

    assert status == CANNOT_LOAD, log
    assert log.splitlines()[-1].startswith(START + reason), log


def test_server_whose_folder_cannot_be_used_ends_and_says_why_last(redis: Redis, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    status, log = run("uwsgi", tmp_path, REDIS_URL=redis.url, CACHE_DIR=str(tmp_path / "file"))

    reason = f"can't use CACHE_DIR={tmp_path / 'file'} (File exists): set it to a writable folder"
    assert (status, log.splitlines()[-1]) == (CANNOT_LOAD, START + reason), log


def test_server_whose_model_dir_is_in_use_ends_and_says_why_last(redis: Redis, tmp_path: Path) -> None:
    model_dir = tmp_path / "models"
    with claimed_model_dir(Settings(_env_file=None, redis_url="", model_dir=model_dir)):
        status, log = run("uwsgi", tmp_path, REDIS_URL=redis.url)

    reason = f"a server without REDIS_URL is using MODEL_DIR={model_dir}: stop it, or set another MODEL_DIR"
    assert (status, log.splitlines()[-1]) == (CANNOT_LOAD, START + reason), log


@pytest.mark.parametrize("command", ["worker", "production"])
@pytest.mark.parametrize("name", ["MODEL_DIR", "CACHE_DIR"])
def test_folder_that_cannot_be_used_is_one_clear_line(tmp_path: Path, command: str, name: str) -> None:
    (tmp_path / "file").touch()

    done = run(command, tmp_path, REDIS_URL="redis://127.0.0.1:1", **{name: str(tmp_path / "file")})

    assert done == (1, f"can't use {name}={tmp_path / 'file'} (File exists): set it to a writable folder\n")


@pytest.mark.parametrize(("name", "value", "reason"), [INVALID, UNKNOWN])
def test_all_processes_end_if_the_server_cannot_start(tmp_path: Path, name: str, value: str, reason: str) -> None:
    status, log = run("production", tmp_path, **{name: value})

    assert status == 1, log
    assert log.splitlines()[-1].startswith(START + reason), log
    assert "stopped: redis" in log


def test_output_may_be_a_socket_as_with_systemd(tmp_path: Path) -> None:
    name, value, reason = INVALID
    ours, theirs = socket.socketpair()
    with ours, theirs:
        run_into(theirs, "production", tmp_path, **{name: value})
        theirs.close()
        log = ours.makefile().read()  # until the last process has ended

    assert "spawned: 'server'" in log
    assert log.splitlines()[-1].startswith(START + reason), log


def test_server_that_is_killed_is_started_again(tmp_path: Path) -> None:
    with Site(tmp_path, {"MODEL_CLASS": "examples.mean_color:MeanColor", "HOST": "127.0.0.1"}) as site:
        master = site.processes()["server"].parent()
        assert master
        master.kill()
        assert eventually(lambda: not master.is_running() and answers(f"{site.url}/ready"), START_SECONDS)


def test_second_production_on_one_model_dir_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with Site(tmp_path / "first", {"MODEL_CLASS": "examples.mean_color:MeanColor", "HOST": "127.0.0.1"}) as site:
        pid = site.process.pid

        status, log = run("production", tmp_path, MODEL_DIR=str(site.model_dir))

        said = f"`make production` is already running with MODEL_DIR={site.model_dir} (process {pid}): stop it with "
        assert (status, log) == (1, f"{said}`python -m my_backend stop`, or set another MODEL_DIR\n")
        first = find_production(site.model_dir)
        assert first
        assert first.pid == pid
        with redis_py.Redis.from_url(first.redis_url) as client:
            assert client.ping()
