"""Whatever is stored for a project that another process has deleted is refused, and brings nothing back."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from label_studio_format.events import Change
from my_backend.errors import NotFound
from my_backend.jobs.learned import Learned, note, noting
from my_backend.jobs.record import new_job
from my_backend.jobs.store import JobStore
from my_backend.labeling.auto_accept.records import AcceptanceStore, Automatic
from my_backend.labeling.runs.records import Labels, RunStore
from my_backend.projects.corrections import Corrections
from my_backend.projects.deleted import unless_deleted
from my_backend.projects.registry import Credentials, Projects
from my_backend.projects.sent_annotations import SentAnnotations
from my_backend.projects.versions import Versions

UID = "7.1"
NAME = "v1-20261120T132501"


def _note(root: Path) -> None:
    with noting(root / UID):
        note(root / UID, Learned())


def _claim(root: Path) -> None:
    with JobStore(root).claimed(new_job(UID, "head", "test")):
        pass


def _claim_labeling(root: Path) -> None:
    with RunStore(root).claimed(UID):
        pass


WRITERS: dict[str, Callable[[Path], object]] = {
    "publish": lambda root: Versions(root / UID).publish({}, root, cause="test", choices=()),
    "renew": lambda root: Versions(root / UID).renew_live(cause="test", choices=()),
    "activate": lambda root: Versions(root / UID).activate(NAME),
    "pin": lambda root: Versions(root / UID).pin(NAME),
    "delete a version": lambda root: Versions(root / UID).delete(NAME),
    "correct": lambda root: Corrections(root / UID).keep(b"", "0" * 64, ["Cat"]),
    "event": lambda root: Projects(root).annotation_log(UID).add([Change({"id": 1})]),
    "doubt": lambda root: Projects(root).annotation_log(UID).doubt(),
    "begin to read": lambda root: Projects(root).annotation_log(UID).begin_reading(),
    "credentials": lambda root: Projects(root).remember_credentials(UID, Credentials("http://host", "token")),
    "sent annotations": lambda root: SentAnnotations(root / UID).keep([]),
    "note": _note,
    "job": lambda root: JobStore(root).add(new_job(UID, "head", "test")),
    "claim a job": _claim,
    "work folder": lambda root: JobStore(root).make_workdir(new_job(UID, "head", "test")),
    "labeling run": lambda root: RunStore(root).create(UID, [Labels(["Cat"], [1])], own_token=False),
    "claim the labeling": _claim_labeling,
    "plan": lambda root: AcceptanceStore(root).create(UID, 0.05),
    "automatic": lambda root: AcceptanceStore(root).switch(UID, Automatic(True)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_writes_to_a_deleted_project_are_refused_and_restore_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"project 7\.1 was deleted"):
        WRITERS[name](tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_deleted_while_it_is_copied_is_named(tmp_path: Path) -> None:
    """`copytree` collects the errors of all files."""
    folder, copy = tmp_path / "7.1", tmp_path / "copy"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_text("w")

    def copy_after_deletion(source: str, target: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copy(source, target)

    with pytest.raises(NotFound, match=r"project 7\.1 was deleted"), unless_deleted(folder):
        shutil.copytree(folder / "model", copy, copy_function=copy_after_deletion)
