"""The endpoint for the map, and the groups of tasks that a person chooses on it."""

from base64 import b64decode
from hashlib import sha256
from typing import Any

import numpy as np

from my_backend.web.api.labeling import RUN_BYTES
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client
from tests.my_backend.fake_model import Script
from tests.my_backend.web.api.test_groups import SEVERAL, client, end, label, quick, tasks_of

__all__ = ["client", "quick"]


def ask(client: Client, status: int = 200) -> Any:
    return client.post("/api/labeling/map", {"project": 7}, status)


def ready(client: Client, tasks: int) -> Any:
    """The map once this many images are collected and arranged."""

    def is_ready() -> bool:
        found = ask(client)
        return bool(found["state"] == "ready" and found["collected"] == tasks and found["arranged"])

    assert eventually(is_ready), ask(client)
    return ask(client)


def column(found: Any, name: str, kind: str = "<u2") -> list[int]:
    return np.frombuffer(b64decode(found[name]), kind).tolist()  # type: ignore[no-any-return]


def chosen(client: Client, tasks: list[int], **more: Any) -> Any:
    return client.post("/api/labeling/groups", {"project": 7, "tasks": tasks, **more})


def test_map_has_a_position_for_each_image_as_soon_as_it_is_collected(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(5)
    script.block("add", unreadable=[4])
    first = ask(client)
    assert (first["state"], first["ids"], first["positions"], first["doubts"]) == ("collecting", [], "", "")
    script.release()
    found = ready(client, 4)
    assert found["ids"] == [1, 2, 3, 5]
    assert column(found, "positions") == [16384, 16384, 32768, 16384, 49151, 16384, 65535, 16384]
    assert column(found, "labels") == column(found, "proposals") == column(found, "doubts", "u1") == [0, 0, 0, 0]
    assert (found["choices"], found["tasks"], found["unreadable"]) == (["Cat", "Dog"], 5, 1)


def test_map_is_arranged_once_seen_and_again_with_a_fifth_more_images(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(10)
    script.block("arrange")
    assert eventually(lambda: (found := ask(client))["state"] == "ready" and len(found["ids"]) == 10)
    found = ask(client)
    assert (found["arranged"], set(column(found, "positions")[1::2])) == (False, {49151})
    assert eventually(lambda: script.calls("arrange") == [{"what": "arrange", "images": 10}])
    script.release()
    assert set(column(ready(client, 10), "positions")[1::2]) == {16384}
    label_studio.labels.add(2)
    assert len(ready(client, 12)["ids"]) == 12
    assert len(script.calls("arrange")) == 1, "ten and a fifth of it"
    label_studio.labels.add(1)
    assert len(ready(client, 13)["ids"]) == 13
    assert [call["images"] for call in script.calls("arrange")] == [10, 13]


def test_map_that_cannot_be_arranged_says_so_and_stays(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(3)
    script.set(arrange_raises="no memory")
    assert eventually(lambda: (found := ask(client))["state"] == "failed" and "no memory" in found["error"])
    found = ask(client)
    assert (len(found["ids"]), found["arranged"]) == (3, False)
    script.set()
    assert ready(client, 3)["arranged"]


def test_map_has_labels_also_those_being_written_and_what_the_model_says(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(5)
    label_studio.labels.annotate(1, "Cat")
    label_studio.labels.annotate(2, "Dog")
    label_studio.labels.annotate(3, "Dog", was_cancelled=True)
    ready(client, 5)
    script.set(learn="Dog", unsure=[3], others={"4": "Bird"})
    client.train()
    found = ask(client)
    assert column(found, "labels") == [1, 2, 65535, 0, 0]
    assert column(found, "proposals") == [2, 2, 2, 2, 0]
    assert column(found, "doubts", "u1") == [0, 0, 0, 102, 0]
    label_studio.labels.failing.add("import")  # the run can't write yet
    run = label(client, ("Cat", [4]))
    assert column(ask(client), "labels") == [1, 2, 65535, 1, 0]
    client.post(f"/api/labeling/runs/{run}/undo", {}, 202)
    assert column(ask(client), "labels") == [1, 2, 65535, 0, 0]
    label_studio.labels.failing.clear()
    end(client, run)


def test_chosen_tasks_form_a_group_without_labeled_and_left_out_ones(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.add(12)
    label_studio.labels.annotate(3, "Dog")
    ready(client, 12)
    found = chosen(client, [12, 3, 2, 99, 7, 2, 1], without=[1])
    assert tasks_of(found) == [[2, 7, 12]]
    assert found["groups"][0]["proposal"] is None
    assert (found["tasks"], found["labeled"]) == (12, 1), "of the whole project"
    assert tasks_of(chosen(client, [1, 2, 4, 5, 6], most=2)) == [[1, 2], [4, 5]]
    assert chosen(client, [])["groups"] == chosen(client, [3])["groups"] == []
    script.set(learn="Dog", copies=[[5, 6]])
    client.train()
    [group] = chosen(client, [5, 6, 7])["groups"]
    assert (group["proposal"], tasks_of({"groups": [group]})) == ("Dog", [[5, 6]])
    assert [one["task"] for one in group["images"][1]["copies"]] == [7]
    assert group["images"][0]["confidence"] == 0.75


def test_100_000_tasks_can_be_chosen(client: Client, label_studio: FakeLabelStudio) -> None:
    label_studio.labels.add(3)
    ready(client, 3)
    tasks = list(range(1, 100_001))
    assert len(str(tasks)) < RUN_BYTES
    assert tasks_of(chosen(client, tasks)) == [[1, 2, 3]]


def test_image_of_a_task_is_found_by_its_digest(client: Client, label_studio: FakeLabelStudio) -> None:
    path = f"/projects/{PROJECT}/tasks/2.jpg"
    assert client.http.get(path).status_code == 404
    label_studio.labels.add(2)
    ready(client, 2)
    answer = client.http.get(path)
    assert answer.status_code == 302
    assert answer.headers["Location"] == f"/projects/{PROJECT}/images/{sha256(b'2').hexdigest()}.jpg"
    assert answer.headers["Cache-Control"] == "no-store"
    assert client.http.get(f"/projects/{PROJECT}/tasks/3.jpg").status_code == 404


def test_projects_and_model_classes_without_a_map_are_told_why(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    assert client.post("/api/labeling/map", {"project": 8}, 404)
    client.backend.projects.remember("8.1", label_config=SEVERAL)
    assert "labeling config allows several" in client.post("/api/labeling/map", {"project": "8.1"}, 409)["error"]
    label_studio.labels.add(2)
    ready(client, 2)
    script.set(no_map=True)
    assert "can't arrange images on a map" in ask(client, 409)["error"]
