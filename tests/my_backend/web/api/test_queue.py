"""The endpoint for images that a person labels one by one: which ones, in which order, and what is told of them."""

import threading
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from label_studio_format.annotations import annotations_of
from my_backend.labeling.pool import all_projects
from my_backend.labeling.pool.project_pool import ProjectPool
from my_backend.projects.random_order import in_random_order, keep_next, random_sample
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.broken_disk import failing
from tests.my_backend.conftest import PROJECT, Client
from tests.my_backend.fake_model import Script
from tests.my_backend.web.api.test_groups import SEVERAL, client, end, quick

__all__ = ["client", "quick"]


def ask(client: Client, status: int = 200, **more: Any) -> Any:
    return client.post("/api/labeling/queue", {"project": 7, **more}, status)


def ready(client: Client, tasks: int, **more: Any) -> Any:
    """The queue once this many images are collected."""
    assert eventually(lambda: (found := ask(client))["state"] == "ready" and found["collected"] == tasks), ask(client)
    return ask(client, **more)


def tasks_of(found: Any) -> list[int]:
    return [image["task"] for image in found["images"]]


def label(client: Client, *labels: tuple[str, list[int]]) -> str:
    wanted = [{"label": choice, "tasks": tasks} for choice, tasks in labels]
    return str(client.post("/api/labeling/runs", {"project": 7, "kind": "single", "labels": wanted}, 202)["run"])


def test_first_question_starts_to_collect_and_answers_at_once(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(30)
    script.block("add")
    first = ask(client)
    assert (first["state"], first["images"], first["choices"]) == ("collecting", [], ["Cat", "Dog"])
    script.release()
    found = ready(client, 30, most=2)
    assert (found["tasks"], found["labeled"], found["unlabeled"]) == (30, 0, 30)
    nothing = {"proposal": None, "probabilities": {}, "nearest": [], "copies": [], "withheld": False}
    assert found["images"] == [
        {"task": task, "digest": sha256(str(task).encode()).hexdigest(), **nothing} for task in (30, 29)
    ]
    assert len(ask(client)["images"]) == 5


def test_images_come_in_the_models_order_and_pending_ones_count_as_known(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(10)
    label_studio.labels.annotate(9, "Dog")
    label_studio.labels.annotate(8, "Dog", was_cancelled=True)
    assert tasks_of(ready(client, 10, without=[10, 6])) == [7, 5, 4, 3, 2]
    assert script.calls("first")[-1]["known"] == [5, 7, 8, 9]  # numbers of images, from 0


def test_model_proposes_and_the_nearest_labeled_images_are_its_reasons(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(10)
    for task, choice in ((1, "Cat"), (6, "Dog"), (8, "Cat"), (4, "Dog")):
        label_studio.labels.annotate(task, choice)
    label_studio.labels.annotate(9, "Cat", was_cancelled=True)
    ready(client, 10)
    script.set(learn="Dog")
    client.train()
    found = ask(client, most=1)
    assert found["model_version"].startswith("v1-")
    [image] = found["images"]
    assert (image["task"], image["proposal"]) == (10, "Dog")
    assert image["probabilities"] == {"Cat": 0.25, "Dog": 0.75}
    assert [(one["task"], one["label"], one["similarity"]) for one in image["nearest"]] == [
        (8, "Cat", 0.3333),
        (6, "Dog", 0.2),
        (4, "Dog", 0.1429),
    ]
    assert image["nearest"][0]["digest"] == sha256(b"8").hexdigest()


def test_labels_count_at_once_in_order_and_reasons_and_return_after_undo(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(10)
    ready(client, 10)
    label_studio.labels.failing.add("import")  # the run can't write yet
    run = label(client, ("Cat", [10]), ("Dog", [9]))
    found = ask(client, most=1)
    assert (tasks_of(found), found["labeled"]) == ([8], 2)
    assert script.calls("first")[-1]["known"] == [8, 9]
    assert [(one["task"], one["label"]) for one in found["images"][0]["nearest"]] == [(9, "Dog"), (10, "Cat")]
    label_studio.labels.failing.clear()
    client.post(f"/api/labeling/runs/{run}/undo", {"tasks": [10]}, 202)
    found = ask(client, most=1)
    assert (tasks_of(found), found["labeled"]) == ([10], 1)
    end(client, run)
    assert eventually(lambda: label_studio.labels.choices()[9] == ["Dog"])
    assert label_studio.labels.choices()[10] == []


def test_image_stands_for_its_copies_unless_tasks_were_asked_for(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    def copies(**more: Any) -> list[tuple[int, list[int]]]:
        images = ask(client, **more)["images"]
        return [(image["task"], [copy["task"] for copy in image["copies"]]) for image in images]

    label_studio.labels.add(10)
    script.set(copies=[[3, 8, 9]])  # the images of tasks 4, 9 and 10
    ready(client, 10)
    assert copies(most=4) == [(8, []), (7, []), (6, []), (5, [])]
    assert (4, [9, 10]) in copies(most=7)
    assert copies(tasks=[10, 4, 9]) == [(10, []), (4, []), (9, [])]
    client.backend.acceptor.store.sampled = lambda plan: {9}  # type: ignore[method-assign]
    assert (4, [10]) in copies(most=7), "a person looks at each image of a sample"
    client.backend.acceptor.store.sampled = lambda plan: {4}  # type: ignore[method-assign]
    assert (4, []) in copies(most=7)


def test_every_fifth_image_is_random_and_the_next_training_knows_it(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(40)
    random = in_random_order(PROJECT, range(1, 41))
    unreadable, sample = random[1], {random[0], random[2]}
    labeled = [*sample, *random[-8:]]  # ten: none of the first images is random
    script.set(unreadable=[unreadable])
    for task in labeled:
        label_studio.labels.annotate(task, "Cat")
    ready(client, 39)
    following = [task for task in random[3:] if task != unreadable]

    found = [tasks_of(ask(client, without=[10, 6][:many], most=12)) for many in (0, 2)]
    assert [found[0][place] for place in (4, 9)] == following[:2]
    left = [task for task in following if task not in (10, 6)]
    assert [found[1][place] for place in (2, 7)] == left[:2], "images on the way count"
    assert all(len(set(tasks)) == 12 for tasks in found)

    kept = client.backend.projects.folder(PROJECT)
    assert eventually(lambda: random_sample(kept, PROJECT, labeled, []) == sample)
    assert random_sample(kept, PROJECT, [*labeled, following[1]], []) == sample
    assert random_sample(kept, PROJECT, [*labeled, following[0]], []) == {*sample, following[0]}


def test_images_are_shown_while_the_random_order_is_not_known(
    client: Client, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProjectPool, "end_listing", lambda pool: None)  # as while the first listing goes on
    label_studio.labels.add(10)
    assert tasks_of(ready(client, 10)) == [10, 9, 8, 7, 6]
    assert tasks_of(ask(client, without=[10, 9, 8, 7], most=2)) == [6, 5]


def test_full_disk_does_not_keep_images_from_being_labeled(
    client: Client, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(all_projects, "keep_next", failing())
    label_studio.labels.add(10)
    assert len(ready(client, 10)["images"]) == 5
    assert "can't save the random order of its tasks: [Errno 28] No space left on device" in caplog.text


def test_project_deleted_while_its_tasks_are_listed_does_not_come_back(
    client: Client, label_studio: FakeLabelStudio, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, go_on = threading.Event(), threading.Event()

    def keep_later(folder: Path, unlabeled: Sequence[int], labeled: Sequence[int]) -> None:
        tried.set()
        assert go_on.wait(20)
        keep_next(folder, unlabeled, labeled)

    monkeypatch.setattr(all_projects, "keep_next", keep_later)
    label_studio.labels.add(10)
    ask(client)
    folder = client.backend.projects.folder(PROJECT)
    assert tried.wait(20)
    [project] = client.backend.projects.all()
    client.backend.delete(project)
    assert not folder.exists()
    go_on.set()
    assert eventually(lambda: PROJECT not in client.backend.pools._entries)
    client.backend.pools.stop()
    assert not folder.exists()


def test_randomly_drawn_copy_is_replaced_by_the_image_that_stands_for_it(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(20)
    first, second, *others = in_random_order(PROJECT, range(1, 21))
    for task in others[8:]:
        label_studio.labels.annotate(task, "Cat")
    script.set(copies=[sorted((first - 1, second - 1))])
    ready(client, 20)
    images = ask(client, most=9)["images"]
    assert images[4]["task"] == min(first, second)
    assert [copy["task"] for copy in images[4]["copies"]] == [max(first, second)]
    assert len({image["task"] for image in images}) == 9


def test_tasks_that_were_asked_for_come_in_their_order(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(10)
    label_studio.labels.annotate(5, "Dog")
    script.set(unreadable=[6])
    ready(client, 9)
    chosen_by_model = len(script.calls("first"))
    found = ask(client, tasks=[3, 5, 9, 3, 77, 6, 1, 2], without=[1])
    assert tasks_of(found) == [3, 9, 2]
    assert [found[name] for name in ("tasks", "collected", "unreadable", "labeled", "unlabeled")] == [6, 5, 1, 1, 5]
    assert tasks_of(ask(client, tasks=[3, 9, 2], most=1)) == [3]
    assert ask(client, tasks=[])["images"] == []
    assert len(script.calls("first")) == chosen_by_model
    ask(client, 400, tasks=[0])
    ask(client, 400, most=51)


def test_labels_given_one_by_one_do_not_rate_the_proposals_of_groups(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(10)
    label_studio.labels.annotate(10, "Cat")
    client.train()
    ready(client, 10)
    client.post("/api/labeling/groups", {"project": 7})
    label(client, ("Dog", [1, 2]))
    client.post("/api/labeling/groups", {"project": 7})
    assert script.calls("groups")[-1]["past"] == []


def test_projects_without_choices_are_told_why(client: Client) -> None:
    assert client.post("/api/labeling/queue", {"project": 8}, 404)
    client.backend.projects.remember("9.1", label_config="<View/>")
    answer = client.post("/api/labeling/queue", {"project": "9.1"}, 409)
    assert "there are no images to label here: " in answer["error"]


def test_images_may_get_several_choices_or_none(client: Client, label_studio: FakeLabelStudio, script: Script) -> None:
    uid = client.backend.projects.find(PROJECT).uid
    client.backend.projects.remember(uid, label_config=SEVERAL)
    label_studio.labels.add(10)
    label_studio.labels.annotate(6, "Dog", "Cat")
    label_studio.labels.annotate(7, "Cat")
    label_studio.labels.annotate(8)  # none of the choices
    found = ready(client, 10, most=1)
    assert (found["multiple"], found["labeled"]) == (True, 3)
    assert found["images"][0]["proposal"] is None
    script.set(learn="Dog", likely=["Cat", "Dog"])
    client.train()
    [image] = ask(client, most=1)["images"]
    assert (image["task"], image["proposal"]) == (10, ["Cat", "Dog"])
    assert [(one["task"], one["label"]) for one in image["nearest"]] == [(7, "Cat"), (6, "Cat, Dog")]
    script.set(learn="Dog", likely=[])
    [image] = ask(client, most=1)["images"]
    assert (image["proposal"], image["probabilities"]) == ([], {"Cat": 0.25, "Dog": 0.25})
    wanted = [{"label": ["Dog", "Cat"], "tasks": [10]}, {"label": [], "tasks": [9]}, {"label": "Cat", "tasks": [5]}]
    run = client.post("/api/labeling/runs", {"project": 7, "kind": "single", "labels": wanted}, 202)["run"]
    found = ask(client, most=1)
    assert (tasks_of(found), found["labeled"]) == ([4], 6)
    assert [(one["task"], one["label"]) for one in found["images"][0]["nearest"]][:1] == [(5, "Cat")]
    end(client, run)
    written = {task: annotations_of(label_studio.labels.tasks[task])[0]["result"][0]["value"] for task in (10, 9, 5)}
    assert written == {10: {"choices": ["Dog", "Cat"]}, 9: {"choices": []}, 5: {"choices": ["Cat"]}}
    client.post(f"/api/labeling/runs/{run}/undo", {}, 202)
    assert eventually(lambda: not any(annotations_of(label_studio.labels.tasks[task]) for task in (10, 9, 5)))


def test_copies_get_the_same_choices_only_if_the_model_predicts_that(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    """One copy may have a choice more than the other, although the same choice is the most probable one."""
    uid = client.backend.projects.find(PROJECT).uid
    client.backend.projects.remember(uid, label_config=SEVERAL)
    label_studio.labels.add(10)
    script.set(learn="Dog", copies=[[9, 8], [7, 6]], likely=["Dog"], likely_of={"8": ["Cat", "Dog"]})
    client.train()
    images = ready(client, 10)["images"]
    assert {image["task"]: [copy["task"] for copy in image["copies"]] for image in images}[7] == [8]
    assert not any(image["copies"] for image in images if image["task"] in (9, 10))


def test_two_pages_get_different_images_while_there_are_enough(client: Client, label_studio: FakeLabelStudio) -> None:
    label_studio.labels.add(9)
    ready(client, 9)

    def shown(page: str, without: Sequence[int] = (), **more: Any) -> list[int]:
        return tasks_of(ask(client, page=page, without=list(without), most=3, **more))

    assert shown("one") == [9, 8, 7]
    assert shown("two") == [6, 5, 4]
    assert shown("one") == [9, 8, 7], "after the page was loaded again"
    assert shown("one", [9, 8, 7]) == [3, 2, 1]
    assert shown("two", tasks=[8, 1, 5]) == [5]
    assert shown("three") == [9, 8, 7], "nothing else is left"
    assert tasks_of(ask(client, most=3)) == [9, 8, 7], "a program that names no page"


def test_pages_that_were_open_before_a_restart_keep_their_images(client: Client, label_studio: FakeLabelStudio) -> None:
    label_studio.labels.add(9)
    ready(client, 9)
    assert tasks_of(ask(client, page="one", without=[9, 8, 7], most=1)) == [6]
    assert tasks_of(ask(client, page="two", most=3)) == [5, 4, 3]


def test_images_of_an_idle_page_go_to_others(
    client: Client, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_studio.labels.add(9)
    ready(client, 9)
    assert tasks_of(ask(client, page="one", most=3)) == [9, 8, 7]
    monkeypatch.setattr(all_projects, "SHOWN_SECONDS", -1.0)
    assert tasks_of(ask(client, page="one", without=[9], most=1)) == [8]  # which sets a new time for both
    assert tasks_of(ask(client, page="two", most=3)) == [9, 8, 6]
