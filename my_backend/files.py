"""Files that are whole or not there, whatever dies in between."""

import errno
import fcntl
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from my_backend.redaction import said

Value = TypeVar("Value")

log = logging.getLogger(__name__)

STALE_TRIES = 10
# What a disk that is full, failing or read-only says; nothing about the file that was to be written is wrong.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
SETTLED_NS = 1_000_000_000  # file times are coarse: of two changes at once the second may not show


def write(
    path: Path, content: str | bytes, *, mode: int = 0o644, durable: bool = True, make_folder: bool = True
) -> None:
    """Replaces `path` in one step. Not `durable`: survives the process's death, but not the power's."""
    global _failed_writes
    try:
        _write(path, content, mode=mode, durable=durable, make_folder=make_folder)
    except OSError:
        _failed_writes += 1
        raise
    _damaged.pop(path, None)


_failed_writes = 0


def failed_writes() -> int:
    """A number that is another one after each write that failed in this process."""
    return _failed_writes


def _write(path: Path, content: str | bytes, *, mode: int, durable: bool, make_folder: bool) -> None:
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    part = NamedTemporaryFile(dir=path.parent, prefix=".", delete=False)  # noqa: SIM115  closed below
    try:
        with part:  # closing writes what is left, which a full disk refuses
            os.fchmod(part.fileno(), mode)
            part.write(content.encode() if isinstance(content, str) else content)
            part.flush()
            if durable:
                os.fsync(part.fileno())
        os.replace(part.name, path)
    except BaseException:
        with suppress(OSError):  # a disk that has just become read-only keeps it
            os.unlink(part.name)
        raise
    if durable:
        sync_folder(path.parent)


def write_json(path: Path, value: Any, **options: Any) -> None:
    """As `write`, with a JSON text."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", **options)


@dataclass(frozen=True)
class Damaged:
    """A file that can't be used: it is unreadable, or is missing although others need it."""

    path: Path
    why: str
    look_again: Callable[[], object] = field(repr=False, compare=False)  # takes it off the list once it is well


_damaged: dict[Path, Damaged] = {}  # as this process has last found them


def examine(path: Path, parse: Callable[[bytes], Value]) -> Value | Damaged | None:
    """The value that `parse` makes of a file; None if there is no such file. Never raises for what is in its place.

    `parse` raises ValueError for contents that it can't use. Damaged files are logged once and listed by `damages`.
    """
    why = ""
    try:
        value = parse(_read(path))
    except FileNotFoundError:
        _damaged.pop(path, None)
        return None
    except ValidationError as error:
        why = _explain(error)
    except OSError as error:
        why = f"it can't be opened ({error.strerror or error})"
    except UnicodeDecodeError:
        why = "it is not UTF-8 text"
    except (ValueError, RecursionError) as error:
        why = said(error)
    if why:
        return note_damage(path, why, partial(examine, path, parse))
    _damaged.pop(path, None)
    return value


def note_damage(path: Path, why: str, look_again: Callable[[], object]) -> Damaged:
    """Lists and logs a file as damaged until `look_again`, or anything else that reads or writes it, finds it well."""
    known = _damaged.get(path)
    if known is None or known.why != why:  # once, however often it is read
        log.warning("can't use %s: %s", path, why)
    damaged = _damaged[path] = Damaged(path, why, look_again)
    return damaged


def note_missing(path: Path) -> Damaged:
    """Lists a file as damaged until it is there, or its folder is gone."""

    def look_again() -> None:
        if path.exists() or not path.parent.exists():
            _damaged.pop(path, None)

    return note_damage(path, "it is missing", look_again)


def damages(folder: Path) -> list[Damaged]:
    """The damaged files below a folder, from memory."""
    return sorted((one for one in list(_damaged.values()) if folder in one.path.parents), key=lambda one: one.path)


def is_damaged(path: Path) -> bool:
    """Whether the file was found damaged when it was last read, from memory."""
    return path in _damaged


def look_again(folder: Path) -> None:
    """Reads the damaged files below a folder once more, and takes those that are well off the list."""
    for one in damages(folder):
        if one.path.parent.exists():
            one.look_again()
        else:
            _damaged.pop(one.path, None)


def read_record(path: Path, shape: TypeAdapter[Value]) -> Value | None:
    """A JSON file of that shape; None if it is missing or damaged. Fields that a newer release added are ignored."""
    value = examine(path, json_of(shape))
    return None if isinstance(value, Damaged) else value


def json_of(shape: TypeAdapter[Value]) -> Callable[[bytes], Value]:
    """Parses JSON of that shape, for `examine`."""
    return partial(shape.validate_json, strict=True)


def _explain(error: ValidationError) -> str:
    """The first thing that is wrong, without quoting the file: it may hold a token."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def _read(path: Path) -> bytes:
    """Where another host replaces the file just then, NFS 3 loses it for a moment."""
    for _ in range(STALE_TRIES):
        try:
            return _read_once(path)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return _read_once(path)


def _read_once(path: Path) -> bytes:
    # Opening a pipe would wait for whoever writes to it.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file.read()


def changed_ns(path: Path) -> int:
    """When a file was put there, or a folder's entries changed (nanoseconds since 1970); 0 if that can't be told."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
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
    with _lock_file(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # Opening a folder has NFS look anew at what another host has put there before it gave the lock away.
        os.close(os.open(path.parent, os.O_RDONLY))
        yield


def _lock_file(path: Path) -> IO[str]:
    """Opens it for its owner alone: other users of the machine could hold the lock if they could read the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # For reading, too: otherwise NFS shares no lock on it.
    return open(path, "a+", opener=lambda name, flags: os.open(name, flags, 0o600))


class InUse(Exception):
    """Another process holds the lock."""


@contextmanager
def claimed(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Holds a lock as long as the process lives, at the longest; raises InUse where another process holds it.

    Processes that claim it `shared` keep out only those that do not.
    """
    with _lock_file(path) as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse from None
        yield
