"""Supervisor for `make production`: it also ends, with an exit status, if the server can't start.

If it is killed, its processes end, too. Otherwise they would keep the port, and nobody would restart or stop them.
"""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from supervisor import events, supervisord
from supervisor.states import SupervisorStates

START_SECONDS = 180.0  # for loading torch on a busy machine
PR_SET_PDEATHSIG = 1


class Options(supervisord.ServerOptions):  # type: ignore[misc]  # has no types
    """Supervisor's access to the system."""

    def setpgrp(self) -> None:
        """Called by each process that supervisor has forked, before it runs its command."""
        super().setpgrp()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Production(supervisord.Supervisor):  # type: ignore[misc]  # has no types
    """Supervisor that gives up if the first server ends with an error; later ones are started again."""

    failed = False
    _has_ended = False

    def runforever(self) -> None:
        # Not earlier: `run`, which calls this, removes all subscriptions.
        for kind in (events.ProcessStateBackoffEvent, events.ProcessStateExitedEvent):
            events.subscribe(kind, self._look)
        super().runforever()

    def _look(self, event: Any) -> None:
        server = event.process
        if server.config.name != "server" or self._has_ended:
            return
        Production._has_ended = True
        # Supervisor has no status for a process that has ended within a second, and -1 for one that was killed.
        if server.exitstatus is None or (server.exitstatus > 0 and server.laststop - server.laststart < START_SECONDS):
            Production.failed = True
            self.options.mood = SupervisorStates.SHUTDOWN


def main() -> None:
    log = Path(os.environ["LOG_DIR"], "uwsgi.log")
    before = _size(log)
    supervisord.Supervisor, supervisord.ServerOptions = Production, Options
    supervisord.main()
    if Production.failed:
        if _size(log) != before:  # otherwise its last line is an earlier server's
            with suppress(OSError, IndexError):
                print(_last_line(log), file=sys.stderr)
        sys.exit(1)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _last_line(file: Path) -> str:
    return file.read_text(errors="replace").splitlines()[-1]


if __name__ == "__main__":
    main()
