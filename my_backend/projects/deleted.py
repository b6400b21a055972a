"""Projects that another process deletes while something is stored for them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from my_backend.errors import NotFound


def was_deleted(uid: str) -> NotFound:
    """The error of operations on a project that was deleted."""
    return NotFound(f"project {uid} was deleted")


@contextmanager
def unless_deleted(folder: Path) -> Iterator[None]:
    """Raises NotFound instead of an error about missing files if the project's folder is gone.

    The block must not create that folder.
    """
    try:
        yield
    # `mkdir` raises FileExistsError if its folder is deleted during the call; `copytree` wraps all errors in its own.
    except (FileNotFoundError, FileExistsError, shutil.Error):
        if folder.exists():
            raise
        raise was_deleted(folder.name) from None
