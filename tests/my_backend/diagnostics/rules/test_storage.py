"""Disks and files → what is wrong."""

from pathlib import Path

import pytest

from my_backend.diagnostics.rules.storage import (
    HINT,
    NAMED_FILES,
    cache_problems,
    disk_space_problems,
    storage_problems,
    unusable_folder,
)
from my_backend.errors import BackendError
from my_backend.storage import DamagedFile, Disk, StorageStatus, UnwritableFolder
from tests.my_backend.conftest import PROJECT


def test_folder_that_cannot_be_written() -> None:
    unwritable = UnwritableFolder("MODEL_DIR", Path("/models"), "No space left on device")
    assert storage_problems(StorageStatus()) == []
    [problem] = storage_problems(StorageStatus((unwritable,)))

    assert (problem.code, problem.message) == ("disk", "Can't write to MODEL_DIR=/models: No space left on device.")
    assert "annotation events are refused" in problem.hint
    unusable = unusable_folder(BackendError("can't use it"))
    assert (unusable.code, unusable.message) == ("folders", "can't use it.")


def damaged(*place: str, project: str = PROJECT, why: str = "it is empty") -> DamagedFile:
    return DamagedFile(project, place, Path("/models", project, *place), why)


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        (damaged("project.json"), "Open the project in Label Studio"),
        (damaged("credentials.json"), "sends its token again"),
        (damaged("live"), "Activate a version on the backend's web page"),
        (damaged("pinned.json"), "pin the versions again"),
        (damaged("annotations.json"), "send POST /train again"),
        (damaged("versions", "v3-x", "version.json"), "`python -m my_backend versions delete v3-x --project 7`"),
        (damaged("jobs", "head-1.json"), "The job is ignored"),
        (damaged("corrections", "abc.json"), "correct the image again"),
        (damaged("recent.json"), HINT),
        (damaged("events", "1.json"), HINT),
        (damaged(".tally.json", project=""), HINT),
    ],
)
def test_damaged_file_has_its_own_hint(file: DamagedFile, hint: str) -> None:
    [problem] = storage_problems(StorageStatus((), (file,)))

    assert (problem.code, problem.project) == ("damaged", file.project)
    assert problem.message == f"Can't use {file.path}: it is empty."
    assert hint in problem.hint


def test_files_of_a_kind_are_one_problem_of_their_project() -> None:
    jobs = [damaged("jobs", f"head-{number}.json") for number in range(NAMED_FILES + 5)]
    told = storage_problems(StorageStatus((), (*jobs, damaged("live"), damaged("live", project="8.1"))))

    assert [(problem.project, len(problem.details)) for problem in told] == [
        (PROJECT, NAMED_FILES),
        (PROJECT, 0),
        ("8.1", 0),
    ]
    assert told[0].message.endswith(". 24 more files of this kind can't be used either.")


def test_disk_that_is_nearly_full() -> None:
    disks = (Disk(("MODEL_DIR",), 10**12), Disk(("CACHE_DIR",), 10**8))
    [problem] = disk_space_problems(disks)

    assert (problem.code, problem.message) == ("disk-space", "Only 0.1 GB is free on the disk that holds CACHE_DIR.")
    assert storage_problems(StorageStatus(disks=disks)) == [problem]


def test_disk_without_any_space_is_one_problem() -> None:
    full = UnwritableFolder("CACHE_DIR", Path("/cache"), "No space left on device")
    told = storage_problems(StorageStatus((full,), disks=(Disk(("MODEL_DIR", "CACHE_DIR"), 0),)))

    assert [problem.code for problem in told] == ["disk"]


@pytest.mark.parametrize(
    ("kind", "found"),
    [("nfs4", True), ("fuse.glusterfs", True), ("cifs", True), ("ext4", False), ("tmpfs", False), ("", False)],
)
def test_cache_on_a_network(kind: str, found: bool) -> None:
    told = cache_problems(kind, Path("/home"))

    assert [problem.code for problem in told] == (["cache-on-network"] if found else [])
    assert not found or f"({kind} at /home)" in told[0].message
