"""One line an event, as text or JSON, without secrets."""

import fcntl
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterable
from logging.handlers import RotatingFileHandler
from pathlib import Path

from my_backend.settings import Settings

LOG_BYTES = 20_000_000

_SECRET = re.compile(
    r"(?P<key>\b(?:Token|Bearer|Basic)\s+|[?&](?:token|access_token|sig|signature|X-(?:Amz|Goog)-[\w-]+|AWSAccessKeyId)=)"
    r"[\w.~+/%=-]{8,}",
    re.IGNORECASE,
)
_PASSWORD = re.compile(r"(?P<key>://[^/\s:@]*:)[^/\s@]+(?=@)")


def without_secrets(text: str) -> str:
    """The text without tokens, presigned queries and passwords in URLs, as far as they can be told by their form."""
    return _PASSWORD.sub(r"\g<key>***", _SECRET.sub(r"\g<key>***", text))


class Redacting(logging.Formatter):
    """Takes known secrets, tokens and presigned queries out of what another formatter makes."""

    def __init__(self, inner: logging.Formatter, secrets: Iterable[str]) -> None:
        super().__init__()
        self._inner = inner
        plain = [secret for secret in secrets if secret]
        self._secrets = [*plain, *(json.dumps(secret, ensure_ascii=False)[1:-1] for secret in plain)]

    def format(self, record: logging.LogRecord) -> str:
        line = self._inner.format(record)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return without_secrets(line)


class JsonLines(logging.Formatter):
    """An object a line: time, level, logger, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, ensure_ascii=False)


def set_up_logs(settings: Settings, log_file: Path | None = None) -> None:
    """Sends the process's log to standard error and, where no other process has it already, to a file."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_file and claim_log(log_file):
        handlers.append(RotatingFileHandler(log_file, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8"))
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    secrets = (settings.label_studio_api_key.get_secret_value(), settings.basic_auth_pass.get_secret_value())
    for handler in handlers:
        handler.setFormatter(Redacting(JsonLines() if settings.log_format == "json" else text, secrets))
    logging.basicConfig(level=settings.log_level, handlers=handlers, force=True)
    logging.getLogger("werkzeug").setLevel("WARNING")  # our own log has the requests


def claim_log(path: Path) -> bool:
    """Whether this process may write the log file; another replica may have it. Holds for the process's life."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    os.set_inheritable(descriptor, True)  # uWSGI keeps it when this process becomes uWSGI
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True


def leave_rotation_to_the_parent() -> None:
    """In a forked process: two that rotate one file lose lines."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RotatingFileHandler):
            handler.maxBytes = 0
