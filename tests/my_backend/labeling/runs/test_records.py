"""Records of labeling runs: each finished one is read once, and every later change is noticed."""

import errno
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from my_backend import files
from my_backend.labeling.runs import records
from my_backend.labeling.runs.records import KEPT_IN_VAIN, STATE_FILE, Labels, Run, RunStore

PROJECT = "7.1"


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    (tmp_path / PROJECT).mkdir()
    return RunStore(tmp_path)


def finished(store: RunStore, **fields: object) -> Run:
    run = store.begin(store.create(PROJECT, [Labels(["Cat"], [1])], own_token=True))
    return store.keep(replace(run, status="finished", written=1, **fields))


def test_finished_runs_are_read_once(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [finished(store) for _ in range(3)]
    many = finished(store, left_alone={"labeled": list(range(1000))})  # takes memory, so it isn't kept
    store.of_project(PROJECT)
    read: list[Path] = []
    real = files.read_record
    monkeypatch.setattr(files, "read_record", lambda path, type_: (read.append(path), real(path, type_))[1])

    assert {run.id for run in store.of_project(PROJECT)} == {run.id for run in (*runs, many)}
    assert store.open() == []

    assert {path.parent.name for path in read} == {many.id}


def test_change_is_noticed_although_the_clock_stood_still(store: RunStore, tmp_path: Path) -> None:
    run = finished(store)
    [state] = tmp_path.rglob(STATE_FILE)
    time = state.stat().st_mtime_ns
    assert store.open() == []

    store.undo(run, own_token=True)
    os.utime(state, ns=(time, time))

    assert [(one.action, one.status) for one in store.open()] == [("undo", "queued")]
    assert [one.action for one in store.of_project(PROJECT)] == ["undo"]


def test_run_that_fails_after_the_clock_was_set_back_keeps_its_error(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It seems older than all others; the person who sent it still wants to know why it failed."""

    def failed() -> Run:
        run = store.begin(store.create(PROJECT, [Labels(["Cat"], [1])], own_token=True))
        return store.keep(replace(run, status="failed", error="no"))

    ahead = time.time() + 3600
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: ahead)
        before = [failed() for _ in range(KEPT_IN_VAIN)]
    last = failed()

    store.thin_out(PROJECT)

    left = {run.id for run in store.of_project(PROJECT)}
    assert last.id in left
    assert len(left) == KEPT_IN_VAIN == len(before)


@pytest.fixture
def settled(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that finished long ago, so that stores no longer look at it."""
    run = finished(store)
    with monkeypatch.context() as patch:
        patch.setattr(records, "RECENT_SECONDS", -1.0)
        store.thin_out(PROJECT)
    return run


def test_run_that_finished_long_ago_is_not_looked_at_again(
    store: RunStore, settled: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each label would cost more the more runs all projects ever had."""
    looked: list[str] = []
    real = records._identity
    monkeypatch.setattr(records, "_identity", lambda path: looked.append(path.parent.name) or real(path))
    waiting = store.create(PROJECT, [Labels(["Dog"], [2])], own_token=False)

    assert [run.id for run in store.open()] == [waiting.id]
    assert {run.id for run in store.of_project(PROJECT)} == {waiting.id, settled.id}
    assert set(looked) == {waiting.id}


def test_undo_of_a_run_that_finished_long_ago_is_noticed(store: RunStore, settled: Run) -> None:
    other = RunStore(store._root)
    assert [run.status for run in other.of_project(PROJECT)] == ["finished"]

    store.undo(settled, own_token=False)

    assert [(run.id, run.action) for run in other.open()] == [(settled.id, "undo")]
    store.keep(replace(store.begin(settled), status="finished"))
    assert other.open() == []
    assert [run.action for run in other.of_project(PROJECT)] == ["undo"]


def test_undo_that_is_requested_while_old_runs_are_set_aside_is_noticed(store: RunStore, settled: Run) -> None:
    seen = replace(settled, changed=0.0)
    store.undo(settled, own_token=False)

    store._unmark(seen)

    assert [run.action for run in store.open()] == ["undo"]


def test_runs_of_an_older_release_are_found(store: RunStore, tmp_path: Path) -> None:
    """It doesn't note which runs may have changed."""
    ended = finished(store)
    waiting = store.create(PROJECT, [Labels(["Dog"], [2])], own_token=False)
    shutil.rmtree(tmp_path / PROJECT / "labeling" / records.RECENT_FOLDER)

    started = RunStore(tmp_path)

    assert [run.id for run in started.open()] == [waiting.id]
    assert [run.id for run in started.open()] == [waiting.id]
    assert {run.id for run in started.of_project(PROJECT)} == {ended.id, waiting.id}


def test_change_that_left_no_trace_is_noticed_after_a_while(
    store: RunStore, settled: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an older release on another host."""
    assert store.open() == []
    RunStore(tmp_path).undo(settled, own_token=False)
    shutil.rmtree(tmp_path / PROJECT / "labeling" / records.RECENT_FOLDER)
    assert store.open() == []

    store._known[tmp_path / PROJECT / "labeling"].due = 0.0

    assert [run.action for run in store.open()] == ["undo"]


def test_run_whose_folder_is_gone_is_forgotten_after_a_while(store: RunStore, settled: Run, tmp_path: Path) -> None:
    assert [run.id for run in store.of_project(PROJECT)] == [settled.id]
    shutil.rmtree(tmp_path / PROJECT / "labeling" / settled.id)

    store._known[tmp_path / PROJECT / "labeling"].due = 0.0

    assert store.of_project(PROJECT) == []


def test_removed_run_leaves_no_file(store: RunStore, tmp_path: Path) -> None:
    for _ in range(KEPT_IN_VAIN + 1):
        run = store.begin(store.create(PROJECT, [Labels(["Cat"], [1])], own_token=True))
        store.keep(replace(run, status="failed", error="no"))

    store.thin_out(PROJECT)

    left = {run.id for run in store.of_project(PROJECT)}
    assert len(left) == KEPT_IN_VAIN
    assert {path.name for path in (tmp_path / PROJECT / "labeling" / records.RECENT_FOLDER).iterdir()} == left


def test_project_whose_runs_cannot_be_listed_does_not_stop_others(store: RunStore, tmp_path: Path) -> None:
    waiting = store.create(PROJECT, [Labels(["Dog"], [2])], own_token=False)
    (tmp_path / "8.1").mkdir()
    (tmp_path / "8.1" / "labeling").write_text("This isn't a folder.")

    assert [run.id for run in store.open()] == [waiting.id]


def test_run_ends_although_an_older_one_cannot_be_set_aside(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its record would say that it failed."""
    old = finished(store)
    lock = tmp_path / PROJECT / "labeling" / old.id / ".lock"
    lock.unlink()
    lock.mkdir()
    monkeypatch.setattr(records, "RECENT_SECONDS", -1.0)

    store.thin_out(PROJECT)

    assert (tmp_path / PROJECT / "labeling" / records.RECENT_FOLDER / old.id).exists()


def test_run_that_another_user_has_changed_can_be_changed(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as root, with a command."""
    run = store.create(PROJECT, [Labels(["Cat"], [1])], own_token=False)
    real = Path.touch

    def touch(path: Path, mode: int = 0o666, exist_ok: bool = True) -> None:
        if path.exists() and exist_ok:
            raise PermissionError(errno.EACCES, "Permission denied")
        real(path, mode, exist_ok)

    monkeypatch.setattr(Path, "touch", touch)

    assert store.begin(run).status == "started"


def test_runs_that_cannot_be_read_for_a_moment_come_back(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if too many files were open: otherwise a repeated request would start a second run for minutes."""
    ended = finished(store)
    waiting = store.create(PROJECT, [Labels(["Dog"], [2])], own_token=False, idempotency_key="again")
    shutil.rmtree(store._root / PROJECT / "labeling" / records.RECENT_FOLDER)  # a backup of an older release
    store = RunStore(store._root)
    with monkeypatch.context() as patch:
        patch.setattr(files, "read_record", lambda *_: None)
        assert store.of_project(PROJECT) == store.open() == []

    assert [run.id for run in store.open()] == [waiting.id]
    assert {run.id for run in store.of_project(PROJECT)} == {ended.id, waiting.id}
    assert store.with_key(PROJECT, "again") == waiting


def test_runs_of_a_deleted_project_are_not_taken_for_those_of_a_new_one(store: RunStore, tmp_path: Path) -> None:
    old = store.create(PROJECT, [Labels(["Cat"], [1])], own_token=False, idempotency_key="again")
    store.keep(replace(store.begin(old), status="finished"))
    assert store.with_key(PROJECT, "again")
    shutil.rmtree(tmp_path / PROJECT)
    (tmp_path / PROJECT).mkdir()

    with store.creating(PROJECT):
        assert store.with_key(PROJECT, "again") is None


def test_failed_run_that_is_resumed_is_not_removed(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for _ in range(KEPT_IN_VAIN + 1):
        run = store.begin(store.create(PROJECT, [Labels(["Cat"], [1])], own_token=True))
        runs.append(store.keep(replace(run, status="failed", error="no")))
    seen = store.of_project(PROJECT)
    oldest = seen[-1]
    monkeypatch.setattr(store, "of_project", lambda project: seen)  # read just before the person resumes one
    store.resume(oldest, own_token=True)

    store.thin_out(PROJECT)

    assert store.get(oldest.id).status == "queued"


def test_mark_of_a_run_that_could_not_be_stored_is_removed(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a disk is full, each request would leave one, which all stores look at from then on."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", full)
        with pytest.raises(OSError, match="space"):
            store.create(PROJECT, [Labels(["Cat"], [1])], own_token=False)
    assert not list((store._root / PROJECT / "labeling" / records.RECENT_FOLDER).iterdir())
