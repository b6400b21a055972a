import errno
import threading
from pathlib import Path
from typing import Any

import pytest

from label_studio_format.events import Change
from my_backend import files
from my_backend.projects import annotation_log, packed_tasks, page_summaries
from my_backend.projects.annotation_log import Changes
from my_backend.projects.packed_tasks import PackedTasks

CHANGE = Change({"id": 5})


def created(number: int) -> Change:
    return Change({"id": number, "updated_at": "t"}, {"id": number, "data": {"image": f"/{number}.png"}})


def annotated(number: int) -> dict[str, Any]:
    change = created(number)
    return {**(change.task or {}), "annotations": [change.annotation]}


def known(changes: Changes) -> list[dict[str, Any]]:
    tasks = changes.tasks()
    assert tasks is not None
    return list(tasks)


@pytest.fixture
def changes(tmp_path: Path) -> Changes:
    return Changes(tmp_path)


def test_changes_are_all_counted_and_kept_by_many_threads(changes: Changes, tmp_path: Path) -> None:
    changes.keep_tasks(PackedTasks([]), changes.begin_reading())

    def add(place: Changes, first: int) -> None:
        for number in range(first, first + 25):
            place.add([created(number)])

    threads = [
        threading.Thread(target=add, args=(place, 100 * n)) for n, place in enumerate([changes, Changes(tmp_path)] * 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert changes.unlearned() == changes.count() == 100
    assert sorted(task["id"] for task in known(changes)) == [100 * n + i for n in range(4) for i in range(25)]


def test_two_jobs_that_learn_the_same_changes_do_not_take_them_off_twice(changes: Changes) -> None:
    changes.add(5 * [CHANGE])
    full = head = changes.count()
    changes.learned(head)
    assert changes.unlearned() == 0

    assert changes.add(3 * [CHANGE]) == 3
    changes.learned(full)

    assert changes.unlearned() == 3


def test_nothing_is_known_before_everything_was_read(changes: Changes, tmp_path: Path) -> None:
    changes.add([created(1)])
    assert changes.tasks() is None
    assert not (tmp_path / "events").exists()  # nothing could be made of it

    changes.begin_reading()
    changes.add([created(2)])
    assert changes.tasks() is None


def test_events_bring_what_was_read_up_to_date(changes: Changes) -> None:
    changes.keep_tasks(PackedTasks([annotated(1)]), changes.begin_reading())
    changes.add([created(2), created(3)])
    changes.add([Change({"id": 1}, deleted=True)])

    assert known(changes) == [annotated(2), annotated(3)]


def test_events_that_come_while_everything_is_read_are_not_lost(changes: Changes) -> None:
    changes.keep_tasks(PackedTasks([]), changes.begin_reading())
    changes.add([created(1)])
    count = changes.begin_reading()
    changes.add([created(2)])

    changes.keep_tasks(PackedTasks([annotated(1)]), count)

    assert known(changes) == [annotated(1), annotated(2)]


@pytest.mark.parametrize("lost", [1, 3])
@pytest.mark.parametrize("another_came", [False, True])
def test_event_that_a_killed_server_did_not_count_makes_the_next_training_read_everything(
    changes: Changes, monkeypatch: pytest.MonkeyPatch, *, another_came: bool, lost: int
) -> None:
    changes.keep_tasks(PackedTasks([]), changes.begin_reading())
    changes.add([created(1)])
    with monkeypatch.context() as killed:
        killed.delattr(Changes, "_keep_counts")
        with pytest.raises(AttributeError):
            changes.add([created(2)] * lost)
    if another_came:
        changes.add([created(3)])

    assert changes.tasks() is None

    changes.keep_tasks(PackedTasks([annotated(1), annotated(2), annotated(3)]), changes.begin_reading())
    for number in (4, 5):
        changes.add([created(number)])
    assert known(changes) == [annotated(number) for number in (1, 2, 3, 4, 5)]


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
    changes: Changes, tmp_path: Path, file: str, *, is_read: bool
) -> None:
    changes.keep_tasks(PackedTasks([]), changes.begin_reading())
    changes.add([created(1)])
    older = tmp_path / file
    content = older.read_bytes() if older.exists() else None
    changes.add([created(2)])
    if is_read:
        assert known(changes) == [annotated(1), annotated(2)]

    if content is None:  # as after a power failure, or in a backup that was made while the server ran
        older.unlink()
    else:
        older.write_bytes(content)
    assert changes.tasks() is None
    changes.keep_tasks(PackedTasks([annotated(1), annotated(2)]), changes.begin_reading())
    changes.add([created(3)])

    assert known(changes) == [annotated(1), annotated(2), annotated(3)]


def test_events_that_were_read_are_removed(changes: Changes, tmp_path: Path) -> None:
    changes.keep_tasks(PackedTasks([]), changes.begin_reading())
    changes.add([created(1)])
    assert len(list((tmp_path / "events").iterdir())) == 1

    changes.keep_tasks(PackedTasks([annotated(1)]), changes.begin_reading())

    assert list((tmp_path / "events").iterdir()) == []


def test_what_is_doubted_is_forgotten_even_while_it_is_read(changes: Changes) -> None:
    changes.keep_tasks(PackedTasks([annotated(1)]), changes.begin_reading())
    changes.forget_tasks()
    assert changes.tasks() is None

    count = changes.begin_reading()
    changes.forget_tasks()
    changes.keep_tasks(PackedTasks([annotated(1)]), count)

    assert changes.tasks() is None


def test_reading_that_ends_late_does_not_replace_a_newer_one(changes: Changes) -> None:
    older = changes.begin_reading()
    changes.add([created(1)])
    newer = changes.begin_reading()
    changes.keep_tasks(PackedTasks([annotated(1)]), newer)

    changes.keep_tasks(PackedTasks([]), older)

    assert known(changes) == [annotated(1)]


def test_more_events_than_reading_would_cost_are_not_kept(
    changes: Changes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("my_backend.projects.annotation_log.MAX_EVENTS", 20)
    changes.keep_tasks(PackedTasks([]), changes.begin_reading())
    for number in range(20):
        changes.add([created(number)])
    assert len(list((tmp_path / "events").iterdir())) == 20

    changes.add([created(20)])

    assert changes.tasks() is None
    assert list((tmp_path / "events").iterdir()) == []
    assert changes.count() == 21


@pytest.mark.parametrize("damage", ["", "{"])
def test_what_a_loss_of_power_has_damaged_is_read_again(changes: Changes, tmp_path: Path, damage: str) -> None:
    changes.keep_tasks(PackedTasks([annotated(1)]), changes.begin_reading())
    changes.add([created(2)])
    (event,) = (tmp_path / "events").iterdir()
    event.write_text(damage)

    assert changes.tasks() is None
    changes.keep_tasks(PackedTasks([annotated(1), annotated(2)]), changes.begin_reading())
    assert known(changes) == [annotated(1), annotated(2)]


def test_events_that_are_large_together_have_everything_read_again(
    changes: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("my_backend.projects.annotation_log.MAX_EVENT_BYTES", 1000)
    changes.keep_tasks(PackedTasks([]), changes.begin_reading())
    changes.add([created(1)])
    assert known(changes) == [annotated(1)]

    changes.add([Change({"id": 2, "result": "x" * 1000}, {"id": 2, "data": {}})])

    assert changes.tasks() is None
    assert changes.unlearned() == 2


@pytest.mark.parametrize("damage", [b"", b"[3", b"\0\0\0", b"\xff", b'{"a": 1}', b"[1, 2, 3]", b"[null, 0]", None])
def test_damaged_count_hides_nothing_from_learning(changes: Changes, tmp_path: Path, damage: bytes | None) -> None:
    changes.keep_tasks(PackedTasks([annotated(1)]), changes.begin_reading())
    changes.add([created(2)])
    changes.add([created(3)])
    count = tmp_path / "unlearned.json"
    count.unlink()
    if damage is not None:
        count.write_bytes(damage)

    assert changes.unlearned() > 0
    assert [one.path for one in files.damages(tmp_path)] == [count]
    changes.add([created(4)])
    assert changes.tasks() is None  # how many events came is unknown
    assert files.damages(tmp_path) == []
    changes.keep_tasks(PackedTasks([annotated(number) for number in (1, 2, 3, 4)]), changes.begin_reading())
    learning = changes.count()
    changes.add([created(5)])
    changes.learned(learning)
    assert changes.unlearned() == 1
    assert known(changes) == [annotated(number) for number in (1, 2, 3, 4, 5)]


def test_after_a_damaged_count_everything_is_read_only_once(changes: Changes, tmp_path: Path) -> None:
    changes.keep_tasks(PackedTasks([annotated(1)]), changes.begin_reading())
    changes.add([created(2)])
    (tmp_path / "unlearned.json").write_bytes(b"")

    changes.keep_tasks(PackedTasks([annotated(1), annotated(2)]), changes.begin_reading())

    assert known(changes) == [annotated(1), annotated(2)]
    assert changes.unlearned() > 0


def test_event_that_was_not_kept_makes_the_next_training_read_everything(changes: Changes) -> None:
    changes.keep_tasks(PackedTasks([annotated(1)]), changes.begin_reading())

    changes.doubt()

    assert (changes.tasks(), changes.unlearned()) == (None, 1)


@pytest.mark.parametrize("tasks", [[{"no": "id"}], ["a text"], [{"id": 1, "annotations": 5}]])
def test_tasks_that_label_studio_never_writes_are_read_again(changes: Changes, tmp_path: Path, tasks: Any) -> None:
    changes.begin_reading()
    files.write_json(tmp_path / "annotated.json", {"count": 0, "pages": PackedTasks(tasks).pages})

    assert changes.tasks() is None


@pytest.mark.parametrize(
    "record",
    [{"count": 0, "tasks": [annotated(1)]}, {"count": 0, "pages": ["no base64"]}, {"count": 0, "pages": ["AAAA"]}],
    ids=["of an older release", "not base64", "not compressed"],
)
def test_file_without_readable_pages_has_the_tasks_read_again(changes: Changes, tmp_path: Path, record: Any) -> None:
    files.write_json(tmp_path / "annotated.json", record)

    assert changes.tasks() is None


def test_events_change_tasks_on_any_page(changes: Changes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_tasks, "PAGE_TASKS", 3)
    changes.keep_tasks(PackedTasks(annotated(number) for number in range(1, 11)), changes.begin_reading())
    changed = {"id": 5, "updated_at": "u"}
    changes.add([Change({"id": 1}, deleted=True), Change(changed, {"id": 5}), created(11)])
    changes.add([Change({"id": 11}, deleted=True), created(12)])

    found = {task["id"]: task for task in known(changes)}

    assert sorted(found) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 12]
    assert found.pop(5) == {**annotated(5), "annotations": [changed]}
    assert all(task == annotated(number) for number, task in found.items())


def test_each_event_is_applied_once(changes: Changes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_tasks, "PAGE_TASKS", 3)
    changes.keep_tasks(PackedTasks(annotated(number) for number in range(1, 11)), changes.begin_reading())
    changed = {"id": 5, "updated_at": "u"}
    changes.add([Change(changed, {"id": 5}), created(11)])
    before = changes.tasks()
    assert before is not None
    for page in before.pages:
        changes.summaries.of(page)
    changes.summaries.keep(before.pages)
    assert list((tmp_path / "events").iterdir()) == []

    monkeypatch.setattr(annotation_log, "unpacked", None)
    monkeypatch.setattr(page_summaries, "unpacked", None)
    after = Changes(tmp_path).tasks()

    assert after is not None
    assert (after.pages, len(after)) == (before.pages, 11)
    assert [task["id"] for task in after] == list(range(1, 12))
    assert changes.unlearned() == 2


def test_new_tasks_fill_the_last_page(changes: Changes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_tasks, "PAGE_TASKS", 3)
    changes.keep_tasks(PackedTasks([annotated(1)]), changes.begin_reading())
    for number in range(2, 9):
        changes.add([created(number)])
        tasks = changes.tasks()

    assert tasks is not None
    assert [len(packed_tasks.unpacked(page)) for page in tasks.pages] == [3, 3, 2]
    assert list(tasks) == [annotated(number) for number in range(1, 9)]


@pytest.mark.parametrize("meanwhile", ["read again", "dropped", "another event"])
def test_events_stay_if_they_are_needed_again(
    meanwhile: str, changes: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes.keep_tasks(PackedTasks([annotated(1)]), changes.begin_reading())
    changes.add([created(2)])
    updated = annotation_log._updated

    def slowly(*arguments: Any) -> PackedTasks | None:
        if meanwhile == "read again":
            changes.begin_reading()
        elif meanwhile == "dropped":
            changes.forget_tasks()
        else:
            changes.add([created(3)])
        return updated(*arguments)

    monkeypatch.setattr(annotation_log, "_updated", slowly)
    assert known(changes) == [annotated(1), annotated(2)]
    monkeypatch.setattr(annotation_log, "_updated", updated)

    if meanwhile == "another event":
        assert known(changes) == [annotated(1), annotated(2), annotated(3)]
    else:
        assert changes.tasks() is None


def test_full_disk_only_costs_time(changes: Changes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes.keep_tasks(PackedTasks([annotated(1)]), changes.begin_reading())
    changes.add([created(2)])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_write", full)
    tasks = changes.tasks()
    assert tasks is not None
    changes.summaries.keep(tasks.pages)

    assert list(tasks) == known(changes) == [annotated(1), annotated(2)]
