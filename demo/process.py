"""A server in a process of its own: started, waited for, and ended for sure."""

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
STOP_SECONDS = 10  # between asking a process to end and killing it
LOG_TAIL_CHARACTERS = 3000
PORTS = range(20_000, 32_000)  # the system gives later ones to connections, of which one may come before a server
TRIES = 100


class ServerError(RuntimeError):
    """A server could not be set up, ended by itself, took too long, or refused a request."""


class Process:
    """A command in a process group of its own. It also ends when the thread that started it does (Linux)."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], folder: Path, log: Path) -> None:
        self.log = log
        self._stopped = False
        tether = [sys.executable, "-I", str(Path(__file__).with_name("tether.py")), str(os.getpid())]
        with log.open("ab") as output:
            # In a session of its own, Ctrl-C reaches us alone: we end the servers, in our order.
            self._process = subprocess.Popen(
                [*tether, *command],
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
        """Returns once `ready()` is true; raises if the process ends first or the time is over."""
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
        """Waits as long as the process lives, and raises when it has ended by itself."""
        # Not by blocking: signals that another thread took would not wake us.
        while self._process.poll() is None:
            time.sleep(POLL_SECONDS)
        raise ServerError(self._ended())

    def stop(self) -> None:
        """Ends the whole process group: asks, waits, kills. Nothing happens if it has been stopped before."""
        if self._stopped:
            return
        self._stopped = True
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self._signal(signal.SIGKILL)  # what did not listen, and what the leader left behind
        self._process.wait()

    def kill(self) -> None:
        """Ends the process group at once, without a chance to tidy up."""
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
    """`preferred` if nothing listens there on loopback, else a free port."""
    chosen = SystemRandom().sample(PORTS, TRIES)  # two processes that are seeded alike choose differently
    for port in (preferred or chosen[0], *chosen):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections are no obstacle
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise ServerError("No free port on 127.0.0.1")


def answers(url: str) -> bool:
    """Whether a GET of `url` succeeds."""
    with direct_session() as session, suppress(requests.RequestException):
        return session.get(url, timeout=5).ok
    return False


def direct_session() -> requests.Session:
    """A session that leaves proxies and netrc of the environment alone: our servers are on loopback."""
    session = requests.Session()
    session.trust_env = False
    return session
