import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from label_studio_format.events import Change
from my_backend.jobs.retraining import Retraining
from my_backend.projects.packed_tasks import PackedTasks
from my_backend.projects.registry import Projects
from testing.waiting import eventually
from tests.broken_disk import broken_disk


@pytest.fixture
def projects(tmp_path: Path) -> Projects:
    projects = Projects(tmp_path)
    for uid in ("7.1", "8.1", "9.1"):
        projects.remember(uid)
    return projects


@pytest.fixture
def trained() -> list[str]:
    """The projects that were trained, in order."""
    return []


Start = Callable[[int], Retraining]


@pytest.fixture
def start(projects: Projects, trained: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts with the number of changes that make a training; it is never quiet unless a test says so."""
    monkeypatch.setattr("my_backend.jobs.retraining.QUIET_SECONDS", 1000.0)
    started: list[Retraining] = []

    def start(after: int) -> Retraining:
        started.append(Retraining(projects, after, trained.append))
        started[-1].start()
        return started[-1]

    yield start
    for retraining in started:
        retraining.stop()


CREATED = "ANNOTATION_CREATED"


def event(number: int, at: str = "t") -> Change:
    return Change({"id": number, "updated_at": at})


def test_training_begins_with_the_nth_change(start: Start, trained: list[str], projects: Projects) -> None:
    retraining = start(3)
    for number in range(2):
        retraining.changed("7.1", CREATED, [event(number)])
    assert trained == []

    retraining.changed("7.1", CREATED, [event(2)])

    assert trained == ["7.1"]
    assert projects.annotation_log("7.1").unlearned() == 3


def test_one_training_follows_a_labeling_run(projects: Projects, trained: list[str]) -> None:
    writing = {"7.1"}
    retraining = Retraining(projects, 3, trained.append, lambda project: project in writing)
    retraining.start()
    try:
        for number in range(6):
            retraining.changed("7.1", CREATED, [event(number)])
        assert trained == []
        writing.clear()
        retraining.run_ended("7.1")
        assert eventually(lambda: trained == ["7.1"])
    finally:
        retraining.stop()
    assert trained == ["7.1"]


@pytest.mark.parametrize("is_first", ["event", "end"])
def test_images_labeled_one_by_one_cause_one_training_a_minute(
    start: Start, trained: list[str], projects: Projects, monkeypatch: pytest.MonkeyPatch, is_first: str
) -> None:
    retraining = start(3)
    retraining.run_ended("7.1", one_by_one=True)
    for number in range(60):
        for step in ("event", "end") if is_first == "event" else ("end", "event"):
            if step == "event":
                retraining.changed("7.1", CREATED, [event(number)])
            else:
                retraining.run_ended("7.1", one_by_one=True)
        if not number:
            retraining.run_ended("7.1", one_by_one=True)
            assert eventually(lambda: trained == ["7.1"])
    assert trained == ["7.1"]
    retraining.changed("8.1", CREATED, [event(number) for number in range(3)])
    assert trained == ["7.1", "8.1"], "others don't wait"

    monkeypatch.setattr("my_backend.jobs.retraining.PACE_SECONDS", 0.01)
    retraining.run_ended("7.1", one_by_one=True)
    assert eventually(lambda: trained == ["7.1", "8.1", "7.1"])


def test_last_labels_given_one_by_one_are_learned_once_the_minute_is_over(
    start: Start, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("my_backend.jobs.retraining.time.monotonic", lambda: now)
    retraining = start(1)
    retraining.changed("7.1", CREATED, [event(1)])
    assert trained == ["7.1"]
    retraining.run_ended("7.1", one_by_one=True)
    retraining.changed("7.1", CREATED, [event(2)])
    retraining.run_ended("7.1", one_by_one=True)
    assert trained == ["7.1"]

    now += 61
    retraining.run_ended("8.1")  # wakes the thread
    assert eventually(lambda: trained == ["7.1", "7.1"])


def test_labeling_run_that_changed_nothing_starts_no_training(start: Start, trained: list[str]) -> None:
    retraining = start(3)
    retraining.run_ended("7.1")
    retraining.stop()
    assert trained == []


def test_several_changes_may_come_in_one_event(start: Start, trained: list[str]) -> None:
    start(3).changed("7.1", CREATED, [event(1), event(2), event(3)])

    assert trained == ["7.1"]


def test_projects_are_counted_apart(start: Start, trained: list[str]) -> None:
    retraining = start(2)
    retraining.changed("7.1", CREATED, [event(1)])
    retraining.changed("8.1", CREATED, [event(1)])
    assert trained == []

    retraining.changed("8.1", CREATED, [event(2)])

    assert trained == ["8.1"]


def test_event_that_comes_twice_counts_once(start: Start, trained: list[str], projects: Projects) -> None:
    retraining = start(2)

    for _ in range(3):
        retraining.changed("7.1", CREATED, [event(1)])

    assert (trained, projects.annotation_log("7.1").unlearned()) == ([], 1)
    retraining.changed("7.1", "ANNOTATION_UPDATED", [event(1, "later")])
    assert (trained, projects.annotation_log("7.1").unlearned()) == (["7.1"], 2)


def test_only_so_many_events_are_remembered(start: Start, projects: Projects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("my_backend.jobs.retraining.REMEMBERED_EVENTS", 2)
    retraining = start(0)

    for number in (1, 2, 1, 3, 1, 2):
        retraining.changed("7.1", CREATED, [event(number)])

    assert projects.annotation_log("7.1").unlearned() == 4  # 2 was forgotten when 3 came


def test_events_take_the_same_memory_however_long_their_texts_are(start: Start, projects: Projects) -> None:
    retraining = start(0)
    change = Change({"id": "x" * 1_000_000, "updated_at": "y" * 1_000_000}, {})
    for _ in range(2):
        retraining.changed("7.1", "REVIEW_CREATED" + "z" * 1_000_000, [change])
    assert projects.annotation_log("7.1").unlearned() == 1
    assert [len(event) for event in retraining._seen] == [32]


def test_quiet_after_the_last_change_begins_a_training(
    start: Start, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("my_backend.jobs.retraining.QUIET_SECONDS", 0.02)
    retraining = start(100)

    retraining.changed("7.1", CREATED, [event(1)])

    assert eventually(lambda: trained == ["7.1"])
    retraining.changed("7.1", CREATED, [event(2)])
    assert eventually(lambda: trained == ["7.1", "7.1"])


def test_each_change_puts_off_the_quiet(start: Start, trained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("my_backend.jobs.retraining.time.monotonic", lambda: now)
    monkeypatch.setattr("my_backend.jobs.retraining.QUIET_SECONDS", 30.0)
    retraining = start(100)
    retraining.changed("7.1", CREATED, [event(1)])
    now = 1029.0
    retraining.changed("7.1", CREATED, [event(2)])
    now = 1058.0
    retraining.changed("8.1", CREATED, [event(1)])  # wakes the thread
    assert trained == []

    now = 1059.5
    retraining.changed("8.1", CREATED, [event(2)])

    assert eventually(lambda: trained == ["7.1"])


def test_what_a_job_has_learned_is_not_trained_again_when_it_is_quiet(
    start: Start, trained: list[str], projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("my_backend.jobs.retraining.time.monotonic", lambda: now)
    monkeypatch.setattr("my_backend.jobs.retraining.QUIET_SECONDS", 30.0)
    retraining = start(2)
    retraining.changed("7.1", CREATED, [event(1), event(2)])
    assert trained == ["7.1"]
    projects.annotation_log("7.1").learned(projects.annotation_log("7.1").count())
    retraining.changed("8.1", CREATED, [event(1)])

    now += 31
    retraining.changed("9.1", CREATED, [event(1)])  # wakes the thread

    assert eventually(lambda: "8.1" in trained)
    assert trained == ["7.1", "8.1"]


def test_change_missed_while_a_job_read_is_trained_when_it_is_quiet(
    start: Start, trained: list[str], projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("my_backend.jobs.retraining.time.monotonic", lambda: now)
    monkeypatch.setattr("my_backend.jobs.retraining.QUIET_SECONDS", 30.0)
    retraining = start(1)
    retraining.changed("7.1", CREATED, [event(1)])
    read = projects.annotation_log("7.1").count()
    retraining.changed("7.1", CREATED, [event(2)])  # the queue answers the job that is just reading
    projects.annotation_log("7.1").learned(read)
    assert trained == ["7.1"] * 2

    now += 31
    retraining.run_ended("8.1")  # wakes the thread

    assert eventually(lambda: trained == ["7.1"] * 3)


def test_zero_counts_but_never_trains(
    start: Start, trained: list[str], projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("my_backend.jobs.retraining.QUIET_SECONDS", 0.0)
    retraining = start(0)

    retraining.changed("7.1", CREATED, [event(1)])
    retraining.stop()

    assert (trained, projects.annotation_log("7.1").unlearned()) == ([], 1)


def test_changes_from_before_a_restart_are_trained_when_it_is_quiet(
    start: Start, trained: list[str], projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects.remember("8.1")
    start(100).changed("7.1", CREATED, [event(1)])
    monkeypatch.setattr("my_backend.jobs.retraining.QUIET_SECONDS", 0.02)

    start(100)

    assert eventually(lambda: trained == ["7.1"])


def test_training_that_cannot_be_started_does_not_end_the_thread(
    projects: Projects, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("my_backend.jobs.retraining.QUIET_SECONDS", 0.02)
    asked: list[str] = []

    def train(project: str) -> None:
        asked.append(project)
        if project == "7.1":
            raise OSError("disk full")

    retraining = Retraining(projects, 100, train)
    retraining.start()
    retraining.changed("7.1", CREATED, [event(1)])
    assert eventually(lambda: asked == ["7.1"])
    retraining.changed("8.1", CREATED, [event(1)])

    assert eventually(lambda: asked == ["7.1", "8.1"])
    retraining.stop()
    assert "project 7.1: can't start training" in caplog.text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_event_that_could_not_be_kept_is_refused_and_made_good(
    projects: Projects, trained: list[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for name in ("QUIET_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(f"my_backend.jobs.retraining.{name}", 0.02)
    annotation_log = projects.annotation_log("7.1")
    annotation_log.keep_tasks(PackedTasks([]), annotation_log.begin_reading())
    retraining = Retraining(projects, 100, trained.append)
    retraining.start()

    with broken_disk(number), pytest.raises(OSError, match=re.escape(os.strerror(number))):
        retraining.changed("7.1", CREATED, [event(1)])
    assert eventually(lambda: trained == ["7.1"])
    assert (annotation_log.tasks(), annotation_log.unlearned()) == (None, 1)

    retraining.changed("7.1", CREATED, [event(1)])  # whoever sends it again is heard
    retraining.stop()
    assert annotation_log.unlearned() == 2


def test_events_from_many_threads_are_all_counted(start: Start, projects: Projects, trained: list[str]) -> None:
    retraining = start(40)

    def send(first: int) -> None:
        for number in range(first, first + 10):
            retraining.changed("7.1", CREATED, [event(number)])

    threads = [threading.Thread(target=send, args=(first,)) for first in (0, 10, 20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert projects.annotation_log("7.1").unlearned() == 40
    assert trained == ["7.1"]


def test_projects_that_were_trained_long_ago_take_no_memory(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may have been deleted."""
    monkeypatch.setattr("my_backend.jobs.retraining.PACE_SECONDS", 0.0)
    retraining = start(1)
    for uid in ("7.1", "8.1", "9.1"):
        retraining.run_ended(uid, one_by_one=True)
        retraining.changed(uid, CREATED, [event(1)])

    assert len(retraining._trained) == len(retraining._one_by_one) == 1
