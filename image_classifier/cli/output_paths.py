"""Outputs of commands: never over a file of another kind, and no empty folder after an error."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

from image_classifier.data.folders import shown
from image_classifier.errors import UsersError
from image_classifier.files import real


def refuse_other_kinds(file: Path, suffixes: Sequence[str]) -> None:
    """Raises UsersError if the file exists and its name isn't that of an earlier output (but of an image, say)."""
    file = real(file)
    if not file.exists():
        return
    if file.is_dir():
        raise UsersError(f"{shown(file)} is a folder: pass the name of a file")
    if file.suffix.lower() not in suffixes:
        raise UsersError(
            f"{shown(file)} already exists and won't be overwritten, since its name doesn't end in "
            f"{' or '.join(suffixes)}: choose another name, or remove the file"
        )


def refuse_unwritable(file: Path) -> None:
    """Raises UsersError or OSError if the file can't be created, before work that may take hours.

    Nothing is left behind.
    """
    file = real(file)
    missing = list(takewhile(lambda path: not path.exists(), file.parents))
    place = file.parents[len(missing)]
    if not place.is_dir():
        raise UsersError(f"{shown(file)} can't be created, because {shown(place)} isn't a folder: choose another name")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{file.name[:100]}.", dir=file.parent) as folder:
            (Path(folder) / file.name).touch()  # its name may be too long
    finally:
        _remove_empty(missing)


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Creates a folder and its parents; if the block fails, removes them again, unless they contain something.

    So the command can be run again. Raises UsersError if the folder exists.
    """
    missing = [path for path in folder.parents if not path.exists()]
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsersError(f"{shown(folder)} already exists: choose another output folder") from None
    except OSError:
        _remove_empty(missing)  # those that were created before a name was too long, say
        raise
    try:
        yield
    except BaseException:
        _remove_empty([folder, *missing])
        raise


def _remove_empty(folders: Sequence[Path]) -> None:
    """Removes the folders that exist and are empty, inner ones first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
