"""What docker-compose.yml promises: a Redis with a password of its own, which servers and workers know."""

import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import yaml

from my_backend import settings
from my_backend.commands.production import redis_server
from my_backend.settings import read_settings
from testing.process import Process

ROOT = Path(__file__).parents[1]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
USE_REDIS = ["server", "worker", "head-worker"]


def script(service: str, folders: dict[str, Path]) -> str:
    """What the service's container runs, for these folders in place of those in the container."""
    (text,) = SERVICES[service]["command"]
    for inside, here in folders.items():
        text = text.replace(inside, str(here))
    return str(text).replace("$$", "$")


@pytest.fixture
def volumes(tmp_path: Path) -> Callable[[str], dict[str, Path]]:
    """The volumes of a project, by their paths in the container."""

    def volumes(project: str) -> dict[str, Path]:
        folders = {inside: tmp_path / project / inside.replace("/", "-") for inside in ("/run/redis", "/run/secrets")}
        folders["/logs"] = tmp_path / project / "logs"
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        return folders

    return volumes


def prepare(folders: dict[str, Path]) -> str:
    """Runs what makes the password; returns the password."""
    subprocess.run([*SERVICES["prepare"]["entrypoint"], script("prepare", folders)], check=True)
    (password,) = re.findall(r"^requirepass ([0-9a-f]{40})\n$", (folders["/run/redis"] / "redis.conf").read_text())
    return str(password)


def test_each_project_makes_a_password_once(volumes: Callable[[str], dict[str, Path]]) -> None:
    one, other = volumes("one"), volumes("other")

    password = prepare(one)

    assert prepare(one) == password
    assert prepare(other) != password
    (one["/run/redis"] / "redis.conf").unlink()
    (one["/run/redis"] / "redis.conf").touch()  # cut short by a loss of power
    assert prepare(one) != password


def test_password_is_in_files_that_only_owner_and_group_can_read(volumes: Callable[[str], dict[str, Path]]) -> None:
    folders = volumes("one")
    password = prepare(folders)

    found = [path for folder in folders.values() for path in folder.iterdir()]

    assert {path.name for path in found if password in path.read_text()} == {"redis.conf", "redis_url"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o440}


@pytest.fixture
def running(volumes: Callable[[str], dict[str, Path]], tmp_path: Path) -> Iterator[tuple[str, Path, Process]]:
    """The password, the socket and the process of a Redis that was started as the container starts it."""
    folders = volumes("one")
    password = prepare(folders)
    socket = tmp_path / "r.sock"
    command = script("redis", folders).replace("docker-entrypoint.sh redis-server", redis_server())
    command = command.replace(" < ", f" --port 0 --unixsocket {socket} < ")
    assert SERVICES["redis"]["entrypoint"] == ["sh", "-c"]
    command_line = ["/bin/sh", "-c", command]
    with Process(command_line, env=os.environ, folder=tmp_path, log=tmp_path / "log") as process:
        process.wait_until(socket.exists, 30)
        yield password, socket, process


def test_redis_wants_the_password_and_no_command_line_shows_it(running: tuple[str, Path, Process]) -> None:
    password, socket, process = running

    with redis.Redis(unix_socket_path=str(socket)) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with redis.Redis(unix_socket_path=str(socket), password=password) as own:
        assert own.ping()
        assert own.config_get("appendonly") == {"appendonly": "yes"}
        # Otherwise Redis refuses jobs if it can't write a snapshot, which it doesn't need.
        assert own.config_get("save") == {"save": ""}
    leader = psutil.Process(process.pid)
    assert not [one for one in [leader, *leader.children(recursive=True)] if password in " ".join(one.cmdline())]


@pytest.mark.parametrize("name", USE_REDIS)
def test_server_and_workers_find_the_password(
    name: str, volumes: Callable[[str], dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = volumes("one")
    password = prepare(folders)
    assert "wiring:/run/secrets:ro" in SERVICES[name]["volumes"]
    monkeypatch.setattr(settings, "SECRETS_DIR", folders["/run/secrets"])
    # As compose expands it: with what a person has set, else empty.
    given = SERVICES[name]["environment"]["REDIS_URL"]
    assert given == "${REDIS_URL:-}"

    monkeypatch.setenv("REDIS_URL", "")
    assert read_settings().redis == f"redis://:{password}@redis:6379/0"
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:6379/0")
    assert read_settings().redis == "redis://elsewhere:6379/0"


@pytest.mark.parametrize("name", USE_REDIS)
def test_backend_has_three_minutes_to_start_before_it_counts_as_unhealthy(name: str) -> None:
    """Otherwise `docker compose up --wait` fails on a busy machine, where loading torch takes long."""
    own = SERVICES[name].get("healthcheck", {}).get("start_period")
    of_image = re.search(r"^HEALTHCHECK .*--start-period=(\S+)", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert of_image is not None
    assert (own or of_image[1]) == "3m"


def test_redis_waits_for_its_password_and_is_published_on_no_port() -> None:
    assert SERVICES["redis"]["depends_on"]["prepare"]["condition"] == "service_completed_successfully"
    assert "ports" not in SERVICES["redis"]
