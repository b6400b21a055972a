"""Records of labeling runs: each finished one is read once, and every later change is noticed."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from my_backend import files
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
