"""Files that are written completely or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(file: Path) -> Iterator[Path]:
    """A temporary file that replaces `file` once it is complete: if the disk is full, the old file stays."""
    file = file.resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    # A folder, since the writer may need the file's suffix or write several files.
    with tempfile.TemporaryDirectory(prefix=f".{file.name[:100]}.", dir=file.parent) as folder:
        part = Path(folder) / file.name
        yield part
        os.replace(part, file)
