"""Writes down what another process sends to its outputs. A process of its own: it does nothing else, and needs little.

Lines that have their form already pass; others get it: those of libraries, of uWSGI and of supervisor.
"""

import fcntl
import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from my_backend.log.init import FirstProcess, TimeIsUp
from my_backend.log.lines import utc, without_secrets
from my_backend.redaction import Redactor

LOG_BYTES = 20_000_000
LONGEST_LINE = 1_000_000  # bytes; the rest of a longer one is left out
EVENT = '{"time": "'  # begins what JsonLines makes

_ENDS = re.compile(rb"[\r\n]+")  # a progress bar's too


class Collector:
    """Of one process's outputs."""

    def __init__(self, orders: dict[str, Any]) -> None:
        self._is_json = orders["format"] == "json"
        self._name = orders["name"]
        self._redact = Redactor(orders["secrets"])
        self._file = _open(Path(orders["log_file"])) if orders["log_file"] else None
        self._output = True

    def write(self, line: bytes) -> None:
        """On standard output and, where no other process has it, into the file."""
        for text in self._shaped(line.decode(errors="backslashreplace")):
            if self._output:
                try:
                    sys.stdout.write(text + "\n")
                    sys.stdout.flush()
                except OSError:  # nobody reads it any more; whoever writes to us must not come to a stop
                    self._output = False
            if self._file:
                self._file.emit(logging.makeLogRecord({"msg": text}))

    def _shaped(self, text: str) -> list[str]:
        if not self._is_json:
            return [self._redact(text)]
        if (event := self._event(text)) is not None:
            return [event]
        # A progress bar, as one, ends without the end of a line, and an event may follow.
        begin = text.rfind(EVENT)
        if begin > 0 and (event := self._event(text[begin:])) is not None:
            return [self._raw(text[:begin]), event]
        return [self._raw(text)]

    def _event(self, text: str) -> str | None:
        """A line that has its form, without secrets; None where it has not."""
        with suppress(ValueError, RecursionError):  # anybody may print what is nested deeper than can be read
            event = json.loads(text)
            if isinstance(event, dict) and {"time", "level", "logger", "message"} <= event.keys():
                return json.dumps(without_secrets(event, self._redact), ensure_ascii=False)
        return None

    def _raw(self, text: str) -> str:
        message = self._redact(text.strip())
        event = {"time": utc(time.time()), "level": "INFO", "logger": self._name, "message": message}
        return json.dumps(event, ensure_ascii=False)


def _open(path: Path) -> RotatingFileHandler | None:
    """None where another process has it, as that of another replica. Held for the process's life."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace")


def read_lines(descriptor: int) -> Iterator[bytes]:
    """Until all who write have ended; without empty ones, and each as long as it may be."""
    line = bytearray()
    while chunk := os.read(descriptor, 1 << 16):
        for number, part in enumerate(_ENDS.split(chunk)):
            if number:
                if line.strip():
                    yield bytes(line)
                line.clear()
            line += part[: LONGEST_LINE - len(line)]
    if line.strip():
        yield bytes(line)


def main(descriptor: str, program: str = "") -> None:
    """Goes on in the background, until all who write to the pipe have ended. Its first line says what to do.

    Where a `program` is given, its process, the collector is the first one of a container, and ends with its status.
    """
    first = FirstProcess(int(program)) if program else None
    if first is None:
        if os.fork():
            os._exit(0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # sent to all of a terminal or a group; the others may still speak
    with suppress(TimeIsUp):
        lines = read_lines(int(descriptor))
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # half a character, as JSON may name
        collector = Collector(json.loads(next(lines)))
        for line in lines:
            collector.write(line)
    if first is not None:
        sys.exit(first.status())
