"""A small separate process that writes another process's output to the log.

Lines that already have the log's format pass unchanged; others, from libraries, uWSGI and supervisor, are converted.
"""

import errno
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

from my_backend.file_locks import lock
from my_backend.log.init import FirstProcess, TimeIsUp
from my_backend.log.lines import utc, without_secrets
from safe_http.redaction import Redactor, said

LOG_BYTES = 20_000_000
LONGEST_LINE = 1_000_000  # bytes; the rest of a longer line is dropped
EVENT = '{"time": "'  # starts every line that JsonLines writes

_ENDS = re.compile(rb"[\r\n]+")  # progress bars end their lines with \r


class Collector:
    """Formats and writes the output of one process."""

    def __init__(self, orders: dict[str, Any]) -> None:
        self._is_json = orders["format"] == "json"
        self._name = orders["name"]
        self._redact = Redactor(orders["secrets"])
        self._output, self._file, self._failure = True, None, ""
        try:
            self._file = _open(Path(orders["log_file"])) if orders["log_file"] else None
        except OSError as error:  # the output must still be logged
            self._tell(
                f"can't use LOG_FILE ({said(error)}), so the log goes only to the output: fix this, then restart"
            )

    def write(self, line: bytes) -> None:
        """Writes a line to standard output and, if no other process holds it, to the log file."""
        for text in self._shaped(line.decode(errors="backslashreplace")):
            if self._output:
                try:
                    sys.stdout.write(text + "\n")
                    sys.stdout.flush()
                except OSError:  # its reader is gone; the process that writes to us must not block
                    self._output = False
            if self._file:
                try:
                    self._file.emit(logging.makeLogRecord({"msg": text}))
                    self._failure = ""
                except OSError as error:
                    self._tell(
                        f"can't write LOG_FILE ({said(error)}): until that is fixed, the log goes only to the output"
                    )

    def _tell(self, failure: str) -> None:
        """Logs once why LOG_FILE isn't written."""
        before, self._failure = self._failure, failure
        if failure != before:
            self.write(failure.encode(errors="backslashreplace"))

    def _shaped(self, text: str) -> list[str]:
        if not self._is_json:
            return [self._redact(text)]
        if (event := self._event(text)) is not None:
            return [event]
        # A progress bar, for one, has no line end after it, so an event may follow on the same line.
        begin = text.rfind(EVENT)
        if begin > 0 and (event := self._event(text[begin:])) is not None:
            return [self._raw(text[:begin]), event]
        return [self._raw(text)]

    def _event(self, text: str) -> str | None:
        """A line that already has the log's format, without secrets; None if it doesn't."""
        with suppress(ValueError, RecursionError):  # anyone can print JSON that is nested too deep
            event = json.loads(text)
            if isinstance(event, dict) and {"time", "level", "logger", "message"} <= event.keys():
                return json.dumps(without_secrets(event, self._redact), ensure_ascii=False)
        return None

    def _raw(self, text: str) -> str:
        message = self._redact(text.strip())
        event = {"time": utc(time.time()), "level": "INFO", "logger": self._name, "message": message}
        return json.dumps(event, ensure_ascii=False)


class _LogFile(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Closes the file, which the next line opens again, and raises the error that logging has caught."""
        stream, self.stream = self.stream, None
        with suppress(OSError):  # what it still holds can't be written either
            if stream:
                stream.close()
        raise


def _open(path: Path) -> RotatingFileHandler | None:
    """Opens the log file and holds it until the process ends; None if another process, such as a replica, holds it.

    Raises OSError.
    """
    if not path.name:  # such as /
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    if not lock(descriptor, wait=False):
        os.close(descriptor)
        return None
    with suppress(OSError):  # people may follow it before its first line; that line tells why it can't be written
        path.touch()
    return _LogFile(path, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace", delay=True)


def read_lines(descriptor: int) -> Iterator[bytes]:
    """Yields non-empty lines, cut to LONGEST_LINE, until all writers have ended."""
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
    """Runs in the background until all writers to the pipe have ended. The first line is JSON that configures it.

    If a `program` (a process id) is given, the collector is a container's init process and exits with its status.
    """
    first = FirstProcess(int(program)) if program else None
    if first is None:
        if os.fork():
            os._exit(0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(
                number, signal.SIG_IGN
            )  # a terminal or a group sends them to all its processes, but the others may still write
    with suppress(TimeIsUp, StopIteration):  # StopIteration: its process has died before configuring it
        lines = read_lines(int(descriptor))
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # JSON may contain lone surrogates
        collector = Collector(json.loads(next(lines)))
        for line in lines:
            collector.write(line)
    if first is not None:
        sys.exit(first.status())
