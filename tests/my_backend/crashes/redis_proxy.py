"""A proxy in front of Redis that records commands; any of them can fail, hang, or take effect twice."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

ERRORS = {
    "loading": b"-LOADING Redis is loading the dataset in memory\r\n",
    "read-only": b"-READONLY You can't write against a read only replica.\r\n",
    "no memory": b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    "no disk": b"-MISCONF Redis is configured to save RDB snapshots, but can't persist on disk.\r\n",
}
WAYS = ("cut before it", "cut after it", "hangs", "twice", *ERRORS)
LASTING = ("cut before it", "loading", "read-only")
LASTS = 6  # commands
# Redis refuses these only while it is loading.
READING = ("HELLO", "CLIENT", "PING", "INFO", "EXISTS", "SMEMBERS", "LRANGE", "ZRANGEBYSCORE", "HGETALL", "HGET")
READING += ("MULTI", "WATCH", "UNWATCH", "DISCARD")
TRANSACTION = ("MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH")


@dataclass(frozen=True)
class CommandFault:
    """What happens to a command, by its number: one of WAYS."""

    at: int
    way: str
    lasting: bool = False  # the next ones, too

    def concerns(self, number: int) -> bool:
        return self.at <= number < self.at + (LASTS if self.lasting else 1)


def faults(calls: list[str]) -> Iterator[CommandFault]:
    """Every fault of these commands."""
    for way in WAYS:
        for number, name in enumerate(calls):
            if way in ("read-only", "no memory", "no disk") and name in READING:
                continue
            if way != "twice" or name not in TRANSACTION:
                yield CommandFault(number, way)
            if way in LASTING:
                yield CommandFault(number, way, lasting=True)


class RedisProxy:
    """Passes commands on to the Redis at a socket, and replies back, one at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.fault: CommandFault | None = None
        self.calls: list[str] = []
        self.hit = False
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def begin(self, fault: CommandFault | None) -> None:
        """Counts commands from here on."""
        with self._lock:
            self.fault, self.calls, self.hit = fault, [], False

    @contextmanager
    def running(self) -> Iterator["RedisProxy"]:
        accepting = threading.Thread(target=self._accept)
        accepting.start()
        try:
            yield self
        finally:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            accepting.join()
            for connection in list(self._open):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in self._threads:
                thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(client)
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as redis, suppress(OSError, EOFError):
            redis.connect(self._path)
            asked, answered = client.makefile("rb"), redis.makefile("rb")
            aborted = False  # a command of the transaction was refused
            while True:
                command, name = _command(asked)
                way = self._way(name)
                if way in ERRORS:
                    aborted = name != "EXEC"
                    if name == "EXEC":  # which ends the transaction, also if it is refused
                        redis.sendall(b"*1\r\n$7\r\nDISCARD\r\n")
                        _reply(answered)
                    client.sendall(ERRORS[way])
                elif way == "cut before it":
                    break
                elif way == "hangs":
                    asked.read(1)  # until the client gives up
                    break
                elif aborted and name == "EXEC":
                    redis.sendall(b"*1\r\n$7\r\nDISCARD\r\n")
                    _reply(answered)
                    client.sendall(b"-EXECABORT Transaction discarded because of previous errors.\r\n")
                else:
                    for _ in range(2 if way == "twice" else 1):
                        redis.sendall(command)
                        reply = _reply(answered)
                    if way == "cut after it":
                        break
                    client.sendall(reply)
                if name in ("MULTI", "EXEC", "DISCARD") and way not in ERRORS:
                    aborted = False
        self._open.discard(client)

    def _way(self, name: str) -> str:
        with self._lock:
            number = len(self.calls)
            self.calls.append(name)
            if self.fault and self.fault.concerns(number):
                self.hit = True
                return self.fault.way
            return ""


def _command(asked: IO[bytes]) -> tuple[bytes, str]:
    """A command as it came, and its name; raises EOFError."""
    whole = _reply(asked)
    return whole, whole.split(b"\r\n")[2].decode().upper()


def _reply(answered: IO[bytes]) -> bytes:
    """One value of Redis' protocol (RESP2 and RESP3), as it came; raises EOFError."""
    line = answered.readline()
    if not line.endswith(b"\r\n"):
        raise EOFError
    kind, count = line[:1], line[1:-2]
    if kind in b"$!=" and int(count) >= 0:
        return line + answered.read(int(count) + 2)
    if kind in b"*~>%" and int(count) >= 0:
        return line + b"".join(_reply(answered) for _ in range(int(count) * (2 if kind == b"%" else 1)))
    return line
