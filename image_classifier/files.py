"""Files that are written completely or not at all, and where links lead."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def real(path: Path) -> Path:
    """The path with its links resolved. A circular link is kept; `Path.resolve` would raise RuntimeError."""
    return Path(os.path.realpath(path))


def name_of(path: Path) -> str:
    """The name of a file or folder, also of `.` and `..`, which have none of their own."""
    return path.name if path.name not in ("", "..") else real(path).name


@contextmanager
def written_aside(file: Path) -> Iterator[Path]:
    """A temporary file that replaces `file` once it is complete: if the disk is full, the old file stays."""
    file = real(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    # A folder, since the writer may need the file's suffix or write several files.
    with tempfile.TemporaryDirectory(prefix=f".{file.name[:100]}.", dir=file.parent) as folder:
        part = Path(folder) / file.name
        yield part
        os.replace(part, file)
