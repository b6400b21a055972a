"""Files that a command writes where a person says: whole or not at all, and never over a file of another kind."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from image_classifier.data.folders import shown
from image_classifier.errors import UsersError


def refuse_other_kinds(file: Path, suffixes: Sequence[str]) -> None:
    """Raises UsersError if a file is there whose name is not that of an earlier output, but of an image, say."""
    file = file.resolve()
    if not file.exists():
        return
    if file.is_dir():
        raise UsersError(f"{shown(file)} is a folder: give the name of a file")
    if file.suffix.lower() not in suffixes:
        raise UsersError(
            f"{shown(file)} is there already, and is not replaced, since its name does not end in "
            f"{' or '.join(suffixes)}: choose another name, or remove it"
        )


@contextmanager
def written_aside(file: Path) -> Iterator[Path]:
    """A file to write instead, which takes the other's place once it is whole: on a full disk the old one stays."""
    file = file.resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    # A folder, since what writes may need the name's ending, or write more than one file.
    with tempfile.TemporaryDirectory(prefix=f".{file.name[:100]}.", dir=file.parent) as folder:
        part = Path(folder) / file.name
        yield part
        os.replace(part, file)
