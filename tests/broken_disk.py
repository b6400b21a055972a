"""A disk that is full or fails: for all that the backend writes, or for one function."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def disk_error(number: int = errno.ENOSPC) -> OSError:
    """What the system raises; by default if the disk is full."""
    return OSError(number, os.strerror(number))


def failing(number: int = errno.ENOSPC) -> Callable[..., Any]:
    """A function that raises this error, whatever it gets."""

    def fail(*_: object, **__: object) -> Any:
        raise disk_error(number)

    return fail


@contextmanager
def broken_disk(number: int = errno.ENOSPC) -> Iterator[None]:
    """The backend can write no file and create no folder; it can still read, rename and remove."""
    mkdir = Path.mkdir

    def fail_if_new(path: Path, *given: Any, **options: Any) -> None:
        if not path.is_dir():
            raise disk_error(number)
        mkdir(path, *given, **options)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("files.NamedTemporaryFile", "storage.TemporaryFile"):
            patch.setattr(f"my_backend.{name}", failing(number))
        patch.setattr(Path, "mkdir", fail_if_new)
        yield
