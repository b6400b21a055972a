"""What a labeling run leaves in Label Studio, whatever happens in between."""

import errno
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from label_studio_format.annotations import source_of
from my_backend import files
from my_backend.errors import BadRequest, Conflict, LabelStudioError
from my_backend.label_studio import client
from my_backend.labeling.runs import attempt
from my_backend.labeling.runs import writer as writer_module
from my_backend.labeling.runs.project_tasks import ProjectTasks
from my_backend.labeling.runs.records import Labels, Run
from my_backend.labeling.runs.writer import Writer
from my_backend.projects.registry import Projects
from testing.fake_label_studio.labels import OTHER, FakeLabels
from testing.fake_label_studio.server import FakeLabelStudio
from tests.broken_disk import disk_error
from tests.my_backend.labeling.runs.conftest import CONNECTED, MakeWriter, end, submit


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "BATCH_TASKS", 4)


@pytest.fixture
def labels(label_studio: FakeLabelStudio) -> FakeLabels:
    return label_studio.labels


def once(labels: FakeLabels, moment: str, name: str, do: Any) -> None:
    """Calls `do` before or after the first such request."""
    done: list[str] = []

    def hook(now: str) -> None:
        if now == name and not done:
            done.append(now)
            do()

    setattr(labels, moment, hook)


def test_each_task_gets_its_choice_and_the_mark_of_the_run(writer: Writer, labels: FakeLabels) -> None:
    tasks = labels.add(10)

    run = end(writer, submit(writer, ("Cat", tasks[:7]), ("Dog", tasks[7:])))

    assert (run.status, run.written, run.done, run.left_alone) == ("finished", 10, 10, {})
    assert list(labels.choices().values()) == [["Cat"]] * 7 + [["Dog"]] * 3
    assert labels.marks() == {f"image-classifier:group {run.id}"}
    assert labels.predictions() == 0


def test_all_tasks_are_labeled_and_undone_although_label_studio_limits_its_pages(
    writer: Writer, labels: FakeLabels
) -> None:
    tasks = labels.add(10)
    labels.page_tasks = 3

    run = end(writer, submit(writer, ("Cat", tasks)))

    assert (run.written, run.left_alone) == (10, {})
    assert end(writer, writer.undo(run.id)).undone == 10
    assert labels.marks() == set()


def test_mark_says_that_a_person_saw_each_image_alone(writer: Writer, labels: FakeLabels) -> None:
    run = end(writer, writer.submit(CONNECTED, [Labels(["Cat"], labels.add(2))], kind="single"))

    assert labels.marks() == {f"image-classifier:single {run.id}"}
    assert {source_of(task["annotations"][0]) for task in labels.tasks.values()} == {"person"}


def test_run_that_an_earlier_release_stored_is_one_of_a_group(writer: Writer, labels: FakeLabels) -> None:
    run = submit(writer, ("Cat", labels.add(2)))
    [file] = writer.store._root.glob("*/labeling/*/state.json")
    stored = json.loads(file.read_text())
    del stored["kind"]
    file.write_text(json.dumps(stored))

    assert end(writer, run).mark == f"image-classifier:group {run.id}"
    assert labels.marks() == {f"image-classifier:group {run.id}"}


def test_labels_that_nobody_looked_at_have_a_mark_of_their_own(writer: Writer, labels: FakeLabels) -> None:
    tasks = labels.add(2)

    run = end(writer, writer.submit(CONNECTED, [Labels(["Cat"], tasks)], kind="accepted"))

    assert labels.marks() == {f"image-classifier:accepted {run.id}"}
    assert [source_of(one) for task in labels.tasks.values() for one in task["annotations"]] == ["unseen"] * 2
    undone = end(writer, writer.undo(run.id))
    assert (undone.undone, labels.marks()) == (2, set())


def test_labeled_and_deleted_tasks_are_left_alone_and_reported(writer: Writer, labels: FakeLabels) -> None:
    tasks = labels.add(6)
    labels.annotate(2, "Dog")
    del labels.tasks[5]

    run = end(writer, submit(writer, ("Cat", tasks)))

    assert (run.written, run.left_alone) == (4, {"labeled": [2], "deleted": [5]})
    assert labels.requests.count("annotate") == 2, "once per batch: nothing is tried again for tasks left alone"
    assert labels.choices() == {1: ["Cat"], 2: ["Dog"], 3: ["Cat"], 4: ["Cat"], 6: ["Cat"]}


@pytest.mark.parametrize(
    ("moment", "request_"), [("after", "look"), ("before", "import"), ("before", "annotate"), ("after", "annotate")]
)
def test_person_who_labels_at_the_same_time_keeps_their_annotation(
    writer: Writer, labels: FakeLabels, moment: str, request_: str
) -> None:
    tasks = labels.add(3)
    once(labels, moment, request_, lambda: labels.annotate(2, "Dog"))

    run = end(writer, submit(writer, ("Cat", tasks)))

    assert (run.written, run.left_alone) == (2, {"labeled": [2]})
    assert labels.choices() == {1: ["Cat"], 2: ["Dog"], 3: ["Cat"]}


@pytest.mark.parametrize("request_", ["import", "annotate"])
def test_task_that_is_deleted_meanwhile_stops_no_other(writer: Writer, labels: FakeLabels, request_: str) -> None:
    tasks = labels.add(3)
    once(labels, "before", request_, lambda: labels.tasks.pop(2))

    run = end(writer, submit(writer, ("Cat", tasks)))

    assert (run.status, run.left_alone) == ("finished", {"deleted": [2]})
    assert labels.choices() == {1: ["Cat"], 3: ["Cat"]}


class Killed(BaseException):
    """Ends an attempt as a signal ends the process: nothing is cleaned up."""


def interrupted_everywhere(
    make_writer: MakeWriter, begin: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Carries a run out again and again; kills it after each number of requests, until one attempt gets through."""
    for number in range(1, 100):
        run, writer = begin(), make_writer()
        with monkeypatch.context() as patched:
            kill_after(patched, number)
            try:
                writer.carry_out(writer.store.get(run.id))
            except Killed:
                pass
            else:
                assert number > 3
                return
        yield end(make_writer(), run)
    raise AssertionError("no attempt got through")


def kill_after(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Lets the process die once it has sent that many requests."""
    sent: list[str] = []
    for name in ("_list", "_import", "_act", "remove", "remove_predictions"):
        real = getattr(attempt.ProjectTasks, name)

        def call(*args: Any, real: Any = real, **more: Any) -> Any:
            if len(sent) == number:
                raise Killed
            sent.append("")
            return real(*args, **more)

        monkeypatch.setattr(attempt.ProjectTasks, name, call)


def test_run_killed_after_any_request_is_completed_without_doubles(
    make_writer: MakeWriter, labels: FakeLabels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin() -> Run:
        labels.tasks.clear()
        return submit(make_writer(), ("Cat", labels.add(10)))

    for run in interrupted_everywhere(make_writer, begin, monkeypatch):
        assert (run.status, run.written, run.attempts) == ("finished", 10, 2)
        assert set(map(tuple, labels.choices().values())) == {("Cat",)}
        assert labels.predictions() == 0
        assert "remove" not in labels.requests, "nothing was written twice even for a moment"


@pytest.mark.parametrize("undone", [range(1, 11), (2, 3, 5, 7, 8, 9)])
def test_undo_killed_after_any_request_is_completed_and_counted(
    make_writer: MakeWriter, labels: FakeLabels, monkeypatch: pytest.MonkeyPatch, undone: Sequence[int]
) -> None:
    def begin() -> Run:
        labels.tasks.clear()
        writer = make_writer()
        run = end(writer, submit(writer, ("Cat", labels.add(10))))
        return writer.undo(run.id, tasks=undone)

    for run in interrupted_everywhere(make_writer, begin, monkeypatch):
        assert (run.action, run.status, run.written, run.undone) == ("undo", "finished", 10, len(undone))
        assert {task for task, choices in labels.choices().items() if not choices} == set(undone)


def test_label_that_a_person_removed_after_an_interrupted_undo_is_not_counted(
    make_writer: MakeWriter, labels: FakeLabels, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make_writer()
    run = end(writer, submit(writer, ("Cat", labels.add(6))))
    writer.undo(run.id)
    with monkeypatch.context() as patched, suppress(Killed):
        kill_after(patched, 6)
        writer.carry_out(run)
    assert [task for task, choices in labels.choices().items() if choices] == [5, 6]
    labels.tasks[5]["annotations"].clear()

    run = end(make_writer(), run)
    assert (run.status, run.written, run.undone) == ("finished", 5, 5)
    run = end(writer, writer.undo(run.id))
    assert (run.written, run.undone) == (0, 0)


def test_late_request_of_a_killed_attempt_leaves_no_double(
    make_writer: MakeWriter, labels: FakeLabels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Label Studio completes what a process that died has asked for: two at once were measured to write twice."""
    tasks = labels.add(4)
    run = submit(make_writer(), ("Cat", tasks))
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_after(patched, 4)  # the rights, two lists, and the import
        make_writer().carry_out(run)
    given = {
        "selectedItems": {"included": tasks},
        "model_version": run.mark,
        "filters": {"items": [{"filter": f"filter:tasks:{name}_annotations"} for name in ("total", "cancelled")]},
    }
    late = labels.predictions_to_turn(given)
    once(labels, "before", "remove_predictions", lambda: labels.turn_into_annotations(given, late))

    run = end(make_writer(), run)

    assert (run.status, run.written) == ("finished", 4)
    assert labels.choices() == {task: ["Cat"] for task in tasks}


def test_undo_leaves_label_studio_as_it_was(writer: Writer, labels: FakeLabels) -> None:
    tasks = labels.add(9)
    labels.annotate(3, "Dog")
    labels.tasks[4]["predictions"].append({"id": 900, "model_version": "v1", "result": []})
    before = stripped(labels)
    run = end(writer, submit(writer, ("Cat", tasks)))
    assert stripped(labels) != before

    run = end(writer, writer.undo(run.id))

    assert (run.status, run.undone, run.left_alone) == ("finished", 8, {"labeled": [3]})
    assert stripped(labels) == before


def stripped(labels: FakeLabels) -> str:
    return json.dumps([{**task, "updated_at": ""} for task in labels.tasks.values()])


def test_undo_keeps_what_people_have_done_since(writer: Writer, labels: FakeLabels) -> None:
    tasks = labels.add(7)
    run = end(writer, submit(writer, ("Cat", tasks)))
    labels.change(1, "Dog")
    labels.change(2, "Cat")  # confirmed, which is a decision, too
    labels.annotate(3, "Dog")
    labels.tasks[4]["drafts"].append({"id": 1, "annotation": labels.tasks[4]["annotations"][0]["id"]})
    labels.tasks[5]["drafts"].append({"id": 2, "annotation": None})
    labels.tasks[6]["drafts"].append({"id": 3, "annotation": labels.tasks[6]["annotations"][0]["id"], "user": OTHER})

    run = end(writer, writer.undo(run.id))

    assert (run.undone, run.left_alone) == (3, {"changed": [1, 2, 4, 6], "labeled": [3]})
    assert labels.choices() == {1: ["Dog"], 2: ["Cat"], 3: ["Dog"], 4: ["Cat"], 5: [], 6: ["Cat"], 7: []}
    assert [len(task["drafts"]) for task in labels.tasks.values()] == [0, 0, 0, 1, 1, 1, 0]


def test_draft_that_someone_else_begins_during_the_undo_stays(writer: Writer, labels: FakeLabels) -> None:
    tasks = labels.add(3)
    run = end(writer, submit(writer, ("Cat", tasks)))
    draft = {"id": 1, "annotation": labels.tasks[2]["annotations"][0]["id"], "user": OTHER}
    once(labels, "before", "remove_all", lambda: labels.tasks[2]["drafts"].append(draft))

    run = end(writer, writer.undo(run.id))

    assert (run.undone, run.left_alone) == (2, {"changed": [2]})
    assert labels.tasks[2]["drafts"] == [draft]


def test_annotation_submitted_from_the_runs_prediction_stays_alone(writer: Writer, labels: FakeLabels) -> None:
    tasks = labels.add(2)

    def submit_from_prediction() -> None:
        [prediction] = labels.tasks[1]["predictions"]
        labels.annotate(1, "Cat")["result"] = prediction["result"]

    once(labels, "after", "annotate", submit_from_prediction)
    run = end(writer, submit(writer, ("Cat", tasks)))

    assert run.status == "finished"
    [kept] = labels.tasks[1]["annotations"]
    assert kept["updated_by"] == 1, "the person's"


@pytest.mark.parametrize("meta", [None, [], "text", {"text": None}, {"text": 5}, {"text": [None]}])
def test_odd_notes_in_an_annotation_hold_nothing_up(writer: Writer, labels: FakeLabels, meta: Any) -> None:
    tasks = labels.add(2)
    labels.annotate(1, "Dog")["result"][0]["meta"] = meta

    run = end(writer, submit(writer, ("Cat", tasks)))

    assert (run.status, run.written) == ("finished", 1)


def test_token_of_a_person_is_used_for_what_they_asked_only(
    make_writer: MakeWriter, labels: FakeLabels, label_studio: FakeLabelStudio
) -> None:
    label_studio.legacy_enabled = True
    writer, tasks = make_writer(), labels.add(2)
    run = writer.submit(CONNECTED, [Labels(["Cat"], tasks)], label_studio.legacy)
    stale = writer.store.get(run.id)

    assert not make_writer().carry_out(stale), "a process without the token leaves the run alone"
    assert label_studio.server.seen == []
    run = writer.undo(run.id)
    assert writer._tokens == {}
    run = end(writer, run)

    assert run.status == "finished"
    used = {seen.headers.get("Authorization") for seen in label_studio.server.seen}
    assert f"Token {label_studio.legacy}" not in used


def test_finished_run_is_not_carried_out_again(make_writer: MakeWriter, labels: FakeLabels) -> None:
    tasks = labels.add(2)
    run = submit(make_writer(), ("Cat", tasks))
    end(make_writer(), run)
    labels.tasks[1]["annotations"] = []  # someone deleted it

    assert not make_writer().carry_out(run)
    assert labels.choices()[1] == []


def test_run_of_a_deleted_project_leaves_nothing_behind(make_writer: MakeWriter, labels: FakeLabels) -> None:
    writer, projects = make_writer(), Projects(make_writer().store._root)
    run = writer.submit(CONNECTED, [Labels(["Cat"], labels.add(1))], "a-token-of-a-person-that-is-long-enough")
    projects.delete(CONNECTED.uid)

    writer.carry_out(run)

    assert not projects.folder(CONNECTED.uid).exists()
    assert writer._tokens == {}


def test_token_of_a_run_is_forgotten_however_the_run_ended(make_writer: MakeWriter, labels: FakeLabels) -> None:
    """Otherwise these tokens would one day be too many, and no run would be accepted until the next start."""
    writer, other, token = make_writer(), make_writer(), "a-token-of-a-person-that-is-long-enough"
    undone = writer.submit(CONNECTED, [Labels(["Cat"], labels.add(1))], token)
    waiting = writer.submit(CONNECTED, [Labels(["Cat"], labels.add(1))], token)
    writer._is_waiting = lambda token: True  # so it isn't carried out yet

    end(other, other.undo(undone.id))  # by the backend's own token
    writer._tick()
    assert writer._tokens.keys() == {waiting.id}

    Projects(writer.store._root).delete(CONNECTED.uid)
    writer._tick()
    assert writer._tokens == {}


def test_token_of_a_run_that_cannot_be_read_for_a_moment_is_kept(
    make_writer: MakeWriter, labels: FakeLabels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    writer = make_writer()
    run = writer.submit(CONNECTED, [Labels(["Cat"], labels.add(1))], "a-token-of-a-person-that-is-long-enough")
    with monkeypatch.context() as full:
        full.setattr(files, "_read_once", refuse)
        writer._tick()

    assert writer._tokens.keys() == {run.id}


@pytest.mark.parametrize("some", [[], [1]], ids=["all", "one of them"])
def test_tasks_are_labeled_again_only_after_the_undo_that_another_process_carries_out(
    make_writer: MakeWriter, labels: FakeLabels, label_studio: FakeLabelStudio, some: list[int]
) -> None:
    """That process may be busy; if these labels came first, they would be left out, and the undo removes the others."""
    label_studio.legacy_enabled = True
    writer, other, tasks = make_writer(), make_writer(), labels.add(2)
    run = end(writer, submit(writer, ("Cat", tasks)))
    writer.undo(run.id, label_studio.legacy, some)
    again = submit(other, ("Dog", [1]))

    other._tick()
    writer._tick()
    other._tick()

    assert other.store.get(again.id).status == "finished"
    assert labels.choices() == {1: ["Dog"], 2: ["Cat"] if some else []}


def test_task_that_was_undone_during_an_outage_is_labeled_again_only_after_that(
    make_writer: MakeWriter, labels: FakeLabels
) -> None:
    writer = make_writer()
    run = submit(writer, ("Cat", labels.add(5)))
    once(labels, "after", "annotate", lambda: labels.failing.add("annotate"))
    writer._tick()
    assert labels.choices()[1] == ["Cat"]
    writer.undo(run.id, tasks=[1])
    writer._tick()
    assert writer.store.get(run.id).error, "the outage goes on"
    again = submit(writer, ("Dog", [1]))
    labels.failing.clear()

    writer._tick()
    end(writer, run)
    writer._tick()

    assert writer.store.get(again.id).status == "finished"
    assert labels.choices() == {1: ["Dog"], **{task: ["Cat"] for task in (2, 3, 4, 5)}}


def test_labels_do_not_wait_forever_for_an_undo_whose_token_is_lost(
    make_writer: MakeWriter, labels: FakeLabels, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, other, tasks = make_writer(), make_writer(), labels.add(2)
    run = end(writer, submit(writer, ("Cat", tasks[:1])))
    writer.undo(run.id, "a-token-of-a-person-that-is-long-enough")
    again = submit(other, ("Dog", tasks[1:]))
    monkeypatch.setattr(writer_module, "SILENT_SECONDS", 0.0)

    other._tick()

    assert other.store.get(again.id).status == "finished"
    assert [halted.state for halted in other.halted()] == ["needs a token"]


def test_token_of_an_undo_that_comes_just_as_the_run_ends_is_kept(
    make_writer: MakeWriter, labels: FakeLabels, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_studio.legacy_enabled = True
    writer = make_writer()
    run = writer.submit(CONNECTED, [Labels(["Cat"], labels.add(1))], label_studio.legacy)
    real = writer.store.keep

    def keep(now: Run) -> Run:
        kept = real(now)
        if kept.status == "finished" and kept.action == "write":
            writer.undo(run.id, str(label_studio.legacy.encode(), "ascii"))  # from the thread of a request
        return kept

    monkeypatch.setattr(writer.store, "keep", keep)
    run = end(writer, run)

    assert (run.action, run.status) == ("undo", "finished")
    assert labels.choices() == {1: []}
    assert writer._tokens == {}


def test_failed_run_that_may_have_written_is_kept(
    writer: Writer, labels: FakeLabels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "TRIES", 1)
    tasks = labels.add(2)
    refused = LabelStudioError("can't delete the predictions")
    monkeypatch.setattr(ProjectTasks, "remove_predictions", Mock(side_effect=refused))

    run = end(writer, submit(writer, ("Cat", tasks)))

    assert (run.status, run.in_vain) == ("failed", False)
    assert labels.choices() == {1: ["Cat"], 2: ["Cat"]}


def test_annotation_that_is_changed_during_the_undo_stays(writer: Writer, labels: FakeLabels) -> None:
    tasks = labels.add(3)
    run = end(writer, submit(writer, ("Cat", tasks)))
    once(labels, "before", "remove_all", lambda: labels.change(2, "Dog"))

    run = end(writer, writer.undo(run.id))

    assert (run.undone, run.left_alone) == (2, {"changed": [2]})
    assert labels.choices() == {1: [], 2: ["Dog"], 3: []}


def test_undo_stops_a_run_that_is_writing(writer: Writer, labels: FakeLabels) -> None:
    tasks = labels.add(12)
    run = submit(writer, ("Cat", tasks))
    once(labels, "before", "annotate", lambda: writer.undo(run.id))

    writer.carry_out(run)
    assert 0 < sum(map(bool, labels.choices().values())) < 12
    run = end(writer, run)

    assert (run.action, run.status, run.written, run.undone) == ("undo", "finished", 4, 4)
    run = end(writer, writer.undo(run.id))
    assert (run.action, run.status, run.written, run.undone) == ("undo", "finished", 0, 0)
    assert set(map(tuple, labels.choices().values())) == {()}
    assert labels.predictions() == 0


def test_two_processes_never_write_to_one_project_at_once(make_writer: MakeWriter, labels: FakeLabels) -> None:
    run = submit(make_writer(), ("Cat", labels.add(3)))
    other = make_writer()
    tried: list[bool] = []
    once(labels, "before", "annotate", lambda: tried.extend([other.carry_out(run), other.is_writing(run.project)]))

    run = end(make_writer(), run)

    assert tried == [False, True]
    assert run.attempts == 1
    assert not other.is_writing(run.project)


@pytest.mark.parametrize(
    ("choices", "tasks", "said"),
    [
        (["Bird"], [1], "has no choice Bird"),
        (["Cat", "Dog"], [1], "give each task one choice"),
        ([], [1], "give each task one choice"),
        (["Cat"], [], "no tasks"),
        (["Cat"], [1, 1], "twice"),
    ],
)
def test_labels_that_make_no_sense_are_refused(
    writer: Writer, labels: FakeLabels, choices: list[str], tasks: list[int], said: str
) -> None:
    with pytest.raises(BadRequest, match=said):
        writer.submit(CONNECTED, [Labels(choices, tasks)])
    assert writer.store.of_project(CONNECTED.uid) == []


def test_finished_run_is_not_resumed(writer: Writer, labels: FakeLabels) -> None:
    run = end(writer, submit(writer, ("Cat", labels.add(1))))

    with pytest.raises(Conflict, match="finished"):
        writer.resume(run.id)


@pytest.mark.parametrize("writes", range(1, 6))
def test_full_disk_in_the_middle_of_a_run_loses_and_doubles_nothing(
    writer: Writer, labels: FakeLabels, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    tasks = labels.add(10)
    run = submit(writer, ("Cat", tasks))
    write_json, done = files.write_json, []

    def fill(*arguments: Any, **options: Any) -> None:
        if len(done) >= writes:
            raise disk_error()
        done.append(arguments)
        write_json(*arguments, **options)

    with monkeypatch.context() as full:
        full.setattr(files, "write_json", fill)
        with suppress(OSError):  # the thread logs it, and looks again later
            writer.carry_out(run)
    assert len(done) == writes

    run = end(writer, writer.store.get(run.id))

    assert (run.status, run.written) == ("finished", 10)
    assert set(map(tuple, labels.choices().values())) == {("Cat",)}


@pytest.mark.parametrize("body", [b"<html>Please try again later</html>", b'{"tasks": [{"id"', b"{}", b"[]"])
def test_run_waits_for_label_studio_if_another_answer_comes_instead(
    writer: Writer, labels: FakeLabels, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    labels.add(2)
    run = submit(writer, ("Cat", [1, 2]))
    read = client.read_body
    with monkeypatch.context() as instead:
        instead.setattr(
            client, "read_body", lambda response, **more: body if "review" in response.url else read(response, **more)
        )
        writer.carry_out(run)
    halted = writer.store.get(run.id)

    assert (halted.status, "Label Studio" in halted.error) == ("queued", True)
    assert end(writer, run).status == "finished"
    assert labels.choices() == {1: ["Cat"], 2: ["Cat"]}
