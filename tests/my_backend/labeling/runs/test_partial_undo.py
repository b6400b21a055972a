"""Undoing some of a labeling run's tasks, while the run goes on or after it."""

import json
from contextlib import suppress

import pytest

from my_backend.counters.on_disk import Tally
from my_backend.errors import BadRequest
from my_backend.labeling.runs import attempt
from my_backend.labeling.runs.records import Run
from my_backend.labeling.runs.writer import Writer
from testing.fake_label_studio.labels import FakeLabels
from testing.fake_label_studio.server import FakeLabelStudio
from tests.my_backend.labeling.runs.conftest import end, submit


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "BATCH_TASKS", 2)


@pytest.fixture
def labels(label_studio: FakeLabelStudio) -> FakeLabels:
    return label_studio.labels


def undo(writer: Writer, run: Run, *tasks: int) -> Run:
    return end(writer, writer.undo(run.id, tasks=tasks))


def facts(run: Run) -> tuple[str, str, int, int, list[int]]:
    return run.action, run.status, run.written, run.undone, run.withdrawn


def test_only_the_tasks_that_are_named_lose_their_annotation(writer: Writer, labels: FakeLabels) -> None:
    run = end(writer, submit(writer, ("Cat", labels.add(5))))
    ids = {number: task["annotations"][0]["id"] for number, task in labels.tasks.items()}

    assert facts(undo(writer, run, 2)) == ("undo", "finished", 5, 1, [2])
    assert facts(undo(writer, run, 4, 5)) == ("undo", "finished", 4, 2, [2, 4, 5])

    assert labels.choices() == {1: ["Cat"], 2: [], 3: ["Cat"], 4: [], 5: []}
    assert {number: ids[number] for number in (1, 3)} == {
        number: task["annotations"][0]["id"] for number, task in labels.tasks.items() if task["annotations"]
    }
    assert facts(undo(writer, run)) == ("undo", "finished", 2, 2, [])
    assert not any(labels.choices().values())
    assert labels.predictions() == 0


def test_naming_all_tasks_undoes_the_run(writer: Writer, labels: FakeLabels) -> None:
    run = end(writer, submit(writer, ("Cat", labels.add(2))))
    undo(writer, run, 1)
    assert facts(undo(writer, run, 2)) == ("undo", "finished", 1, 1, [])
    assert facts(undo(writer, run, 1))[0::4] == ("undo", [])
    assert not any(labels.choices().values())


@pytest.mark.parametrize("reached", range(1, 9))
def test_run_that_is_still_writing_labels_the_others(writer: Writer, labels: FakeLabels, reached: int) -> None:
    run, seen = submit(writer, ("Cat", labels.add(4))), 0

    def take_back(name: str) -> None:
        nonlocal seen
        seen += 1
        if seen == reached:
            writer.undo(run.id, tasks=[1, 4])

    labels.before = take_back
    with suppress(Exception):
        writer.carry_out(run)
    labels.before = lambda name: None
    action, _, written, undone, withdrawn = facts(end(writer, run))
    assert (action, written - undone, withdrawn) == ("write", 2, [1, 4])
    assert labels.choices() == {1: [], 2: ["Cat"], 3: ["Cat"], 4: []}
    assert labels.predictions() == 0

    _, _, written, undone, _ = facts(undo(writer, run))
    assert written - undone == 0
    assert not any(labels.choices().values())


def test_others_are_not_labeled_again_after_the_run_has_ended(writer: Writer, labels: FakeLabels) -> None:
    run = end(writer, submit(writer, ("Cat", labels.add(3))))
    labels.tasks[3]["annotations"].clear()  # someone has deleted it

    undo(writer, run, 2)

    assert labels.choices() == {1: ["Cat"], 2: [], 3: []}


def test_changed_annotations_and_other_peoples_stay_and_are_reported(writer: Writer, labels: FakeLabels) -> None:
    tasks = labels.add(4)
    labels.annotate(1, "Dog")
    run = end(writer, submit(writer, ("Cat", tasks)))
    labels.change(2, "Dog")

    run = undo(writer, run, 2, 3)

    assert (run.undone, run.left_alone) == (1, {"labeled": [1], "changed": [2]})
    assert labels.choices() == {1: ["Dog"], 2: ["Dog"], 3: [], 4: ["Cat"]}


def test_failed_undo_is_resumed_for_the_same_tasks(writer: Writer, labels: FakeLabels) -> None:
    run = end(writer, submit(writer, ("Cat", labels.add(3))))
    labels.forbidden = True
    assert undo(writer, run, 2).status == "failed"
    labels.forbidden = False

    assert facts(end(writer, writer.resume(run.id))) == ("undo", "finished", 3, 1, [2])
    assert labels.choices() == {1: ["Cat"], 2: [], 3: ["Cat"]}


def test_task_of_another_run_is_refused(writer: Writer, labels: FakeLabels) -> None:
    run = end(writer, submit(writer, ("Cat", labels.add(2))))
    with pytest.raises(BadRequest, match=f"tasks: labeling run {run.id} has no task 7"):
        writer.undo(run.id, tasks=[1, 9, 7])
    assert writer.store.get(run.id) == run


def test_annotations_are_counted_once(writer: Writer, labels: FakeLabels) -> None:
    run = end(writer, submit(writer, ("Cat", labels.add(3))))
    for task in (1, 2):
        undo(writer, run, task)
    sums = Tally(writer.store._root).sums().items()
    counts = {json.loads(key)[1].get("outcome"): value for key, value in sums if "_annotations_total" in key}
    assert (counts["written"], counts["undone"]) == (3, 2)
