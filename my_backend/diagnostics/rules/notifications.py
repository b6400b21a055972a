"""The problem with notifications."""

from my_backend.diagnostics.problem import Problem
from my_backend.diagnostics.rules.wording import ended


def not_delivered(why: str) -> Problem:
    """The receiver of notifications didn't take the last one."""
    return Problem(
        "notify",
        ended(f"Can't deliver notifications: {why}"),
        "Check NOTIFY_URL, and whether this machine can reach its host. `python -m my_backend notify` sends a test. "
        "Notifications are kept for a day and sent as soon as the receiver accepts them.",
    )
