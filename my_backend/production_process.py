"""The `make production` that is running on a MODEL_DIR."""

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from my_backend.errors import BackendError

# As long as supervisor waits for the server, both workers and Redis, one after another, and a little more.
STOP_SECONDS = 240.0


@dataclass(frozen=True)
class ProductionProcess:
    """Supervisor's process id, and the REDIS_URL of the processes that it has started."""

    pid: int
    redis_url: str
    model_dir: Path

    def stop(self) -> bool:
        """Ends it and everything that it has started; returns whether it has ended within STOP_SECONDS.

        Raises PermissionError if it belongs to another user.
        """
        deadline = time.monotonic() + STOP_SECONDS
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        while find_production(self.model_dir) == self:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


def find_production(model_dir: Path) -> ProductionProcess | None:
    """The production process on this MODEL_DIR; None if there is none, or if it can't be told (only Linux can).

    Supervisor's pid file may be stale after a crash, so the process' own environment decides. Raises BackendError if
    the folder is another user's, who alone may read it.
    """
    folder = model_dir / "production"
    try:
        noted = (folder / "supervisord.pid").read_text()
    except PermissionError:
        raise BackendError(
            f"It can't be told whether `make production` is running, because this user may not read {folder}: run the "
            "command as the user who starts `make production`"
        ) from None
    except (OSError, ValueError):
        return None
    try:
        number = int(noted)
        lines = Path(f"/proc/{number}/environ").read_text("utf-8", "surrogateescape").split("\0")
        given = dict(line.split("=", 1) for line in lines if "=" in line)
        found = ProductionProcess(number, given["REDIS_URL"], model_dir)
        return found if Path(given["PRODUCTION_DIR"]).samefile(folder) else None
    except (OSError, ValueError, KeyError):
        return None
