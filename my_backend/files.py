"""Files that are whole or not there, whatever dies in between."""

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

log = logging.getLogger(__name__)


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


def read_json(path: Path) -> Any:
    """None where there is no such file, or one that a loss of power has left empty or cut short."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        log.warning("%s is damaged and ignored", path)
        return None


def sync_folder(folder: Path) -> None:
    """Makes names that were added to a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes and threads; waits for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class InUse(Exception):
    """Another process holds the lock."""


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Holds a lock as long as the process lives, at the longest; raises InUse where another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse from None
        yield
