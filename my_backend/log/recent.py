"""The last lines of a process's log, in memory, for the page."""

import logging
from collections import deque

from my_backend.log.lines import TextLines
from safe_http.redaction import redact

KEPT_LINES = 200
LONGEST = 2_000  # characters of a line, of which a traceback may have many


class RecentLines(logging.Handler):
    """Keeps the last lines as text, without secrets; omits successful requests, which would push out all others."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(TextLines(redact))
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            status = getattr(record, "fields", {}).get("status")
            if status is None or status >= 400:
                line = self.format(record).encode(errors="backslashreplace").decode()  # a page can't show the rest
                self.lines.append(line[:LONGEST])
        except Exception:
            self.handleError(record)


def recent_lines() -> list[str]:
    """The last lines of this process's log, the newest last; empty if `set_up_logs` wasn't called."""
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, RecentLines)]
    return [line for handler in handlers for line in list(handler.lines)]
