import errno
import threading
from pathlib import Path
from typing import Any

import pytest

from label_studio_format.events import Change
from my_backend import files
from my_backend.projects import annotation_log, packed_tasks, page_summaries
from my_backend.projects.annotation_log import AnnotationLog
from my_backend.projects.packed_tasks import PackedTasks

CHANGE = Change({"id": 5})


def created(number: int) -> Change:
    return Change({"id": number, "updated_at": "t"}, {"id": number, "data": {"image": f"/{number}.png"}})


def annotated(number: int) -> dict[str, Any]:
    change = created(number)
    return {**(change.task or {}), "annotations": [change.annotation]}


def known(log: AnnotationLog) -> list[dict[str, Any]]:
    tasks = log.tasks()
    assert tasks is not None
    return list(tasks)


@pytest.fixture
def log(tmp_path: Path) -> AnnotationLog:
    return AnnotationLog(tmp_path)


def test_changes_are_all_counted_and_kept_by_many_threads(log: AnnotationLog, tmp_path: Path) -> None:
    log.keep_tasks(PackedTasks([]), log.begin_reading())

    def add(place: AnnotationLog, first: int) -> None:
        for number in range(first, first + 25):
            place.add([created(number)])

    threads = [
        threading.Thread(target=add, args=(place, 100 * n))
        for n, place in enumerate([log, AnnotationLog(tmp_path)] * 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert log.unlearned() == log.count() == 100
    assert sorted(task["id"] for task in known(log)) == [100 * n + i for n in range(4) for i in range(25)]


def test_two_jobs_that_learn_the_same_changes_do_not_take_them_off_twice(log: AnnotationLog) -> None:
    log.add(5 * [CHANGE])
    full = head = log.count()
    log.learned(head)
    assert log.unlearned() == 0

    assert log.add(3 * [CHANGE]) == 3
    log.learned(full)

    assert log.unlearned() == 3


def test_nothing_is_known_before_everything_was_read(log: AnnotationLog, tmp_path: Path) -> None:
    log.add([created(1)])
    assert log.tasks() is None
    assert not (tmp_path / "events").exists()  # nothing could be made of it

    log.begin_reading()
    log.add([created(2)])
    assert log.tasks() is None


def test_events_bring_what_was_read_up_to_date(log: AnnotationLog) -> None:
    log.keep_tasks(PackedTasks([annotated(1)]), log.begin_reading())
    log.add([created(2), created(3)])
    log.add([Change({"id": 1}, deleted=True)])

    assert known(log) == [annotated(2), annotated(3)]


def test_events_that_come_while_everything_is_read_are_not_lost(log: AnnotationLog) -> None:
    log.keep_tasks(PackedTasks([]), log.begin_reading())
    log.add([created(1)])
    count = log.begin_reading()
    log.add([created(2)])

    log.keep_tasks(PackedTasks([annotated(1)]), count)

    assert known(log) == [annotated(1), annotated(2)]


@pytest.mark.parametrize("lost", [1, 3])
@pytest.mark.parametrize("another_came", [False, True])
def test_event_that_a_killed_server_did_not_count_makes_the_next_training_read_everything(
    log: AnnotationLog, monkeypatch: pytest.MonkeyPatch, *, another_came: bool, lost: int
) -> None:
    log.keep_tasks(PackedTasks([]), log.begin_reading())
    log.add([created(1)])
    with monkeypatch.context() as killed:
        killed.delattr(AnnotationLog, "_keep_counts")
        with pytest.raises(AttributeError):
            log.add([created(2)] * lost)
    if another_came:
        log.add([created(3)])

    assert log.tasks() is None

    log.keep_tasks(PackedTasks([annotated(1), annotated(2), annotated(3)]), log.begin_reading())
    for number in (4, 5):
        log.add([created(number)])
    assert known(log) == [annotated(number) for number in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("file", "is_read"),
    [
        ("unlearned.json", False),
        ("unlearned.json", True),
        ("annotated.json", True),
        ("events/000000000002.json", False),
    ],
)
def test_files_of_different_times_make_the_next_training_read_everything(
    log: AnnotationLog, tmp_path: Path, file: str, *, is_read: bool
) -> None:
    log.keep_tasks(PackedTasks([]), log.begin_reading())
    log.add([created(1)])
    older = tmp_path / file
    content = older.read_bytes() if older.exists() else None
    log.add([created(2)])
    if is_read:
        assert known(log) == [annotated(1), annotated(2)]

    if content is None:  # as after a power failure, or in a backup that was made while the server ran
        older.unlink()
    else:
        older.write_bytes(content)
    assert log.tasks() is None
    log.keep_tasks(PackedTasks([annotated(1), annotated(2)]), log.begin_reading())
    log.add([created(3)])

    assert known(log) == [annotated(1), annotated(2), annotated(3)]


def test_events_that_were_read_are_removed(log: AnnotationLog, tmp_path: Path) -> None:
    log.keep_tasks(PackedTasks([]), log.begin_reading())
    log.add([created(1)])
    assert len(list((tmp_path / "events").iterdir())) == 1

    log.keep_tasks(PackedTasks([annotated(1)]), log.begin_reading())

    assert list((tmp_path / "events").iterdir()) == []


def test_what_is_doubted_is_forgotten_even_while_it_is_read(log: AnnotationLog) -> None:
    log.keep_tasks(PackedTasks([annotated(1)]), log.begin_reading())
    log.forget_tasks()
    assert log.tasks() is None

    count = log.begin_reading()
    log.forget_tasks()
    log.keep_tasks(PackedTasks([annotated(1)]), count)

    assert log.tasks() is None


def test_reading_that_ends_late_does_not_replace_a_newer_one(log: AnnotationLog) -> None:
    older = log.begin_reading()
    log.add([created(1)])
    newer = log.begin_reading()
    log.keep_tasks(PackedTasks([annotated(1)]), newer)

    log.keep_tasks(PackedTasks([]), older)

    assert known(log) == [annotated(1)]


def test_more_events_than_reading_would_cost_are_not_kept(
    log: AnnotationLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("my_backend.projects.annotation_log.MAX_EVENTS", 20)
    log.keep_tasks(PackedTasks([]), log.begin_reading())
    for number in range(20):
        log.add([created(number)])
    assert len(list((tmp_path / "events").iterdir())) == 20

    log.add([created(20)])

    assert log.tasks() is None
    assert list((tmp_path / "events").iterdir()) == []
    assert log.count() == 21


@pytest.mark.parametrize("damage", ["", "{"])
def test_what_a_loss_of_power_has_damaged_is_read_again(log: AnnotationLog, tmp_path: Path, damage: str) -> None:
    log.keep_tasks(PackedTasks([annotated(1)]), log.begin_reading())
    log.add([created(2)])
    (event,) = (tmp_path / "events").iterdir()
    event.write_text(damage)

    assert log.tasks() is None
    log.keep_tasks(PackedTasks([annotated(1), annotated(2)]), log.begin_reading())
    assert known(log) == [annotated(1), annotated(2)]


def test_events_that_are_large_together_have_everything_read_again(
    log: AnnotationLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("my_backend.projects.annotation_log.MAX_EVENT_BYTES", 1000)
    log.keep_tasks(PackedTasks([]), log.begin_reading())
    log.add([created(1)])
    assert known(log) == [annotated(1)]

    log.add([Change({"id": 2, "result": "x" * 1000}, {"id": 2, "data": {}})])

    assert log.tasks() is None
    assert log.unlearned() == 2


@pytest.mark.parametrize("damage", [b"", b"[3", b"\0\0\0", b"\xff", b'{"a": 1}', b"[1, 2, 3]", b"[null, 0]", None])
def test_damaged_count_hides_nothing_from_learning(log: AnnotationLog, tmp_path: Path, damage: bytes | None) -> None:
    log.keep_tasks(PackedTasks([annotated(1)]), log.begin_reading())
    log.add([created(2)])
    log.add([created(3)])
    count = tmp_path / "unlearned.json"
    count.unlink()
    if damage is not None:
        count.write_bytes(damage)

    assert log.unlearned() > 0
    assert [one.path for one in files.damages(tmp_path)] == [count]
    log.add([created(4)])
    assert log.tasks() is None  # how many events came is unknown
    assert files.damages(tmp_path) == []
    log.keep_tasks(PackedTasks([annotated(number) for number in (1, 2, 3, 4)]), log.begin_reading())
    learning = log.count()
    log.add([created(5)])
    log.learned(learning)
    assert log.unlearned() == 1
    assert known(log) == [annotated(number) for number in (1, 2, 3, 4, 5)]


def test_after_a_damaged_count_everything_is_read_only_once(log: AnnotationLog, tmp_path: Path) -> None:
    log.keep_tasks(PackedTasks([annotated(1)]), log.begin_reading())
    log.add([created(2)])
    (tmp_path / "unlearned.json").write_bytes(b"")

    log.keep_tasks(PackedTasks([annotated(1), annotated(2)]), log.begin_reading())

    assert known(log) == [annotated(1), annotated(2)]
    assert log.unlearned() > 0


def test_event_that_was_not_kept_makes_the_next_training_read_everything(log: AnnotationLog) -> None:
    log.keep_tasks(PackedTasks([annotated(1)]), log.begin_reading())

    log.doubt()

    assert (log.tasks(), log.unlearned()) == (None, 1)


@pytest.mark.parametrize("tasks", [[{"no": "id"}], ["a text"], [{"id": 1, "annotations": 5}]])
def test_tasks_that_label_studio_never_writes_are_read_again(log: AnnotationLog, tmp_path: Path, tasks: Any) -> None:
    log.begin_reading()
    files.write_json(tmp_path / "annotated.json", {"count": 0, "pages": PackedTasks(tasks).pages})

    assert log.tasks() is None


@pytest.mark.parametrize(
    "record",
    [{"count": 0, "tasks": [annotated(1)]}, {"count": 0, "pages": ["no base64"]}, {"count": 0, "pages": ["AAAA"]}],
    ids=["of an older release", "not base64", "not compressed"],
)
def test_file_without_readable_pages_has_the_tasks_read_again(log: AnnotationLog, tmp_path: Path, record: Any) -> None:
    files.write_json(tmp_path / "annotated.json", record)

    assert log.tasks() is None


def test_events_change_tasks_on_any_page(log: AnnotationLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_tasks, "PAGE_TASKS", 3)
    log.keep_tasks(PackedTasks(annotated(number) for number in range(1, 11)), log.begin_reading())
    changed = {"id": 5, "updated_at": "u"}
    log.add([Change({"id": 1}, deleted=True), Change(changed, {"id": 5}), created(11)])
    log.add([Change({"id": 11}, deleted=True), created(12)])

    found = {task["id"]: task for task in known(log)}

    assert sorted(found) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 12]
    assert found.pop(5) == {**annotated(5), "annotations": [changed]}
    assert all(task == annotated(number) for number, task in found.items())


def test_each_event_is_applied_once(log: AnnotationLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_tasks, "PAGE_TASKS", 3)
    log.keep_tasks(PackedTasks(annotated(number) for number in range(1, 11)), log.begin_reading())
    changed = {"id": 5, "updated_at": "u"}
    log.add([Change(changed, {"id": 5}), created(11)])
    before = log.tasks()
    assert before is not None
    for page in before.pages:
        log.summaries.of(page)
    log.summaries.keep(before.pages)
    assert list((tmp_path / "events").iterdir()) == []

    monkeypatch.setattr(annotation_log, "unpacked", None)
    monkeypatch.setattr(page_summaries, "unpacked", None)
    after = AnnotationLog(tmp_path).tasks()

    assert after is not None
    assert (after.pages, len(after)) == (before.pages, 11)
    assert [task["id"] for task in after] == list(range(1, 12))
    assert log.unlearned() == 2


def test_new_tasks_fill_the_last_page(log: AnnotationLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_tasks, "PAGE_TASKS", 3)
    log.keep_tasks(PackedTasks([annotated(1)]), log.begin_reading())
    for number in range(2, 9):
        log.add([created(number)])
        tasks = log.tasks()

    assert tasks is not None
    assert [len(packed_tasks.unpacked(page)) for page in tasks.pages] == [3, 3, 2]
    assert list(tasks) == [annotated(number) for number in range(1, 9)]


@pytest.mark.parametrize("meanwhile", ["read again", "dropped", "another event"])
def test_events_stay_if_they_are_needed_again(
    meanwhile: str, log: AnnotationLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.keep_tasks(PackedTasks([annotated(1)]), log.begin_reading())
    log.add([created(2)])
    updated = annotation_log._updated

    def slowly(*arguments: Any) -> PackedTasks | None:
        if meanwhile == "read again":
            log.begin_reading()
        elif meanwhile == "dropped":
            log.forget_tasks()
        else:
            log.add([created(3)])
        return updated(*arguments)

    monkeypatch.setattr(annotation_log, "_updated", slowly)
    assert known(log) == [annotated(1), annotated(2)]
    monkeypatch.setattr(annotation_log, "_updated", updated)

    if meanwhile == "another event":
        assert known(log) == [annotated(1), annotated(2), annotated(3)]
    else:
        assert log.tasks() is None


def test_full_disk_only_costs_time(log: AnnotationLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.keep_tasks(PackedTasks([annotated(1)]), log.begin_reading())
    log.add([created(2)])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_write", full)
    tasks = log.tasks()
    assert tasks is not None
    log.summaries.keep(tasks.pages)

    assert list(tasks) == known(log) == [annotated(1), annotated(2)]
