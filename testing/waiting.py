"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable

SECONDS = 60.0  # far more than anything here takes, also on a busy machine


def eventually(condition: Callable[[], object], seconds: float = SECONDS) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
