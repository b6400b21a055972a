"""Makes a consistent copy of MODEL_DIR while everything runs; the copy is itself a MODEL_DIR."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from my_backend.errors import Conflict, NotFound
from my_backend.jobs.store import WORK_FOLDER
from my_backend.projects.annotation_log import EVENTS_FOLDER, TASKS_FILE
from my_backend.projects.corrections import corrections_folder
from my_backend.projects.registry import project_folders
from my_backend.projects.versions import GIVEN_FILE, PINNED_FILE, POINTER_FILE, VERSIONS_FOLDER, Versions
from my_backend.redaction import said

# Annotations can be read from Label Studio again; checkpoints belong to running processes.
LEFT_OUT = {TASKS_FILE, EVENTS_FOLDER, WORK_FOLDER}
OF_VERSIONS = {VERSIONS_FOLDER, POINTER_FILE, PINNED_FILE, GIVEN_FILE}

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class BackedUp:
    """The size of a backup, and what couldn't be copied: each path with the reason."""

    projects: int
    versions: int
    left_out: tuple[str, ...] = ()


def back_up(model_dir: Path, target: Path) -> BackedUp:
    """Copies MODEL_DIR to the new folder `target`, readable only by this user because it contains tokens and images.

    Raises NotFound if there is nothing to back up, and Conflict if `target` already exists.
    """
    root = model_dir / "projects"
    projects = sorted(project_folders(root))  # including those with damaged records
    if not projects:
        raise NotFound(f"nothing to back up: MODEL_DIR={model_dir} contains no projects")
    if target.exists():
        raise Conflict(f"{target} already exists: choose a new folder")
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
    """Returns the number of versions. The learned state is written after its version, so it is copied before."""
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
    """Copies files and folders; hard-linked files, such as a network shared by versions, stay hard-linked.

    Skips what can't be copied and notes it in `left_out`: circular links, pipes, unreadable files.
    """

    top: Path
    left_out: list[str]
    _copied: dict[tuple[int, int], Path] = field(default_factory=dict)

    def __call__(self, source: Path, target: Path) -> None:
        """Copies something below `top`; skips what has been removed meanwhile."""
        above = [path for path in source.parents if path == self.top or self.top in path.parents]
        with suppress(FileNotFoundError):
            self._copy(source, target, frozenset(_identity(path.stat()) for path in above))

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
            self._leave_out(source, error.strerror or said(error))
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
            os.link(self._copied[identity], target)
        elif self._copy_file(source, target):
            self._copied[identity] = target

    def _copy_file(self, source: Path, target: Path) -> bool:
        """Returns whether the source was readable; raises OSError if the backup can't be written."""
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
            self._leave_out(source, error.strerror or said(error))
            yield None

    def _leave_out(self, source: Path, why: str) -> None:
        self.left_out.append(f"{source}: {why}")


def _identity(found: os.stat_result) -> tuple[int, int]:
    """Returns an identity that all hard links and paths of a file or folder share."""
    return found.st_dev, found.st_ino
