"""Problems with disks, folders and files."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from my_backend.diagnostics.problem import Problem
from my_backend.errors import BackendError
from my_backend.storage import DamagedFile, Disk, StorageStatus, UnwritableFolder

FREE_BYTES = 2_000_000_000  # a training of all layers writes a few hundred million
NAMED_FILES = 20  # at most, that a problem lists
# The cache is a memory-mapped file, which none of these file systems keeps consistent.
NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "9p", "ceph", "gluster", "lustre", "beegfs", "gpfs", "afs", "davfs")

PLAN_LOST = (
    "This plan to accept labels can't continue. Restore the file from a backup, or make a new plan. `label undo RUN` "
    "undoes labels that were already accepted."
)
# What to do, by the name of the damaged file, or else of its folder.
HINTS = {
    "project.json": "Open the project in Label Studio, which then contacts the backend; the backend rewrites the file.",
    "credentials.json": "Restart the backend and open the project in Label Studio, which then sends its token again.",
    "live": "Activate a version on the backend's web page, or start training; either rewrites the file.",
    "version.json": (
        "Restore the version's folder from a backup, or remove the version with "
        "`python -m my_backend versions delete {version} --project {project}`."
    ),
    "pinned.json": (
        "Restore the file from a backup, or remove it and pin the versions again. Until then no version is removed, "
        "because any of them may be pinned."
    ),
    "annotations.json": (
        "These annotations are used in training once the file can be read. If it stays unreadable, send POST /train "
        "again, or remove the file."
    ),
    "jobs": "The job is ignored. Remove the file, or upgrade to the release that wrote it.",
    "state.json": "This labeling run can't continue. Restore the file from a backup, or remove the run's folder.",
    "plan.json": "This labeling run can't continue or be undone. Restore the file from a backup.",
    "acceptance.json": PLAN_LOST,
    "answers.json": PLAN_LOST,
    "automatic.json": (
        "Labels aren't accepted automatically. Turn automatic acceptance on again on the Accept page, which "
        "rewrites the file."
    ),
    "embeddings.json": (
        "Embeddings of new tasks aren't shared. Run `python -m my_backend embed start --project {project}`, "
        "which rewrites the file."
    ),
    "corrections": (
        "This correction isn't used in training until the file can be read again. Restore the file from a backup, or "
        "correct the image again."
    ),
}
HINT = "The backend continues without this file and rewrites it. If the problem persists, remove the file."


def storage_problems(status: StorageStatus) -> list[Problem]:
    """Folders that can't be written, nearly full disks, and damaged files: one problem per project and kind of file."""
    unwritable = {folder.setting for folder in status.unwritable}  # a full disk is reported only once
    kinds: dict[tuple[str, str], list[DamagedFile]] = {}
    for file in status.damaged:
        kind = file.place[-1] if file.place[-1] in HINTS or len(file.place) == 1 else file.place[0]
        kinds.setdefault((file.project, kind), []).append(file)
    return [
        *map(_unwritable, status.unwritable),
        *disk_space_problems(disk for disk in status.disks if unwritable.isdisjoint(disk.settings)),
        *(_damaged(project, kind, files) for (project, kind), files in kinds.items()),
    ]


def _unwritable(folder: UnwritableFolder) -> Problem:
    return Problem(
        "disk",
        f"Can't write to {folder.setting}={folder.path}: {folder.why}.",
        "Free up disk space, or find out why the disk is read-only. Until this is fixed, predictions continue, "
        "but no training run starts and annotation events are refused; afterwards all annotations are read again.",
    )


def _damaged(project: str, kind: str, files: Sequence[DamagedFile]) -> Problem:
    first = files[0]
    others = len(files) - 1
    more = f" {others} more {'file' if others == 1 else 'files'} of this kind can't be used either." if others else ""
    return Problem(
        "damaged",
        f"Can't use {first.path}: {first.why.rstrip('.')}.{more}",
        HINTS.get(kind, HINT).format(version=first.path.parent.name, project=project.partition(".")[0]),
        project,
        tuple(f"{one.path}: {one.why}" for one in files[1 : NAMED_FILES + 1]),
    )


def unusable_folder(error: BackendError) -> Problem:
    """MODEL_DIR or CACHE_DIR can't be used, so the server doesn't start; the error says why."""
    return Problem("folders", f"{error}.")


def disk_space_problems(disks: Iterable[Disk]) -> list[Problem]:
    """Disks that are nearly full."""
    return [
        Problem(
            "disk-space",
            f"Only {disk.free / 1e9:.1f} GB is free on the disk that holds {' and '.join(disk.settings)}.",
            "Free up space, or move the folder to a larger disk: training can't publish a version on a full disk.",
        )
        for disk in disks
        if disk.free < FREE_BYTES
    ]


def cache_problems(kind: str, place: Path) -> list[Problem]:
    """A cache on a file system that corrupts it; `kind` is the file system's type, and `place` its mount point."""
    if not kind.removeprefix("fuse.").startswith(NETWORK_FILE_SYSTEMS):
        return []
    message = f"CACHE_DIR is on a network file system ({kind} at {place}), which damages its database of embeddings."
    hint = "Set CACHE_DIR to a folder on a local disk: nothing in it needs to be shared or kept."
    return [Problem("cache-on-network", message, hint)]
