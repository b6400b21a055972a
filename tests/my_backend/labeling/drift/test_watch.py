"""Imports that look unlike the labeled images become a problem, which goes away when some of them are labeled."""

from collections.abc import Iterator
from typing import Any

import pytest

from my_backend.label_studio import follower, task_pages
from my_backend.labeling.drift import watch
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import LABEL_CONFIG, Script


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "REGULAR_SECONDS", 0.1)
    monkeypatch.setattr(follower, "LOOK_SECONDS", 0.05)
    for name in ("FIRST_SECONDS", "PAUSE_SECONDS", "DRIFTED_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(watch, name, 0.05)


@pytest.fixture
def client(serve: Serve, label_studio: FakeLabelStudio) -> Iterator[Client]:
    """A backend with a version, whose project has 80 labeled tasks and 60 other ones."""
    label_studio.labels.add(140)
    for task in range(1, 81):
        label_studio.labels.annotate(task, "Cat")
    label_studio.project["task_number"] = 140
    # Without Label Studio nothing is compared: otherwise the version could go live during the first check, which would
    # then be made again.
    with serve(retrain_after_annotations=0) as client:
        client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)
        client.train()
    told = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.pat}
    with serve(**told, retrain_after_annotations=0) as client:
        yield client


def drifted(client: Client) -> list[Any]:
    return [one for one in client.get("/problems")["troubles"] if one["code"] == "images-drifted"]


def checks(script: Script) -> int:
    """How often the images were compared: three times in each check."""
    return len(script.calls("strangeness")) // 3


def add(label_studio: FakeLabelStudio, count: int) -> list[int]:
    tasks = label_studio.labels.add(count)
    label_studio.project["task_number"] += count
    return tasks


def test_drift_is_a_problem_until_some_of_the_images_are_labeled(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    assert eventually(lambda: checks(script) == 1)
    script.set(strange=list(range(141, 241)))
    add(label_studio, 100)

    assert eventually(lambda: drifted(client))
    [problem] = drifted(client)
    assert problem["project"] == PROJECT
    assert problem["message"].startswith("106 of the 160 most recently imported images look unlike any labeled image")
    assert "expected: about 16" in problem["message"]
    assert client.backend.serving.version_name(PROJECT) in problem["message"]

    for task in range(141, 181):
        label_studio.labels.annotate(task, "Dog")
    script.set(strange=[])
    client.train()
    assert eventually(lambda: not drifted(client))


def test_images_are_compared_again_only_after_imports_and_new_versions(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    assert eventually(lambda: checks(script) == 1)
    visits = len(label_studio.server.seen)
    assert eventually(lambda: len(label_studio.server.seen) > visits + 20)
    assert checks(script) == 1
    add(label_studio, 1)
    assert eventually(lambda: checks(script) == 2)
    client.train()
    assert eventually(lambda: checks(script) == 3)


def test_older_images_that_are_as_strange_are_no_drift(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    assert eventually(lambda: checks(script) == 1)
    label_studio.labels.add(340)
    for task in range(261, 281):  # which are labeled, but not all images before them are
        label_studio.labels.annotate(task, "Cat")
    script.set(strange=[*range(81, 261), *range(281, 481)])
    label_studio.project["task_number"] += 340
    assert eventually(lambda: checks(script) == 2)
    newest, labeled, older = (len(one["images"]) for one in script.calls("strangeness")[3:])
    assert (newest, labeled, older) == (200, 100, 180)
    assert drifted(client) == []


def test_copies_count_once(client: Client, label_studio: FakeLabelStudio, script: Script) -> None:
    assert eventually(lambda: checks(script) == 1)
    script.set(strange=list(range(141, 241)), copies=[list(range(100))])
    add(label_studio, 100)
    assert eventually(lambda: checks(script) == 2)
    assert len(script.calls("strangeness")[3]["images"]) == 61  # the newest come first
    assert drifted(client) == []


@pytest.mark.parametrize("orders", [{"no_pool": True}, {"output": {"first_guess": True}}])
def test_nothing_is_compared_without_learned_answers_or_a_pool(
    serve: Serve, label_studio: FakeLabelStudio, script: Script, orders: dict[str, Any]
) -> None:
    script.set(**orders)
    told = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.pat}
    with serve(**told, retrain_after_annotations=0) as client:
        client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)
        name = client.train()
        drift_watch = client.backend.drift
        assert eventually(
            lambda: (one := drift_watch._watched.get(PROJECT)) is not None and one.checked == (None, name)
        )
    assert label_studio.labels.requests == []


def test_error_leaves_the_problem_until_the_next_check(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    assert eventually(lambda: checks(script) == 1)  # one that sees only some of the new tasks would be made again
    script.set(strange=list(range(141, 241)))
    add(label_studio, 100)
    assert eventually(lambda: drifted(client))
    script.set(strange=[])
    label_studio.labels.failing = {"some"}
    asked = len(label_studio.labels.requests)
    client.train()
    assert eventually(lambda: len(label_studio.labels.requests) > asked)
    assert drifted(client)
    label_studio.labels.failing = set()
    assert eventually(lambda: not drifted(client))


def test_tasks_that_are_too_large_are_requested_only_once(
    client: Client, label_studio: FakeLabelStudio, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert eventually(lambda: checks(script) == 1)
    with monkeypatch.context() as patch:
        patch.setattr(task_pages, "ANSWER_BYTES", 1000)
        before = len(label_studio.labels.requests)
        add(label_studio, 1)
        assert eventually(lambda: len(label_studio.labels.requests) == before + 3)  # for 200, 100 and 50 tasks
        visits = len(label_studio.server.seen)
        assert eventually(lambda: len(label_studio.server.seen) > visits + 20)
        assert len(label_studio.labels.requests) == before + 3
    add(label_studio, 1)
    assert eventually(lambda: checks(script) == 2)


def test_deleted_project_has_no_drift(client: Client, label_studio: FakeLabelStudio, script: Script) -> None:
    script.set(strange=list(range(141, 241)))
    add(label_studio, 100)
    assert eventually(lambda: drifted(client))
    client.backend.projects.delete(PROJECT)
    assert eventually(lambda: not drifted(client))
