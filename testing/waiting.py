"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable
from typing import TypeVar

from testing.process import ServerError

Value = TypeVar("Value")

SECONDS = 60.0  # far more than anything here takes, also on a busy machine
PAUSE = 0.005


def eventually(condition: Callable[[], Value], seconds: float = SECONDS, pause: float = PAUSE) -> Value:
    """What the condition gives once it is true, or what it gave last if it wasn't true in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(pause)
    return found


def wait_for(condition: Callable[[], Value], what: str, seconds: float = 2 * SECONDS, pause: float = 0.05) -> Value:
    """What the condition gives once it is true; raises ServerError, with `what` in it, if it isn't true in time."""
    if not (found := eventually(condition, seconds, pause)):
        raise ServerError(f"timed out waiting for {what} ({seconds:.0f} s)")
    return found
