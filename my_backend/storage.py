"""Checks whether MODEL_DIR and CACHE_DIR are writable and have space left, and which projects' files are damaged."""

import errno
import logging
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile

from my_backend import files
from my_backend.background import Background
from my_backend.errors import BackendError
from my_backend.files import Damaged
from my_backend.jobs.learned import learned_state
from my_backend.jobs.store import JobStore
from my_backend.projects.corrections import Corrections
from my_backend.projects.labeling_order import read_order
from my_backend.projects.registry import Projects, project_folders
from my_backend.projects.versions import Versions
from my_backend.settings import Settings
from safe_http.redaction import said

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two checks of what is in memory
WRITE_SECONDS = 10.0  # between two attempts to write, after which the free space is read
READ_SECONDS = 600.0  # between two checks of all files
PROBE_BYTES = 65_536
PART_SECONDS = 86_400.0  # no write takes so long, whatever the clocks of hosts that share a folder show


@dataclass(frozen=True)
class UnwritableFolder:
    """A folder of ours that can't be written; `setting` names it."""

    setting: str
    path: Path
    why: str


@dataclass(frozen=True)
class DamagedFile:
    """A file that is unreadable, or missing although other files need it."""

    project: str  # the uid; "" for a file that concerns all projects
    place: tuple[str, ...]  # the folders in the project's folder, and the file's name
    path: Path
    why: str


@dataclass(frozen=True)
class Disk:
    """A file system; `settings` are the settings that name our folders on it."""

    settings: tuple[str, ...]
    free: int  # bytes


@dataclass(frozen=True)
class StorageStatus:
    """The folders that can't be written, the files that are damaged, and the disks."""

    unwritable: tuple[UnwritableFolder, ...] = ()
    damaged: tuple[DamagedFile, ...] = ()
    disks: tuple[Disk, ...] = ()


def read_disks(settings: Settings) -> tuple[Disk, ...]:
    """The disks of MODEL_DIR and CACHE_DIR, without those that aren't available."""
    disks: dict[int, Disk] = {}  # by the number of the device
    for name, folder in _folders(settings).items():
        with suppress(OSError):
            device = folder.stat().st_dev
            names = disks[device].settings if device in disks else ()
            disks[device] = Disk((*names, name), shutil.disk_usage(folder).free)
    return tuple(disks.values())


def check_folders(settings: Settings) -> None:
    """Creates MODEL_DIR and CACHE_DIR if they are missing; raises BackendError if they aren't writable."""
    for name, folder in _folders(settings).items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=folder).close()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                continue  # a server on a full disk still predicts, and reports the problem
            raise BackendError(f"can't use {name}={folder} ({error.strerror}): set it to a writable folder") from None


def remove_parts(settings: Settings) -> None:
    """Removes half-written files of killed processes from MODEL_DIR and CACHE_DIR; this may take a while."""
    for folder in _folders(settings).values():
        for parent, _, names in os.walk(folder):  # steps over folders that vanish meanwhile
            for path in (Path(parent, name) for name in names if name.startswith(files.PART)):
                try:
                    if time.time() - path.stat().st_mtime > PART_SECONDS:
                        path.unlink()
                except FileNotFoundError:  # another process removes them, too
                    pass
                except OSError as error:
                    log.warning("can't remove %s, left by a killed process: %s", path, error)


def identity(folder: Path) -> str:
    """A short text that is the same for two processes of a host if they use the same folder."""
    status = folder.stat()
    return sha256(f"{status.st_dev}:{status.st_ino}".encode()).hexdigest()[:16]


class Storage(Background):
    """A thread that tries to write, and reads the small files that nothing else reads regularly."""

    def __init__(self, settings: Settings, projects: Projects, jobs: JobStore) -> None:
        super().__init__("storage")
        self._settings, self._folders = settings, _folders(settings)
        self._projects, self._jobs = projects, jobs
        self._unwritable: dict[str, str] = {}  # the setting that names the folder → why it can't be written
        self._disks: tuple[Disk, ...] = ()
        self._failed_writes = 0
        self._wrote_at = self._read_at = float("-inf")  # (monotonic)

    def status(self) -> StorageStatus:
        """What is known to be wrong, from memory."""
        unwritable = (UnwritableFolder(name, self._folders[name], why) for name, why in list(self._unwritable.items()))
        root = self._projects.root
        return StorageStatus(tuple(unwritable), tuple(_located(one, root) for one in files.damages(root)), self._disks)

    def _tick(self) -> float:
        failed, now = files.failed_writes(), time.monotonic()
        if failed != self._failed_writes or self._unwritable or now > self._wrote_at + WRITE_SECONDS:
            self._failed_writes, self._wrote_at = failed, now
            self._try_to_write()
            self._disks = read_disks(self._settings)
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
                self._projects.annotation_log(uid).unlearned()
                Corrections(folder).look()
                read_order(folder)
                self._jobs.of_project(uid)
            except OSError as error:  # a folder that can't be listed
                log.warning("project %s: can't check its files: %s", uid, error)


def _folders(settings: Settings) -> dict[str, Path]:
    """Our folders, by the setting that names each."""
    return {"MODEL_DIR": settings.model_dir, "CACHE_DIR": settings.cache_dir}


def _why_unwritable(folder: Path) -> str:
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
    except OSError as error:
        return error.strerror or said(error)
    return ""


def _located(damaged: Damaged, root: Path) -> DamagedFile:
    project, *place = damaged.path.relative_to(root).parts
    if not place:  # it is next to the projects' folders
        project, place = "", [damaged.path.name]
    return DamagedFile(project, tuple(place), damaged.path, damaged.why)
