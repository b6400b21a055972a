"""Files that are whole or not there, whatever dies in between."""

import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar

Value = TypeVar("Value")
Record = TypeVar("Record")

log = logging.getLogger(__name__)

STALE_TRIES = 10
SETTLED_NS = 1_000_000_000  # file times are coarse: of two changes at once the second may not show


def write(
    path: Path, content: str | bytes, *, mode: int = 0o644, durable: bool = True, make_folder: bool = True
) -> None:
    """Replaces `path` in one step. Not `durable`: survives the process's death, but not the power's."""
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as part:
        try:
            os.fchmod(part.fileno(), mode)
            part.write(content.encode() if isinstance(content, str) else content)
            part.flush()
            if durable:
                os.fsync(part.fileno())
            os.replace(part.name, path)
        except BaseException:
            os.unlink(part.name)
            raise
    if durable:
        sync_folder(path.parent)


def write_json(path: Path, value: Any, **options: Any) -> None:
    """As `write`, with a JSON text."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", **options)


def read_text(path: Path) -> str:
    """Raises FileNotFoundError. Where another host replaces the file just then, NFS 3 loses it for a moment."""
    for _ in range(STALE_TRIES):
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:
    """None where there is no such file, or one that a loss of power has left empty or cut short."""
    try:
        return json.loads(read_text(path))
    except FileNotFoundError:
        return None
    except ValueError:
        log.warning("%s is damaged and ignored", path)
        return None


def changed_ns(path: Path) -> int:
    """When a file was put there, or a folder's entries changed (nanoseconds since 1970); 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


class Unchanged:
    """Values that were read from files or folders that are as they were; use it inside its block.

    What is not asked for in a block is forgotten at its end.
    """

    def __init__(self) -> None:
        self._known: dict[Path, tuple[int, Any]] = {}
        self._used: dict[Path, tuple[int, Any]] = {}

    def __call__(self, path: Path, read: Callable[[], Value]) -> Value:
        """What `read` gives, or gave when `path` had last changed."""
        changed = changed_ns(path)
        known = self._known.get(path)
        if known is None or known[0] != changed:
            # A file time that is too new to tell is not believed the next time.
            settled = time.time_ns() - changed > SETTLED_NS
            known = (changed if settled else -1, read())
        self._used[path] = known
        value: Value = known[1]
        return value

    def __enter__(self) -> "Unchanged":
        return self

    def __exit__(self, *_: object) -> None:
        self._known, self._used = self._used, {}


def from_record(kind: type[Record], record: dict[str, Any]) -> Record:
    """The dataclass that `record` was written from, without what a newer release has noted beside it."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # mypy has no type for dataclasses
    return kind(**{key: value for key, value in record.items() if key in known})


def make_private(folder: Path) -> None:
    """Makes the folder, and has nobody but its owner look into it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid == os.getuid():
        folder.chmod(0o700)


def sync_folder(folder: Path) -> None:
    """Makes names that were added to a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes and threads, on other hosts too; waits for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # Opening a folder has NFS look anew at what another host has put there before it gave the lock away.
        os.close(os.open(path.parent, os.O_RDONLY))
        yield


class InUse(Exception):
    """Another process holds the lock."""


@contextmanager
def claimed(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Holds a lock as long as the process lives, at the longest; raises InUse where another process holds it.

    Processes that claim it `shared` keep out only those that do not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:  # NFS shares a lock only on a file that is open for reading, too
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse from None
        yield
