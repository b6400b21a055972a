"""The endpoints for groups of look-alikes: what they collect, what they show while labels are written, and errors."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest

from my_backend.label_studio import task_pages
from my_backend.label_studio.client import LabelStudio
from my_backend.labeling.pool import all_projects, project_pool
from my_backend.labeling.runs import records, writer
from my_backend.projects.project import Project
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import LABEL_CONFIG, FakePool, Script

SEVERAL = LABEL_CONFIG.replace("<Choices ", '<Choices choice="multiple" ')


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("LISTED_AGAIN", 0.05), ("RETRY_SECONDS", 0.05)):
        monkeypatch.setattr(all_projects, name, seconds)
    monkeypatch.setattr(all_projects, "LISTING_SHARE", 1.0)
    monkeypatch.setattr(all_projects, "READ_AT_ONCE", 7)
    monkeypatch.setattr(task_pages, "PAGE_TASKS", 9)
    monkeypatch.setattr(writer, "LOOK_SECONDS", 0.2)


@pytest.fixture
def client(serve: Serve, label_studio: FakeLabelStudio) -> Iterator[Client]:
    """A backend that knows the project and its Label Studio; no event trains."""
    told = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.pat}
    with serve(**told, retrain_after_annotations=0) as client:
        client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)
        yield client


def ask(client: Client, status: int = 200, **more: Any) -> Any:
    return client.post("/api/labeling/groups", {"project": 7, **more}, status)


def ready(client: Client, tasks: int, **more: Any) -> Any:
    """The groups once this many images are collected."""
    assert eventually(lambda: (found := ask(client))["state"] == "ready" and found["collected"] == tasks), ask(client)
    return ask(client, **more)


def tasks_of(found: Any) -> list[list[int]]:
    return [[image["task"] for image in group["images"]] for group in found["groups"]]


def label(client: Client, *labels: tuple[str, list[int]]) -> str:
    wanted = [{"label": choice, "tasks": tasks} for choice, tasks in labels]
    return str(client.post("/api/labeling/runs", {"project": 7, "labels": wanted}, 202)["run"])


def end(client: Client, run: str) -> Any:
    path = f"/api/labeling/runs/{run}"
    assert eventually(lambda: client.get(path)["status"] in ("finished", "failed")), client.get(path)
    return client.get(path)


def test_first_question_starts_to_collect_and_answers_at_once(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(30)
    script.block("add")
    first = ask(client)
    assert (first["state"], first["groups"], first["choices"]) == ("collecting", [], ["Cat", "Dog"])
    assert eventually(lambda: ask(client)["tasks"] == 30)
    assert ask(client)["collected"] == 0
    script.release()
    found = ready(client, 30)
    assert (found["labeled"], found["unlabeled"], found["unreadable"]) == (0, 30, 0)
    assert tasks_of(found) == [list(range(1, 11)), list(range(11, 21))]
    image = found["groups"][0]["images"][0]
    assert image == {"task": 1, "digest": sha256(b"1").hexdigest(), "confidence": None, "copies": []}
    assert label_studio.labels.requests.count("look") == 0


def test_groups_are_there_before_all_images_are_collected(
    client: Client, label_studio: FakeLabelStudio, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_studio.labels.add(30)
    assert len(tasks_of(ready(client, 30))) == 2
    script.block("add")
    label_studio.labels.add(5)
    assert eventually(lambda: ask(client)["tasks"] == 35)
    assert ask(client)["collected"] == 30
    assert tasks_of(ask(client))[0] == list(range(1, 11))


def test_tasks_on_the_screen_and_annotated_ones_are_left_out(client: Client, label_studio: FakeLabelStudio) -> None:
    label_studio.labels.add(20)
    label_studio.labels.annotate(2, "Dog")
    label_studio.labels.annotate(3, "Dog", was_cancelled=True)
    found = ready(client, 20, without=[1, 4], most=5)
    assert tasks_of(found) == [[5, 6, 7, 8, 9], [11, 12, 13, 14, 15]]
    assert (found["labeled"], found["unlabeled"]) == (2, 18)


def test_two_pages_get_different_groups_while_there_are_enough(client: Client, label_studio: FakeLabelStudio) -> None:
    label_studio.labels.add(30)
    ready(client, 30)
    first, second, third = list(range(1, 11)), list(range(11, 21)), list(range(21, 31))
    assert tasks_of(ask(client, page="one")) == [first, second]
    assert tasks_of(ask(client, page="two")) == [third]
    assert tasks_of(ask(client, page="two", without=third)) == [first, second], "nothing else is left"
    assert tasks_of(ask(client, page="one", tasks=[21, 22])) == [[21, 22]], "a person has chosen them"


def test_proposals_come_from_the_live_version_and_its_labels(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(10)
    label_studio.labels.annotate(4, "Dog")
    ready(client, 10)
    script.set(learn="Dog")
    client.train()
    found = ask(client)
    assert found["groups"][0]["proposal"] == "Dog"
    assert found["groups"][0]["images"][0]["confidence"] == 0.75
    assert found["model_version"].startswith("v1-")
    last = script.calls("groups")[-1]
    assert (last["learned"], last["labels"]) == ("Dog", {"3": "Dog"})
    assert found["first_guess"] is False
    script.set(learn="Dog", output={"first_guess": {"classes": ["Dog"]}})
    client.train()
    assert ask(client)["first_guess"] is True
    assert client.post("/api/labeling/queue", {"project": 7})["first_guess"] is True


def copies_of(found: Any) -> dict[int, list[int]]:
    """The copies of each task that has some."""
    images = [image for group in found["groups"] for image in group["images"]]
    return {image["task"]: [copy["task"] for copy in image["copies"]] for image in images if image["copies"]}


def test_image_stands_for_its_copies_without_a_label(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(20)
    script.set(copies=[[1, 4, 12, 15], [2, 3]])  # the images of tasks 2, 5, 13 and 16, and of 3 and 4
    found = ready(client, 20)
    assert tasks_of(found) == [[1, 2, 3, 6, 7, 8, 9, 10], [11, 12, 14, 15, 17, 18, 19, 20]]
    assert copies_of(found) == {2: [5, 13, 16], 3: [4]}
    [copy] = found["groups"][0]["images"][2]["copies"]
    assert copy == {"task": 4, "digest": sha256(b"4").hexdigest()}
    assert (found["unlabeled"], found["tasks"]) == (20, 20)

    assert copies_of(ask(client, without=[2, 16])) == {5: [13], 3: [4]}, "the next one stands for the others"
    label_studio.labels.annotate(13, "Cat")
    assert eventually(lambda: copies_of(ask(client)) == {2: [5, 16], 3: [4]})
    run = label(client, ("Cat", [2, 5, 16]))
    end(client, run)
    assert copies_of(ask(client)) == {3: [4]}
    client.post(f"/api/labeling/runs/{run}/undo", {}, 202)
    end(client, run)
    assert eventually(lambda: copies_of(ask(client)) == {2: [5, 16], 3: [4]})


def test_copies_that_the_model_tells_apart_are_not_labeled_together(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(10)
    ready(client, 10)
    script.set(learn="Dog", copies=[[1, 4, 5]], others={"4": "Cat"})
    client.train()
    assert copies_of(ask(client)) == {2: [6]}
    assert 5 not in tasks_of(ask(client))[0]
    end(client, label(client, ("Dog", [2, 6])))
    assert 5 in tasks_of(ask(client))[0], "now a person looks at it"


def test_labels_count_once_requested_and_their_tasks_return_after_undo(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(20)
    ready(client, 20)
    label_studio.labels.failing.add("import")  # the run can't write yet
    run = label(client, ("Cat", [1, 2, 3]), ("Dog", [4]))
    found = ask(client)
    assert tasks_of(found)[0] == [5, 6, 7, 8, 9, 10]
    assert found["labeled"] == 4
    assert script.calls("groups")[-1]["labels"] == {"0": "Cat", "1": "Cat", "2": "Cat", "3": "Dog"}
    label_studio.labels.failing.clear()
    client.post(f"/api/labeling/runs/{run}/resume", {}, 202)
    end(client, run)
    assert tasks_of(ask(client))[0] == [5, 6, 7, 8, 9, 10]
    client.post(f"/api/labeling/runs/{run}/undo", {}, 202)
    assert tasks_of(ask(client))[0] == list(range(1, 11))
    end(client, run)
    assert eventually(lambda: ask(client)["labeled"] == 0)
    assert tasks_of(ask(client))[0] == list(range(1, 11))


def test_labels_count_although_the_clock_was_set_back(
    client: Client, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or although they are those of another server, whose clock is behind."""
    monkeypatch.setattr(all_projects, "LISTED_AGAIN", 10_000.0)
    label_studio.labels.add(10)
    ready(client, 10)
    now = time.time
    monkeypatch.setattr(records, "time", SimpleNamespace(**{**vars(time), "time": lambda: now() - 600}))
    run = label(client, ("Cat", [1, 2, 3]))
    end(client, run)
    assert tasks_of(ask(client)) == [list(range(4, 11))]
    client.post(f"/api/labeling/runs/{run}/undo", {"tasks": [2]}, 202)
    end(client, run)
    assert tasks_of(ask(client)) == [[2, *range(4, 11)]]


def test_label_of_a_person_after_an_undo_counts_while_images_are_still_read(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(10)
    ready(client, 10)
    run = label(client, ("Cat", [1, 2]))
    end(client, run)
    client.post(f"/api/labeling/runs/{run}/undo", {}, 202)
    end(client, run)
    label_studio.labels.annotate(1, "Dog")
    client.backend.pools._entries.clear()  # as after a restart
    script.block("add")
    assert eventually(lambda: ask(client)["tasks"] == 10)
    found = ask(client)
    assert (found["state"], found["labeled"]) == ("collecting", 1)
    script.release()


def test_task_that_was_undone_alone_comes_back(client: Client, label_studio: FakeLabelStudio) -> None:
    label_studio.labels.add(10)
    ready(client, 10)
    run = label(client, ("Cat", [1, 2, 3]))
    for _ in range(2):  # while it is written, and after that
        client.post(f"/api/labeling/runs/{run}/undo", {"tasks": [2]}, 202)
        assert tasks_of(ask(client)) == [[2, *range(4, 11)]]
        assert end(client, run)["withdrawn"] == [2]
    assert "has no task 9" in client.post(f"/api/labeling/runs/{run}/undo", {"tasks": [9]}, 400)["error"]
    assert label_studio.labels.choices() == {task: ["Cat"] if task in (1, 3) else [] for task in range(1, 11)}


def test_labels_of_people_are_noticed_and_stay_after_undo(client: Client, label_studio: FakeLabelStudio) -> None:
    label_studio.labels.add(10)
    ready(client, 10)
    label_studio.labels.annotate(5, "Dog")
    assert eventually(lambda: ask(client)["labeled"] == 1)
    run = label(client, ("Cat", [4, 5]))
    assert end(client, run)["left_alone"]["labeled"] == [5]
    client.post(f"/api/labeling/runs/{run}/undo", {}, 202)
    end(client, run)
    assert eventually(lambda: tasks_of(ask(client)) == [[1, 2, 3, 4, 6, 7, 8, 9, 10]]), ask(client)


def test_answers_tell_how_much_proposals_can_be_relied_on(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(20)
    label_studio.labels.annotate(20, "Cat")
    client.train()
    ready(client, 20)
    label(client, ("Cat", [1, 2, 3]), ("Dog", [4]))
    ask(client)
    assert script.calls("groups")[-1]["past"] == [[1, 1.0]]  # one exception, and one was expected: 4 x 0.25


def test_new_tasks_appear_deleted_ones_go_and_unreadable_ones_are_counted(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(12)
    script.set(unreadable=[3])
    found = ready(client, 11)
    assert (found["unreadable"], tasks_of(found)[0]) == (1, [1, 2, 4, 5, 6, 7, 8, 9, 10, 11])
    label_studio.labels.add(3)
    del label_studio.labels.tasks[1], label_studio.labels.tasks[3]
    assert eventually(lambda: ask(client)["tasks"] == 13)
    found = ready(client, 13)
    assert found["unreadable"] == 0
    assert [task for some in tasks_of(found) for task in some] == [2, *range(4, 16)]


def test_image_that_could_not_be_read_is_tried_again_and_a_changed_one_is_read(
    client: Client, label_studio: FakeLabelStudio, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_pool, "READ_AGAIN", (0.05, 0.1))
    label_studio.labels.add(5)
    script.set(unreadable=[3])
    assert ready(client, 4)["unreadable"] == 1
    script.set()
    assert ready(client, 5)["unreadable"] == 0
    label_studio.labels.tasks[2]["data"]["rank"] = 1
    label_studio.labels.tasks[4]["data"]["image"] = "/data/other.png"
    label_studio.labels.touch(4)

    assert eventually(lambda: ask(client) and times_read(script, 4) == 2)
    assert (ready(client, 5)["unreadable"], times_read(script, 2)) == (0, 1)
    assert sorted(tasks_of(ask(client))[0]) == [1, 2, 3, 4, 5]


def times_read(script: Script, task: int) -> int:
    return sum(call["tasks"].count(task) for call in script.calls("add"))


def test_another_network_reads_the_images_again(client: Client, label_studio: FakeLabelStudio, script: Script) -> None:
    label_studio.labels.add(5)
    ready(client, 5)
    read = len(script.calls("add"))
    script.set(network="another")
    assert eventually(lambda: ask(client)["state"] == "ready" and len(script.calls("add")) > read)
    assert tasks_of(ready(client, 5)) == [[1, 2, 3, 4, 5]]


@pytest.mark.parametrize("change", ["network", "labeling config"])
def test_changed_project_is_read_again_long_before_its_tasks_are_due(
    change: str, client: Client, label_studio: FakeLabelStudio, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_projects, "LISTED_AGAIN", 10_000.0)
    label_studio.labels.add(5)
    ready(client, 5)
    read = len(script.calls("add"))
    if change == "network":
        script.set(network="another")
    else:
        renamed = LABEL_CONFIG.replace('"Cat"', '"Tiger"')
        client.backend.projects.remember(PROJECT, label_config=renamed)
    assert eventually(lambda: ask(client)["state"] == "ready" and len(script.calls("add")) > read)
    assert tasks_of(ready(client, 5)) == [[1, 2, 3, 4, 5]]
    listed = label_studio.labels.requests.count("list")
    assert ask(client)["state"] == "ready"
    assert label_studio.labels.requests.count("list") == listed, "nothing has changed since"


def test_time_for_reading_images_does_not_delay_the_next_list_of_tasks(
    client: Client, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic
    clock = SimpleNamespace(ahead=0.0, time=time.time)
    clock.monotonic = lambda: now() + clock.ahead
    monkeypatch.setattr(all_projects, "time", clock)
    monkeypatch.setattr(all_projects, "LISTING_SHARE", 0.05)
    add = FakePool.add

    def slow(self: FakePool, *given: Any) -> Any:
        clock.ahead += 600
        return add(self, *given)

    monkeypatch.setattr(FakePool, "add", slow)
    label_studio.labels.add(5)
    ready(client, 5)
    label_studio.labels.annotate(5, "Dog")
    assert eventually(lambda: ask(client)["labeled"] == 1)


def test_similar_tasks_with_their_labels(client: Client, label_studio: FakeLabelStudio) -> None:
    label_studio.labels.add(10)
    label_studio.labels.annotate(6, "Dog")
    ready(client, 10)

    def similar(**more: Any) -> list[Any]:
        found = client.post("/api/labeling/similar", {"project": 7, "task": 5, "most": 3, **more})["images"]
        return [(image["task"], image["similarity"], image["label"]) for image in found]

    assert similar() == [(4, 0.5, None), (6, 0.5, "Dog"), (3, 0.3333, None)]
    assert similar(unlabeled=True) == [(4, 0.5, None), (3, 0.3333, None), (7, 0.3333, None)]
    answer = client.post("/api/labeling/similar", {"project": 7, "task": 99}, 404)
    assert "task 99 hasn't been read yet, or is unreadable" in answer["error"]


def test_errors_are_shown_and_collecting_goes_on_after_them(
    client: Client, label_studio: FakeLabelStudio, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    label_studio.labels.add(5)
    label_studio.labels.failing.add("list")
    assert eventually(lambda: ask(client)["state"] == "failed")
    assert "Label Studio answered 500 to GET /api/tasks/" in ask(client)["error"]
    label_studio.labels.failing.clear()
    script.set(add_raises="the disk is full")
    assert eventually(lambda: "the disk is full" in (ask(client)["error"] or ""))
    script.set()
    assert tasks_of(ready(client, 5)) == [[1, 2, 3, 4, 5]]
    assert caplog.text.count("Label Studio answered 500") == 1  # not once for each attempt


def test_projects_and_models_without_groups_are_told_why(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    assert client.post("/api/labeling/groups", {"project": 8}, 404)
    client.backend.projects.remember("8.1", label_config=SEVERAL)
    answer = client.post("/api/labeling/groups", {"project": "8.1"}, 409)
    assert "this labeling config allows several" in answer["error"]
    client.backend.projects.remember("9.1", label_config="<View/>")
    answer = client.post("/api/labeling/groups", {"project": "9.1"}, 409)
    assert "there are no images to label here: " in answer["error"]
    script.set(no_pool=True)
    assert eventually(lambda: "need a model class that can compare images" in (ask(client)["error"] or ""))


def test_choices_that_only_tasks_have_are_not_suggested(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    """A labeling run can't write them."""
    both = LABEL_CONFIG.replace("<Choices ", '<Choices value="$options" ')
    client.backend.projects.remember(PROJECT, label_config=both)
    label_studio.labels.add(10)
    ready(client, 10)
    script.set(learn="Zebra")
    client.train()
    [group] = ask(client)["groups"]
    assert (group["proposal"], group["images"][0]["confidence"]) == (None, None)
    script.set(learn="Dog")
    client.train()
    assert ask(client)["groups"][0]["proposal"] == "Dog"

    none = both.replace('<Choice value="Cat"/>', "").replace('<Choice value="Dog"/>', "")
    client.backend.projects.remember(PROJECT, label_config=none)
    for path in ("groups", "queue", "map"):
        answer = client.post(f"/api/labeling/{path}", {"project": 7}, 409)
        assert "each task has its own choices" in answer["error"]


def test_images_are_collected_on_request_and_forgotten_after_an_hour(
    client: Client, label_studio: FakeLabelStudio, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_studio.labels.add(5)
    assert script.calls("add") == []
    ready(client, 5)
    monkeypatch.setattr(all_projects, "FORGOTTEN_SECONDS", 0.0)
    assert eventually(lambda: not client.backend.pools._entries)


def test_one_project_that_fails_does_not_stop_another(client: Client, label_studio: FakeLabelStudio) -> None:
    label_studio.labels.add(5)
    client.backend.projects.remember("8.1", label_config=LABEL_CONFIG)  # Label Studio doesn't have it

    def other() -> Any:
        return client.post("/api/labeling/groups", {"project": "8.1"})

    assert eventually(lambda: other()["state"] == "failed")
    assert tasks_of(ready(client, 5)) == [[1, 2, 3, 4, 5]]
    assert "404" in other()["error"]


def test_project_that_takes_long_does_not_hold_up_another(
    client: Client, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with image hosts that don't answer: a step of the first project goes on all the time."""
    label_studio.labels.add(20)
    client.backend.projects.remember("8.1", label_config=LABEL_CONFIG)
    stuck, released, steps = threading.Event(), threading.Event(), []
    label_studio_of = all_projects.Pools._label_studio

    def wait(self: all_projects.Pools, project: Project) -> LabelStudio:
        if project.uid == "8.1":
            steps.append(project)
            stuck.set()
            released.wait(60)
        return label_studio_of(self, project)

    monkeypatch.setattr(all_projects.Pools, "_label_studio", wait)
    try:
        client.post("/api/labeling/groups", {"project": "8.1"})
        assert stuck.wait(60)
        assert ready(client, 20)["error"] is None
        assert len(steps) == 1, "one thread at a time collects a project"
    finally:
        released.set()


def test_no_more_tasks_are_collected_than_memory_allows(
    client: Client, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_projects, "MOST_MEMORY", 20 * 1500)
    label_studio.labels.add(21)
    assert eventually(lambda: "group at most 20 tasks at a time" in (ask(client)["error"] or ""))
    del label_studio.labels.tasks[21]
    assert ready(client, 20)["error"] is None


def test_only_a_page_of_tasks_is_in_memory(client: Client, label_studio: FakeLabelStudio, script: Script) -> None:
    label_studio.labels.add(30)
    script.block("add")
    assert eventually(lambda: ask(client)["tasks"] == 30 and script.calls("add"))
    pool = client.backend.pools._entries[PROJECT].pool
    assert pool is not None
    assert len(pool.next_to_read(100)) == task_pages.PAGE_TASKS
    script.release()
    ready(client, 30)


def test_damaged_plan_of_a_run_does_not_hide_the_groups(client: Client, label_studio: FakeLabelStudio) -> None:
    label_studio.labels.add(10)
    ready(client, 10)
    label_studio.labels.failing.add("import")
    run = label(client, ("Cat", [1]))
    client.backend.pools._entries[PROJECT].plans.clear()
    (client.backend.projects.folder(PROJECT) / "labeling" / run / "plan.json").write_text("{")
    assert tasks_of(ask(client)) == [list(range(1, 11))]


def test_images_of_a_sample_are_no_copies(client: Client, label_studio: FakeLabelStudio, script: Script) -> None:
    def copies_of_the_fourth() -> list[int]:
        images = [image for group in ask(client)["groups"] for image in group["images"]]
        return [copy["task"] for image in images if image["task"] == 4 for copy in image["copies"]]

    label_studio.labels.add(10)
    script.set(copies=[[3, 8, 9]])  # the images of tasks 4, 9 and 10
    ready(client, 10)
    assert copies_of_the_fourth() == [9, 10]
    client.backend.acceptor.store.sampled = lambda plan: {9}  # type: ignore[method-assign]
    assert copies_of_the_fourth() == [10]
    client.backend.acceptor.store.sampled = lambda plan: {4}  # type: ignore[method-assign]
    assert copies_of_the_fourth() == []


def test_one_request_at_a_time_compares_images(
    client: Client, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_studio.labels.add(20)
    ready(client, 20)
    inside: list[int] = []
    most = 0

    def noting(asked: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*told: Any, **more: Any) -> Any:
            nonlocal most
            inside.append(1)
            most = max(most, len(inside))
            time.sleep(0.1)  # time for another one to come in
            inside.pop()
            return asked(*told, **more)

        return noted

    for name in ("groups", "answers", "first", "positions", "most_alike"):
        monkeypatch.setattr(FakePool, name, noting(getattr(FakePool, name)))
    asked: list[tuple[str, dict[str, Any]]] = [
        ("groups", {}),
        ("groups", {"tasks": [1, 2]}),
        ("queue", {}),
        ("map", {}),
        ("similar", {"task": 1}),
    ]
    with ThreadPoolExecutor(len(asked)) as threads:
        assert all(threads.map(lambda one: client.post(f"/api/labeling/{one[0]}", {"project": 7, **one[1]}), asked))
    assert most == 1
