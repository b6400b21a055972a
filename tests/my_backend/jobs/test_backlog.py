"""What the newest version lacks is learned without a person's help, and nothing is trained in vain."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from errno import EACCES, EIO
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from my_backend import files
from my_backend.errors import MediaError
from my_backend.jobs import backlog as backlog_module
from my_backend.jobs.backlog import FIRST_PAUSE, Backlog
from my_backend.jobs.learned import Learned, note
from my_backend.jobs.record import Job, Kind, new_job
from my_backend.jobs.store import JobStore
from my_backend.label_studio.media import Media, MediaRequest
from my_backend.label_studio.media_cache import MediaFile
from my_backend.projects.corrections import Corrections
from my_backend.projects.registry import Projects
from my_backend.projects.sent_annotations import SentAnnotations
from my_backend.projects.versions import Versions
from tests.broken_disk import disk_error, failing

UID = "7.1"
IMAGE = b"an image"
DIGEST = sha256(IMAGE).hexdigest()


class FakeMedia(Media):
    """Has no images until `there` is set."""

    def __init__(self) -> None:
        self.there = False
        self.asked: list[MediaRequest] = []

    def fetch_all(
        self,
        requests: "list[MediaRequest]",
        deadline: float = float("inf"),  # type: ignore[override]
    ) -> list[MediaFile | MediaError]:
        self.asked += requests
        return [MediaFile(Path("image"), DIGEST) if self.there else MediaError("down") for _ in requests]


class Watched:
    """A backlog that is looked at by hand, and the trainings that it has started."""

    def __init__(self, folder: Path, *, images: bool = True) -> None:
        self.projects = Projects(folder)
        self.projects.remember(UID)
        self.folder = self.projects.folder(UID)
        self.store, self.media = JobStore(folder), FakeMedia()
        self.started: list[Kind] = []
        self.backlog = Backlog(self.projects, self.store, self._submit, lambda project: self.media, images=images)

    def _submit(self, uid: str, kind: Kind, cause: str) -> Job:
        self.started.append(kind)
        job = new_job(uid, kind, cause)
        self.store.save(job)
        return job

    def end(self, status: str = "failed") -> None:
        for job in self.store.unfinished():
            self.store.save(replace(job, status=status))  # type: ignore[arg-type]

    def look(self, times: int = 2) -> list[Kind]:
        """The trainings that these looks start; a reason must be there at two of them."""
        self.started.clear()
        for _ in range(times):
            self.backlog._tick()
        return list(self.started)

    def correct(self) -> None:
        Corrections(self.folder).keep(IMAGE, DIGEST, ["Cat"])

    def learn(self, **fields: object) -> None:
        """A training ends that has read all corrections that can be read."""
        given = {image: when for image, when in Corrections(self.folder).given().items() if when}
        note(self.folder, replace(Learned("w", "d", given), **fields))  # type: ignore[arg-type]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """A project with a version."""
    watched = Watched(tmp_path / "projects")
    Versions(watched.folder).publish({}, watched.folder, cause="", choices=())
    watched.learn()
    return watched


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of files for which the disk returns an error."""
    names: set[str] = set()
    read = files._read_once

    def fail(path: Path) -> bytes:
        if path.name in names:
            raise disk_error(EIO)
        return read(path)

    monkeypatch.setattr(files, "_read_once", fail)
    return names


def test_everything_learned_starts_nothing(watched: Watched) -> None:
    watched.correct()
    watched.learn()

    assert watched.look(3) == []


def test_correction_that_no_job_will_learn_is_trained(watched: Watched) -> None:
    watched.correct()

    assert watched.look(1) == []  # its job may be about to be submitted
    assert watched.look(1) == ["head"]
    assert watched.look(3) == []  # the job is waiting


def test_correction_that_a_job_learns_during_a_look_starts_nothing(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.correct()
    watched.look(1)
    newest = watched.store.newest

    def end_first(*args: Any) -> list[Job]:
        watched.learn()
        return newest(*args)

    monkeypatch.setattr(watched.store, "newest", end_first)
    assert watched.look(3) == []


def test_unreadable_correction_is_trained_once_it_can_be_read(watched: Watched, unreadable: set[str]) -> None:
    watched.correct()
    unreadable.add(f"{DIGEST}.json")
    watched.learn()
    os.utime(watched.folder / "corrections", (0, 1e9))  # what was read of it is remembered
    assert watched.look(3) == []

    unreadable.clear()
    files.look_again(watched.projects.root)  # as `Storage` does every second

    assert watched.look() == ["head"]


def test_correction_that_is_unreadable_after_training_starts_nothing(watched: Watched, unreadable: set[str]) -> None:
    watched.correct()
    watched.learn()
    unreadable.add(f"{DIGEST}.json")

    assert Corrections(watched.folder).given() == {DIGEST: None}
    assert watched.look(3) == []


def test_damaged_correction_starts_nothing(watched: Watched) -> None:
    watched.correct()
    (watched.folder / "corrections" / f"{DIGEST}.json").write_text("{")

    assert watched.look(3) == []


def test_removed_correction_is_unlearned(watched: Watched) -> None:
    watched.correct()
    watched.learn()
    Corrections(watched.folder).remove(DIGEST)

    assert watched.look() == ["head"]


def test_folder_that_cannot_be_listed_does_not_count_as_empty(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.correct()
    watched.learn()
    list_folder = Path.iterdir

    def fail(folder: Path) -> Iterator[Path]:
        if folder.name == "corrections":
            raise OSError(EACCES, "Permission denied")
        return list_folder(folder)

    monkeypatch.setattr(Path, "iterdir", fail)
    watched.backlog._unchanged = files.Unchanged()

    assert watched.look(3) == []
    with pytest.raises(OSError, match="Permission denied"):
        Corrections(watched.folder).newest_first()


def test_pauses_grow_while_trainings_do_not_help(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.monotonic()]
    monkeypatch.setattr(backlog_module.time, "monotonic", lambda: now[0])
    watched.correct()
    assert watched.look() == ["head"]

    started = []
    for _ in range(8):
        watched.end()
        now[0] += FIRST_PAUSE
        started.append(watched.look(1))

    assert started == [["head"], [], ["head"], [], [], [], ["head"], []]
    watched.end()
    Corrections(watched.folder).keep(b"another", "f" * 64, ["Dog"])
    assert watched.look() == ["head"], "another reason doesn't have to wait"


def test_canceled_training_is_not_started_again(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.correct()
    watched.look()
    watched.end("canceled")
    now = time.monotonic() + FIRST_PAUSE
    monkeypatch.setattr(backlog_module.time, "monotonic", lambda: now)

    assert watched.look(3) == []


def test_canceled_full_training_is_not_started_again_although_corrections_came_meanwhile(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    SentAnnotations(watched.folder).keep([{"id": 1}])
    assert watched.look() == ["full"]
    [full] = watched.store.unfinished()
    watched.store.save(replace(new_job(UID, "head", ""), created=full.created + 1, status="finished"))
    assert watched.look(3) == [], "it is still running"
    watched.end("canceled")
    now = time.monotonic() + FIRST_PAUSE
    monkeypatch.setattr(backlog_module.time, "monotonic", lambda: now)

    assert watched.look(3) == []


def test_first_guess_is_left_to_people_too(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "projects")
    Versions(watched.folder).publish({"first_guess": {"temperature": 1.0}}, watched.folder, cause="", choices=())
    watched.correct()

    assert watched.look(3) == []


def test_first_training_is_left_to_people(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "projects")
    watched.correct()

    assert watched.look(3) == []


def test_sent_annotations_are_trained_once_they_can_be_read(tmp_path: Path, unreadable: set[str]) -> None:
    watched = Watched(tmp_path / "projects")
    SentAnnotations(watched.folder).keep([])
    unreadable.add("annotations.json")
    assert watched.look(3) == []

    unreadable.clear()

    assert watched.look() == ["full"]


def test_images_that_were_missed_are_trained_once_one_can_be_fetched(watched: Watched) -> None:
    watched.learn(missed=[("http://images/1.png", 1), ("http://images/2.png", 2)])
    assert watched.look(3) == []
    assert {request.url for request in watched.media.asked} == {"http://images/1.png", "http://images/2.png"}

    watched.media.there = True
    watched.backlog._waiting.clear()  # as if the pause were over

    assert watched.look() == ["head"]


def test_missed_images_wait_for_a_training_if_events_start_none(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "projects", images=False)
    Versions(watched.folder).publish({}, watched.folder, cause="", choices=())
    watched.learn(missed=[("http://images/1.png", 1)])
    watched.media.there = True

    assert watched.look(3) == []


def test_record_of_an_older_release_is_read(watched: Watched) -> None:
    (watched.folder / "learned.json").write_text(json.dumps({"watermark": "w", "digest": "d"}))

    assert watched.look(3) == []
    nothing = {"corrections": {}, "missed": [], "given": "", "made": "", "updated": ""}
    assert asdict(Learned("w", "d")) == {"watermark": "w", "digest": "d", **nothing}


def test_unexpected_error_of_one_project_does_not_starve_the_others(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watched.correct()
    watched.projects.remember("8.1")
    other = watched.projects.folder("8.1")
    Versions(other).publish({}, other, cause="", choices=())
    Corrections(other).keep(IMAGE, DIGEST, ["Cat"])
    watched.backlog._tick()
    waiting = watched.backlog._waiting[UID]
    lacks = watched.backlog._lacks

    def fail(uid: str) -> frozenset[str]:
        if uid == UID:
            raise KeyError("a secret")
        return lacks(uid)

    monkeypatch.setattr(watched.backlog, "_lacks", fail)
    watched.look(2)

    assert [job.project for job in watched.store.unfinished()] == ["8.1"]
    assert watched.backlog._waiting[UID] is waiting
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert UID in record.getMessage()
    assert record.exc_info
    assert watched.backlog.failures() == {UID: "KeyError"}

    monkeypatch.setattr(watched.backlog, "_lacks", lacks)
    assert watched.look(1) == ["head"]
    assert watched.backlog.failures() == {}


def test_pause_of_a_project_survives_a_disk_error(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.correct()
    watched.look()
    waiting = watched.backlog._waiting[UID]

    monkeypatch.setattr(watched.backlog, "_lacks", failing(EIO))

    assert watched.look(1) == []
    assert watched.backlog._waiting == {UID: waiting}
    assert watched.backlog.failures() == {}


def test_failed_project_that_is_deleted_is_forgotten(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched.backlog, "_lacks", lambda uid: {}[uid])
    watched.look(1)
    assert watched.backlog.failures() == {UID: "KeyError"}

    watched.projects.delete(UID)
    watched.look(1)

    assert watched.backlog.failures() == {}


def test_deleted_project_is_forgotten(watched: Watched) -> None:
    watched.correct()
    watched.look(1)

    watched.projects.delete(UID)

    assert watched.look(3) == []
    assert watched.backlog._waiting == {}


def test_all_labels_are_trained_when_no_more_updates_come(watched: Watched) -> None:
    watched.learn(updated=Versions(watched.folder).live_name())
    assert watched.look(1) == []
    later = Versions(watched.folder).publish({}, watched.folder, cause="", choices=())
    watched.learn(updated=later.name)

    assert watched.look(1) == []
    assert watched.look(1) == ["head"]


def test_update_that_was_rolled_back_starts_no_training(watched: Watched) -> None:
    first = Versions(watched.folder).live_name()
    later = Versions(watched.folder).publish({}, watched.folder, cause="", choices=())
    watched.learn(updated=later.name)
    Versions(watched.folder).activate(first)

    assert watched.look(3) == []
