"""Makes a consistent copy of MODEL_DIR while everything runs; the copy is itself a MODEL_DIR."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from my_backend import files
from my_backend.errors import Conflict, NotFound
from my_backend.jobs.store import WORK_FOLDER
from my_backend.projects.annotation_log import EVENTS_FOLDER, TASKS_FILE
from my_backend.projects.corrections import corrections_folder
from my_backend.projects.embeddings import EMBEDDINGS_FOLDER
from my_backend.projects.page_summaries import SUMMARIES_FILE
from my_backend.projects.registry import project_folders
from my_backend.projects.version_names import is_version_name
from my_backend.projects.versions import (
    EXPORTS_FOLDER,
    GIVEN_FILE,
    PINNED_FILE,
    POINTER_FILE,
    VERSIONS_FOLDER,
    Versions,
)
from safe_http.redaction import said

# Annotations can be read from Label Studio again, and exports and embeddings made again; checkpoints belong to running
# processes.
LEFT_OUT = {TASKS_FILE, SUMMARIES_FILE, EVENTS_FOLDER, WORK_FOLDER, EXPORTS_FOLDER, EMBEDDINGS_FOLDER}
OF_VERSIONS = {VERSIONS_FOLDER, POINTER_FILE, PINNED_FILE, GIVEN_FILE}

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class BackedUp:
    """The size of a backup, and what it lacks: each path with the reason."""

    projects: int
    versions: int
    unreadable: tuple[str, ...] = ()  # files and folders that couldn't be read
    left_out: tuple[str, ...] = ()  # what holds no data of its own: links in circles or to nothing, pipes, sockets


def back_up(model_dir: Path, target: Path) -> BackedUp:
    """Copies MODEL_DIR to the new folder `target`, readable only by this user because it contains tokens and images.

    A project that can't be read doesn't stop the others. Raises NotFound if there is nothing to back up, and Conflict
    if `target` already exists or is in one of the copied folders.
    """
    root = model_dir / "projects"
    projects = sorted(project_folders(root))  # including those with damaged records
    if not projects:
        raise NotFound(f"nothing to back up: MODEL_DIR={model_dir} contains no projects")
    if os.path.lexists(target):  # also for a link to nothing, which the move at the end couldn't replace
        raise Conflict(f"{target} already exists: choose a new folder")
    # Unlike resolve(), realpath raises nothing for links in circles.
    if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(root)):
        raise Conflict(f"{target} is in {root}, which is backed up itself: choose a folder outside of it")
    part = target.with_name(f".{target.name}.{uuid4().hex}")
    files.create_folder(part.parent, parents=True)
    part.mkdir(mode=0o700)
    try:
        (part / "projects").mkdir(mode=0o700)
        unreadable: list[str] = []
        left_out: list[str] = []
        copied = [
            _back_up_project(_Copy(root / uid, unreadable, left_out), part / "projects" / uid) for uid in projects
        ]
        files.sync_tree(part)
        files.move(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    versions = [number for number in copied if number is not None]
    return BackedUp(len(versions), sum(versions), tuple(unreadable), tuple(left_out))


def _back_up_project(copy: "_Copy", target: Path) -> int | None:
    """The number of versions, None if the project can't be listed or locked: then nothing of it is copied.

    The learned state is written after its version, so it is copied before.
    """
    folder, corrections = copy.top, corrections_folder(copy.top)
    if (names := copy.names_in(folder)) is None:
        return None
    for name in names:
        if not name.startswith(".") and name not in {*LEFT_OUT, *OF_VERSIONS, corrections.name}:
            copy(folder / name, target / name)
    with ExitStack() as locks:
        try:
            locks.enter_context(Versions(folder).unchanging())
        except NotFound:  # it was deleted meanwhile
            shutil.rmtree(target, ignore_errors=True)
            return None
        except OSError as error:
            copy.note_unreadable(folder, f"can't be locked: {error.strerror or said(error)}")
            shutil.rmtree(target, ignore_errors=True)
            return None
        versions = [name for name in copy.names_in(folder / VERSIONS_FOLDER) or () if is_version_name(name)]
        for name in versions:
            copy(folder / VERSIONS_FOLDER / name, target / VERSIONS_FOLDER / name)
        for name in OF_VERSIONS - {VERSIONS_FOLDER}:
            copy(folder / name, target / name)
    copy(corrections, target / corrections.name)
    return len(versions)


@dataclass
class _Copy:
    """Copies files and folders; hard-linked files, such as a network shared by versions, stay hard-linked if possible.

    Skips what can't be copied, and notes it in `unreadable` or `left_out` as in `BackedUp`.
    """

    top: Path
    unreadable: list[str]
    left_out: list[str]
    _copied: dict[tuple[int, int], Path] = field(default_factory=dict)

    def __call__(self, source: Path, target: Path) -> None:
        """Copies something below `top`; skips what has been removed meanwhile."""
        above = [path for path in source.parents if path == self.top or self.top in path.parents]
        try:
            inside = frozenset(_identity(path.stat()) for path in above)
        except FileNotFoundError:
            return
        except OSError as error:
            self.note_unreadable(source, error.strerror or said(error))
            return
        with suppress(FileNotFoundError):
            self._copy(source, target, inside)

    def names_in(self, folder: Path) -> list[str] | None:
        """The sorted names in a folder; None, with a note unless it doesn't exist, if it can't be listed."""
        try:
            return sorted(path.name for path in folder.iterdir())
        except FileNotFoundError:
            return None
        except OSError as error:
            self.note_unreadable(folder, error.strerror or said(error))
            return None

    def note_unreadable(self, source: Path, why: str) -> None:
        self.unreadable.append(f"{source}: {why}")

    def _copy(self, source: Path, target: Path, inside: frozenset[tuple[int, int]]) -> None:
        """Copies `source`; `inside` identifies the folders that contain it."""
        try:
            found = source.stat()
            names = sorted(path.name for path in source.iterdir()) if stat.S_ISDIR(found.st_mode) else []
        except FileNotFoundError:
            if source.is_symlink():
                self._leave_out(source, "a broken link")
            return
        except OSError as error:
            if error.errno == errno.ELOOP:
                self._leave_out(source, "a link to itself")
            else:
                self.note_unreadable(source, error.strerror or said(error))
            return
        identity = _identity(found)
        if identity in inside:
            self._leave_out(source, "a link to a folder that contains it")
        elif stat.S_ISDIR(found.st_mode):
            target.mkdir(parents=True, exist_ok=True)
            for name in names:
                self._copy(source / name, target / name, inside | {identity})
        elif not stat.S_ISREG(found.st_mode):
            self._leave_out(source, "not a regular file")
        elif identity in self._copied:
            target.parent.mkdir(parents=True, exist_ok=True)
            files.link_or_copy(self._copied[identity], target)
        elif self._copy_file(source, target):
            self._copied[identity] = target

    def _copy_file(self, source: Path, target: Path) -> bool:
        """Whether the source was readable; raises OSError if the backup can't be written."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as copy:
            for chunk in self._read(source):
                if chunk is None:
                    target.unlink()
                    return False
                copy.write(chunk)
        shutil.copystat(source, target)
        return True

    def _read(self, source: Path) -> Iterator[bytes | None]:
        """Yields the content in chunks; yields None, and notes the reason, if it can't be read."""
        try:
            with source.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError:
            yield None
        except OSError as error:
            self.note_unreadable(source, error.strerror or said(error))
            yield None

    def _leave_out(self, source: Path, why: str) -> None:
        self.left_out.append(f"{source}: {why}")


def _identity(found: os.stat_result) -> tuple[int, int]:
    """An identity that all hard links and paths of a file or folder share."""
    return found.st_dev, found.st_ino
