"""One line an event, as text or JSON, without secrets."""

import json
import logging
import re
import sys
import time
from collections.abc import Iterable

from my_backend.settings import Settings

_SECRET = re.compile(
    r"(?P<key>\b(?:Token|Bearer|Basic)\s+|[?&](?:token|access_token|sig|signature|X-Amz-[\w-]+|AWSAccessKeyId)=)"
    r"[\w.~+/%=-]{8,}",
    re.IGNORECASE,
)
_PASSWORD = re.compile(r"(?P<key>://[^/\s:@]*:)[^/\s@]+(?=@)")


class Redacting(logging.Formatter):
    """Takes known secrets, tokens and presigned queries out of what another formatter makes."""

    def __init__(self, inner: logging.Formatter, secrets: Iterable[str]) -> None:
        super().__init__()
        self._inner = inner
        self._secrets = [secret for secret in secrets if secret]

    def format(self, record: logging.LogRecord) -> str:
        line = self._inner.format(record)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return _PASSWORD.sub(r"\g<key>***", _SECRET.sub(r"\g<key>***", line))


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


def set_up_logs(settings: Settings) -> None:
    """Sends the process's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    secrets = (settings.label_studio_api_key.get_secret_value(), settings.basic_auth_pass.get_secret_value())
    handler.setFormatter(Redacting(JsonLines() if settings.log_format == "json" else text, secrets))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.getLogger("werkzeug").setLevel("WARNING")  # our own log has the requests
