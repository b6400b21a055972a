"""Atomic files, locks, and a list of damaged files."""

import errno
import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, takewhile
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from my_backend.file_locks import lock, unlock
from safe_http.redaction import said

Value = TypeVar("Value")
# What a file contains after a power failure. all: the new content; data: the new or the previous content, whole;
# none: possibly damaged content.
Sync = Literal["all", "data", "none"]
Moment = Annotated[float, Field(ge=0, lt=253_402_300_800)]  # seconds since 1970, in records: a date until the year 9999
AHEAD_SECONDS = 60.0  # that another host's clock may be ahead

log = logging.getLogger(__name__)

PART = ".part-"  # prefix of a file that is being written; it gets its name when it is whole
STALE_TRIES = 10
# Errors of a full, failing or read-only disk; the file to be written is not at fault.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
NO_FILE = (errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ENOTDIR)  # something else is at that path, and stays there
WINDOWS = os.name == "nt"
READ_SECONDS = 2.0  # how long to retry while Windows refuses to replace a file that someone reads
SETTLED_NS = 1_000_000_000  # file times are coarse: a second change right after the first may not show


def write(
    path: Path,
    content: str | bytes | Iterable[str],
    *,
    mode: int = 0o644,
    sync: Sync = "all",
    make_folder: bool = False,
) -> None:
    """Replaces `path` atomically; it survives a crash of the process, and `sync` says what a power failure may undo.

    `make_folder` creates its folder, but not the folders above: they may have been deleted meanwhile.
    """
    global _failed_writes
    try:
        _write(path, content, mode=mode, sync=sync, make_folder=make_folder)
    except OSError:
        _failed_writes += 1
        raise
    _damaged.pop(path, None)


_failed_writes = 0


def failed_writes() -> int:
    """The number of writes that failed in this process."""
    return _failed_writes


def _write(path: Path, content: str | bytes | Iterable[str], *, mode: int, sync: Sync, make_folder: bool) -> None:
    if make_folder and sync == "all":
        create_folder(path.parent)
    elif make_folder:
        path.parent.mkdir(exist_ok=True)
    part = NamedTemporaryFile(dir=path.parent, prefix=PART, delete=False)  # noqa: SIM115  closed below
    try:
        with part:  # closing flushes the rest, which fails on a full disk
            Path(part.name).chmod(mode)
            if isinstance(content, bytes):
                part.write(content)
            else:
                pieces = [content] if isinstance(content, str) else content
                # An error's message, for example, may contain the name of a file that isn't valid Unicode.
                part.writelines(piece.encode(errors="replace") for piece in pieces)
            part.flush()
            if sync != "none":
                os.fsync(part.fileno())
        _replace(part.name, path)
    except BaseException:
        with suppress(OSError):  # fails if the disk has just become read-only
            os.unlink(part.name)
        raise
    if sync == "all":
        _sync(path.parent)


def _replace(part: str, path: Path) -> None:
    deadline = time.monotonic() + READ_SECONDS
    while True:
        try:
            os.replace(part, path)
            return
        except PermissionError:
            if not WINDOWS or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def write_json(path: Path, value: Any, **options: Any) -> None:
    """Writes a value as JSON; the options are those of `write`."""
    # Piece by piece, so that a large value isn't in memory as text, too.
    pieces = json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(value)
    write(path, chain(pieces, "\n"), **options)


@dataclass(frozen=True)
class Damaged:
    """A file that can't be used: it is unreadable, or missing although other files need it."""

    path: Path
    why: str
    look_again: Callable[[], object] = field(
        repr=False, compare=False
    )  # removes it from the list if it is readable again
    unopened: bool = False  # its content may be fine: a disk error, missing permission, or too many open files


_damaged: dict[Path, Damaged] = {}  # as last seen by this process


def examine(path: Path, parse: Callable[[bytes], Value]) -> Value | Damaged | None:
    """The parsed contents of a file, or None if it doesn't exist. Never raises, whatever is at that path.

    `parse` raises ValueError if it can't use the contents. Damaged files are logged once and listed by `damages`.
    """
    why, unopened = "", False
    try:
        value = parse(_read(path))
    except FileNotFoundError:
        _damaged.pop(path, None)
        return None
    except ValidationError as error:
        why = _explain(error)
    except OSError as error:
        why, unopened = f"it can't be opened ({error.strerror or error})", error.errno not in NO_FILE
    except UnicodeDecodeError:
        why = "it is not UTF-8 text"
    except (ValueError, RecursionError) as error:
        why = said(error)
    if why:
        return note_damage(path, why, partial(examine, path, parse), unopened=unopened)
    _damaged.pop(path, None)
    return value


def note_damage(path: Path, why: str, look_again: Callable[[], object], *, unopened: bool = False) -> Damaged:
    """Lists and logs a file as damaged, until `look_again` or any other read or write finds it undamaged."""
    known = _damaged.get(path)
    if known is None or known.why != why:  # log it once, however often it is read
        log.warning("can't use %s: %s", path, why)
    damaged = _damaged[path] = Damaged(path, why, look_again, unopened)
    return damaged


def note_missing(path: Path) -> Damaged:
    """Lists a missing file as damaged until it exists or its folder is gone."""

    def look_again() -> None:
        if path.exists() or not path.parent.exists():
            _damaged.pop(path, None)

    return note_damage(path, "it is missing", look_again)


def damages(folder: Path) -> list[Damaged]:
    """The known damaged files below a folder, from memory."""
    return sorted((one for one in list(_damaged.values()) if folder in one.path.parents), key=lambda one: one.path)


def is_damaged(path: Path) -> bool:
    """Whether the file was damaged when it was last read, from memory."""
    return path in _damaged


def look_again(folder: Path) -> None:
    """Reads the damaged files below a folder again, and removes those that are readable from the list."""
    for one in damages(folder):
        if one.path.parent.exists():
            one.look_again()
        else:
            _damaged.pop(one.path, None)


def read_record(path: Path, shape: TypeAdapter[Value]) -> Value | None:
    """Reads a JSON file of that shape, ignoring fields of newer releases; None if it is missing or damaged."""
    value = examine(path, json_of(shape))
    return None if isinstance(value, Damaged) else value


def json_of(shape: TypeAdapter[Value]) -> Callable[[bytes], Value]:
    """A parser for JSON of that shape, for `examine`."""
    return partial(shape.validate_json, strict=True)


def was_set_back_since(moment: float) -> bool:
    """Whether the clock was set back after this time was noted, so that it is in the future and tells no age."""
    return moment > time.time() + AHEAD_SECONDS


def _explain(error: ValidationError) -> str:
    """Describes the first error, without quoting the file: it may contain a token."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def _read(path: Path) -> bytes:
    """Reads a file; on NFS 3 it briefly disappears while another host replaces it, hence the retries."""
    for _ in range(STALE_TRIES):
        try:
            return _read_once(path)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return _read_once(path)


def _read_once(path: Path) -> bytes:
    # Opening a pipe would block until someone writes to it. Windows has no pipes in folders.
    nonblocking = getattr(os, "O_NONBLOCK", 0)
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | nonblocking)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file.read()


def changed_ns(path: Path) -> int:
    """When a file, or a folder's list of entries, last changed (nanoseconds since 1970); 0 if unknown."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


class Unchanged:
    """Caches values read from files or folders until these change; use it as a context manager.

    At the end of a block it forgets the values that weren't requested in it.
    """

    def __init__(self) -> None:
        self._known: dict[Path, tuple[int, Any]] = {}
        self._used: dict[Path, tuple[int, Any]] = {}

    def __call__(self, path: Path, read: Callable[[], Value]) -> Value:
        """The result of `read`, cached until `path` changes."""
        changed = changed_ns(path)
        known = self._known.get(path)
        if known is None or known[0] != changed:
            # A file time this recent may miss a later change, so the next call reads again.
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
    """Creates the folder and makes it accessible to its owner only."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # On Windows, the folder's parents say who may read it.
    if hasattr(os, "getuid") and folder.stat().st_uid == os.getuid():
        folder.chmod(0o700)


def sync_tree(folder: Path) -> None:
    """Makes a folder's files, and the names in it and in the folders below it, survive a power failure."""
    for path in folder.rglob("*"):
        if path.is_file() or path.is_dir():
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    """Makes a file's content, or the changed names in a folder, survive a power failure."""
    with _opened(path) as descriptor:
        if descriptor is not None:
            os.fsync(descriptor)


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """The descriptor of a file or folder; None on Windows, which can't open folders or sync files open for reading."""
    if WINDOWS:
        yield None
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def create_folder(folder: Path, *, parents: bool = False) -> None:
    """Creates a folder unless it exists, and its parents if `parents`; new ones survive a power failure."""
    missing = list(takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=parents, exist_ok=True)
    for path in missing:
        _sync(path.parent)


def move(source: Path, target: Path) -> None:
    """Renames a file or folder atomically; the new name survives a power failure, and the old one doesn't come back."""
    os.replace(source, target)
    _sync(target.parent)
    if source.parent != target.parent:
        _sync(source.parent)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Gives a file a second name; where the file system has no hard links, copies it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def remove(path: Path) -> bool:
    """Removes a file; a power failure doesn't bring it back. Returns False if it is gone already."""
    try:
        path.unlink()
    except FileNotFoundError:
        removed = False
    else:
        removed = True
    _sync(path.parent)
    return removed


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for a lock and holds it; it works across threads, processes and hosts. Its folder must exist."""
    with _holding(path):
        # Opening the folder makes NFS notice what another host wrote before it released the lock.
        with _opened(path.parent):
            pass
        yield


@contextmanager
def _holding(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    with _lock_file(path) as file:
        if not lock(file.fileno(), shared=shared, wait=wait):
            raise InUse
        try:
            yield
        finally:
            unlock(file.fileno())


def _lock_file(path: Path) -> IO[str]:
    """Opens a lock file for its owner only: other users who can read it could hold the lock."""
    # Also for reading: otherwise NFS can't share a lock on it.
    return open(path, "a+", opener=lambda name, flags: os.open(name, flags, 0o600))


class InUse(Exception):
    """Another process holds the lock."""


def claimed(path: Path, *, shared: bool = False) -> AbstractContextManager[None]:
    """Holds a lock, at most until the process ends; raises InUse if another process holds it.

    Shared claims exclude only exclusive ones. The lock's folder must exist.
    """
    return _holding(path, shared=shared, wait=False)
