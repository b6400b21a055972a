"""Checks whether MODEL_DIR and CACHE_DIR are writable and which of the projects' files are damaged."""

import errno
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

from my_backend import files
from my_backend.background import Background
from my_backend.errors import BackendError
from my_backend.files import Damaged
from my_backend.jobs.job import JobStore
from my_backend.jobs.training_job import learned_state
from my_backend.problems import Problem
from my_backend.projects.corrections import Corrections
from my_backend.projects.registry import Projects, project_folders
from my_backend.projects.versions import Versions
from my_backend.redaction import said
from my_backend.settings import Settings

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two checks of what is in memory
WRITE_SECONDS = 10.0  # between two attempts to write
READ_SECONDS = 600.0  # between two checks of all files
PROBE_BYTES = 65_536
NAMED_FILES = 20  # at most, that a problem lists

# What to do, by the name of the damaged file, or else of its folder.
REMEDIES = {
    "project.json": "Open the project in Label Studio, which then contacts the backend; the backend rewrites the file.",
    "credentials.json": "Restart the backend and open the project in Label Studio, which then sends its token again.",
    "live": "Activate a version on the page or start a training; either one rewrites the file.",
    "version.json": (
        "Restore the version's folder from a backup, or remove the version with "
        "`python -m my_backend versions delete {version} --project {project}`."
    ),
    "pinned.json": (
        "Restore the file from a backup, or remove it and pin the versions again. Until then no version is removed, "
        "because any of them may be pinned."
    ),
    "annotations.json": "Send POST /train again, or remove the file.",
    "jobs": "The job is ignored. Remove the file, or return to the newer release that wrote it.",
    "corrections": "This correction isn't learned. Correct the image again, or restore the file from a backup.",
}
REMEDY = "The backend continues without this file and rewrites it. If the problem persists, remove the file."


def check_folders(settings: Settings) -> None:
    """Creates MODEL_DIR and CACHE_DIR if they are missing; raises BackendError if they aren't writable."""
    for name, folder in (("MODEL_DIR", settings.model_dir), ("CACHE_DIR", settings.cache_dir)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=folder).close()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                continue  # a server on a full disk still predicts, and reports the problem
            raise BackendError(f"can't use {name}={folder} ({error.strerror}): set it to a writable folder") from None


class Storage(Background):
    """A thread that tries to write, and reads the small files that nothing else reads regularly."""

    def __init__(self, settings: Settings, projects: Projects, jobs: JobStore) -> None:
        super().__init__("storage")
        self._folders = {"MODEL_DIR": settings.model_dir, "CACHE_DIR": settings.cache_dir}
        self._projects, self._jobs = projects, jobs
        self._unwritable: dict[str, str] = {}  # the setting that names the folder → why it can't be written
        self._failed_writes = 0
        self._wrote_at = self._read_at = float("-inf")  # (monotonic)

    def problems(self) -> list[Problem]:
        """Returns the known problems, from memory."""
        return [*self._problems_of_disk(), *_problems_of_damage(self._projects.root)]

    def _problems_of_disk(self) -> Iterator[Problem]:
        for name, why in list(self._unwritable.items()):
            yield Problem(
                "disk",
                f"Can't write to {name}={self._folders[name]}: {why}.",
                "Free up disk space, or find out why the disk is read-only. Until then predictions continue, but no "
                "training starts and annotation events are refused; afterwards all annotations are read again.",
            )

    def _look(self) -> float:
        failed, now = files.failed_writes(), time.monotonic()
        if failed != self._failed_writes or self._unwritable or now > self._wrote_at + WRITE_SECONDS:
            self._failed_writes, self._wrote_at = failed, now
            self._try_to_write()
        files.look_again(self._projects.root)
        if now > self._read_at + READ_SECONDS:
            self._read_at = now
            self._read_all()
        return LOOK_SECONDS

    def _try_to_write(self) -> None:
        tried = {name: _why_unwritable(folder) for name, folder in self._folders.items()}
        unwritable = {name: why for name, why in tried.items() if why}
        if unwritable != self._unwritable:
            for name in self._folders:
                if name in unwritable:
                    log.warning("can't write to %s: %s", name, unwritable[name])
                elif name in self._unwritable:
                    log.info("%s is writable again", name)
        self._unwritable = unwritable

    def _read_all(self) -> None:
        """Reads all small files; reading a damaged one lists it."""
        for uid in project_folders(self._projects.root):
            if self._stopping:
                return
            folder = self._projects.folder(uid)
            try:
                Versions(folder).look()
                learned_state(folder)
                self._projects.credentials(uid)
                self._projects.changes(uid).unlearned()
                Corrections(folder).look()
                self._jobs.of_project(uid)
            except OSError as error:  # a folder that can't be listed
                log.warning("project %s: can't check its files: %s", uid, error)


def _why_unwritable(folder: Path) -> str:
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
    except OSError as error:
        return error.strerror or said(error)
    return ""


def _problems_of_damage(root: Path) -> list[Problem]:
    """Returns one problem for each project and kind of file."""
    kinds: dict[tuple[str, str], list[Damaged]] = {}
    for damaged in files.damages(root):
        project, *folders, name = (
            damaged.path.relative_to(root).parts if damaged.path.parent != root else ("", damaged.path.name)
        )
        kind = name if name in REMEDIES or not folders else folders[0]
        kinds.setdefault((project, kind), []).append(damaged)
    return [_problem(project, kind, damaged) for (project, kind), damaged in kinds.items()]


def _problem(project: str, kind: str, damaged: list[Damaged]) -> Problem:
    first = damaged[0]
    more = f", and {len(damaged) - 1} more like it" if len(damaged) > 1 else ""
    return Problem(
        "damaged",
        f"Can't use {first.path}: {first.why.rstrip('.')}{more}.",
        REMEDIES.get(kind, REMEDY).format(version=first.path.parent.name, project=project.partition(".")[0]),
        project,
        tuple(f"{one.path}: {one.why}" for one in damaged[1 : NAMED_FILES + 1]),
    )
