"""A copy of MODEL_DIR that is whole, made while everything runs; the copy is a MODEL_DIR itself."""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from my_backend.errors import Conflict, NotFound
from my_backend.jobs.job import WORK_FOLDER
from my_backend.store.changes import EVENTS_FOLDER, TASKS_FILE
from my_backend.store.corrections import corrections_folder
from my_backend.store.projects import Projects
from my_backend.store.versions import PINNED_FILE, POINTER_FILE, REMOVED_FILE, VERSIONS_FOLDER, Versions

# Label Studio tells its annotations again, and newer ones; checkpoints belong to processes that run.
LEFT_OUT = {TASKS_FILE, EVENTS_FOLDER, WORK_FOLDER}
OF_VERSIONS = {VERSIONS_FOLDER, POINTER_FILE, PINNED_FILE, REMOVED_FILE}


@dataclass(frozen=True)
class BackedUp:
    """How much is in a backup."""

    projects: int
    versions: int


def back_up(model_dir: Path, target: Path) -> BackedUp:
    """Makes the folder `target`, for this user alone: it has tokens and images.

    Raises NotFound where there is nothing to back up, Conflict where `target` is there already.
    """
    projects = Projects(model_dir / "projects")
    if not projects.all():
        raise NotFound(f"MODEL_DIR={model_dir} has no project: nothing to back up")
    if target.exists():
        raise Conflict(f"{target} is there already: name a folder that is not")
    part = target.with_name(f".{target.name}.{uuid4().hex}")
    part.mkdir(mode=0o700, parents=True)
    try:
        versions = sum(
            _back_up_project(projects.folder(project.uid), part / "projects" / project.uid)
            for project in projects.all()
        )
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return BackedUp(len(projects.all()), versions)


def _back_up_project(folder: Path, target: Path) -> int:
    """The number of versions. What was learned is noted after the version that learned it, so it is copied before."""
    copy = _Copy()
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
    """Copies files and folders; files that share their content, as versions share a network's, share it again."""

    _copied: dict[tuple[int, int], Path] = field(default_factory=dict)

    def __call__(self, source: Path, target: Path) -> None:
        """What is gone meanwhile is left out."""
        with suppress(FileNotFoundError):
            if source.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                for path in source.iterdir():
                    self(path, target / path.name)
            else:
                self._copy_file(source, target)

    def _copy_file(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        stat = source.stat()
        known = self._copied.setdefault((stat.st_dev, stat.st_ino), target)
        if known is target:
            shutil.copy2(source, target)
        else:
            os.link(known, target)
