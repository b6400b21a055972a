"""A copy of MODEL_DIR that is whole, made while everything runs; the copy is a MODEL_DIR itself."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from my_backend.errors import Conflict, NotFound
from my_backend.jobs.job import WORK_FOLDER
from my_backend.projects.annotation_log import EVENTS_FOLDER, TASKS_FILE
from my_backend.projects.corrections import corrections_folder
from my_backend.projects.registry import project_folders
from my_backend.projects.versions import GIVEN_FILE, PINNED_FILE, POINTER_FILE, VERSIONS_FOLDER, Versions
from my_backend.redaction import said

# Label Studio tells its annotations again, and newer ones; checkpoints belong to processes that run.
LEFT_OUT = {TASKS_FILE, EVENTS_FOLDER, WORK_FOLDER}
OF_VERSIONS = {VERSIONS_FOLDER, POINTER_FILE, PINNED_FILE, GIVEN_FILE}

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class BackedUp:
    """How much is in a backup, and what could not be copied: each path with the reason."""

    projects: int
    versions: int
    left_out: tuple[str, ...] = ()


def back_up(model_dir: Path, target: Path) -> BackedUp:
    """Makes the folder `target`, for this user alone: it has tokens and images.

    Raises NotFound where there is nothing to back up, Conflict where `target` is there already.
    """
    root = model_dir / "projects"
    projects = sorted(project_folders(root))  # those whose records are damaged too
    if not projects:
        raise NotFound(f"MODEL_DIR={model_dir} has no project: nothing to back up")
    if target.exists():
        raise Conflict(f"{target} is there already: name a folder that is not")
    part = target.with_name(f".{target.name}.{uuid4().hex}")
    part.mkdir(mode=0o700, parents=True)
    try:
        left_out: list[str] = []
        versions = sum(_back_up_project(root / uid, part / "projects" / uid, left_out) for uid in projects)
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return BackedUp(len(projects), versions, tuple(left_out))


def _back_up_project(folder: Path, target: Path, left_out: list[str]) -> int:
    """The number of versions. What was learned is noted after the version that learned it, so it is copied before."""
    copy = _Copy(folder, left_out)
    corrections = corrections_folder(folder)
    for path in folder.iterdir():
        if not path.name.startswith(".") and path.name not in {*LEFT_OUT, *OF_VERSIONS, corrections.name}:
            copy(path, target / path.name)
    versions = Versions(folder)
    with versions.unchanging():
        names = versions.names()
        for name in names:
            copy(folder / VERSIONS_FOLDER / name, target / VERSIONS_FOLDER / name)
        for name in OF_VERSIONS - {VERSIONS_FOLDER}:
            copy(folder / name, target / name)
    copy(corrections, target / corrections.name)
    return len(names)


@dataclass
class _Copy:
    """Copies files and folders; files that share their content, as versions share a network's, share it again.

    What can't be copied is stepped over and noted in `left_out`: a link in a circle, a pipe, an unreadable file.
    """

    top: Path
    left_out: list[str]
    _copied: dict[tuple[int, int], Path] = field(default_factory=dict)

    def __call__(self, source: Path, target: Path) -> None:
        """Copies what lies somewhere below `top`; what is gone meanwhile is left out."""
        above = [path for path in source.parents if path == self.top or self.top in path.parents]
        with suppress(FileNotFoundError):
            self._copy(source, target, frozenset(_identity(path.stat()) for path in above))

    def _copy(self, source: Path, target: Path, inside: frozenset[tuple[int, int]]) -> None:
        """`inside` are the folders that it is in."""
        try:
            found = source.stat()
            names = sorted(path.name for path in source.iterdir()) if stat.S_ISDIR(found.st_mode) else []
        except FileNotFoundError:
            if source.is_symlink():
                self._leave_out(source, "a link to nothing")
            return
        except OSError as error:
            self._leave_out(source, error.strerror or said(error))
            return
        identity = _identity(found)
        if identity in inside:
            self._leave_out(source, "a link to a folder that it is in")
        elif stat.S_ISDIR(found.st_mode):
            target.mkdir(parents=True, exist_ok=True)
            for name in names:
                self._copy(source / name, target / name, inside | {identity})
        elif not stat.S_ISREG(found.st_mode):
            self._leave_out(source, "not a file")
        elif identity in self._copied:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(self._copied[identity], target)
        elif self._copy_file(source, target):
            self._copied[identity] = target

    def _copy_file(self, source: Path, target: Path) -> bool:
        """Whether the source could be read; raises OSError if the backup can't be written."""
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
        """The content, some at a time; None if it can't be read, which is noted."""
        try:
            with source.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError:
            yield None
        except OSError as error:
            self._leave_out(source, error.strerror or said(error))
            yield None

    def _leave_out(self, source: Path, why: str) -> None:
        self.left_out.append(f"{source}: {why}")


def _identity(found: os.stat_result) -> tuple[int, int]:
    """The same for each name of a file or folder."""
    return found.st_dev, found.st_ino
