"""A server in a separate process: starts it, waits for it, and reliably ends it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import Self

import requests

POLL_SECONDS = 0.1
STOP_SECONDS = 30  # between asking a process to end and killing it; on a busy machine one that ends well takes seconds
LOG_TAIL_CHARACTERS = 3000
PORTS = range(20_000, 32_000)  # the system gives later ones to connections, of which one may come before a server
TRIES = 100


class ServerError(RuntimeError):
    """A server couldn't be set up, ended on its own, took too long, or refused a request."""


class Process:
    """A command in its own process group. It also ends when the thread that started it ends (Linux)."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], folder: Path, log: Path) -> None:
        self.log = log
        self._stopped = False
        tied = [sys.executable, "-I", str(Path(__file__).with_name("die_with_parent.py")), str(os.getpid())]
        with log.open("ab") as output:
            # In a separate session, Ctrl-C doesn't reach the servers: we end them in our own order.
            self._process = subprocess.Popen(
                [*tied, *command],
                env=env,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Returns once `ready()` is true; raises if the process ends first or the time is up."""
        deadline = time.monotonic() + seconds
        while True:
            if self._process.poll() is not None:
                raise ServerError(self._ended())
            if ready():
                return
            if time.monotonic() > deadline:
                raise ServerError(f"Not ready after {seconds:.0f} s. {self._log_tail()}")
            time.sleep(POLL_SECONDS)

    def wait(self) -> None:
        """Waits as long as the process is running; raises if it ends on its own."""
        # Polls instead of blocking: a signal taken by another thread wouldn't wake this one.
        while self._process.poll() is None:
            time.sleep(POLL_SECONDS)
        raise ServerError(self._ended())

    def stop(self) -> None:
        """Ends the whole process group: terminates, waits, kills. Does nothing if it is already stopped."""
        if self._stopped:
            return
        self._stopped = True
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self._signal(signal.SIGKILL)  # what did not listen, and what the leader left behind
        self._process.wait()

    def kill(self) -> None:
        """Kills the process group at once, without a chance to clean up."""
        self._stopped = True
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _ended(self) -> str:
        return f"Ended with exit status {self._process.returncode}. {self._log_tail()}"

    def _log_tail(self) -> str:
        return f"The end of {self.log}:\n{self.log.read_text(errors='replace')[-LOG_TAIL_CHARACTERS:]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port(preferred: int = 0) -> int:
    """`preferred` if nothing listens there on loopback, otherwise a free port."""
    chosen = SystemRandom().sample(PORTS, TRIES)  # processes with the same random seed choose different ports
    for port in (preferred or chosen[0], *chosen):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore closed connections
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise ServerError("No free port on 127.0.0.1")


def answers(url: str) -> bool:
    """Whether a GET of `url` succeeds."""
    with direct_session() as session, suppress(requests.RequestException):
        return session.get(url, timeout=5).ok
    return False


def direct_session() -> requests.Session:
    """A session that ignores the environment's proxies and netrc, since our servers are on loopback."""
    session = requests.Session()
    session.trust_env = False
    return session
