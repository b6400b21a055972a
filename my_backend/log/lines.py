"""Log formatters: one line per event, as text or JSON, without secrets."""

import json
import logging
import re
import time
from typing import Any, Literal

from my_backend import context
from safe_http.redaction import Redactor

Format = Literal["text", "json"]

# Characters that would start a new line or control a terminal; anyone can put them into a URL.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Lines(logging.Formatter):
    """Base class of both formatters."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def _message(self, record: logging.LogRecord) -> str:
        try:
            return record.getMessage()
        except Exception as error:  # a mistake in the arguments must not lose the event
            return f"{record.msg} {record.args!r} ({type(error).__name__} in its arguments)"

    def _traceback(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        parts += [self.formatStack(record.stack_info)] if record.stack_info else []
        return "\n".join(parts)


class TextLines(Lines):
    """Formats events as text; a traceback follows its line, indented."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created)) + f",{int(record.msecs):03}"
        ids = ", ".join(f"{name}={value}" for name, value in context.ids().items())
        message = self._redact(self._message(record) + (f" [{ids}]" if ids else ""))
        line = f"{when} {record.levelname:<7} {record.name}: {_CONTROL.sub(_escaped, message)}"
        if traceback := self._redact(self._traceback(record)):
            line += "".join(f"\n    {_CONTROL.sub(_escaped, part)}" for part in traceback.split("\n"))
        return line


class JsonLines(Lines):
    """Formats events as JSON objects: time, level, logger, message, known ids, traceback, and the record's `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": self._message(record),
            **context.ids(),
            **getattr(record, "fields", {}),
        }
        if traceback := self._traceback(record):
            event["traceback"] = traceback
        return json.dumps(without_secrets(event, self._redact), ensure_ascii=False)


def lines(form: Format, redact: Redactor) -> Lines:
    """The formatter for LOG_FORMAT."""
    return JsonLines(redact) if form == "json" else TextLines(redact)


def utc(seconds: float) -> str:
    """Formats seconds since 1970 as JSON lines show them."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03}Z"


def without_secrets(value: Any, redact: Redactor) -> Any:
    """Redacts the strings in a JSON value before it is encoded, so that the result is still JSON."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [without_secrets(one, redact) for one in value]
    if isinstance(value, dict):
        return {redact(name): without_secrets(one, redact) for name, one in value.items()}
    return value


def _escaped(character: re.Match[str]) -> str:
    return "\t" if character[0] == "\t" else character[0].encode("unicode_escape").decode()
