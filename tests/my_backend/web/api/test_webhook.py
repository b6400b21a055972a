"""Label Studio's events: which of them start a training, count, or change what is known of a project."""

import threading
from typing import Any

import pytest

from my_backend.projects.packed_tasks import PackedTasks
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import OTHER_CONFIG, Script
from tests.my_backend.web.requests_of_label_studio import DESCRIBED, START, annotated


def test_start_training_answers_one_job_until_it_has_read_then_the_waiting(
    serve: Serve, script: Script, label_studio: FakeLabelStudio
) -> None:
    may_read = threading.Event()
    label_studio.before_tasks = lambda: may_read.wait(60) and None
    script.block("fit")
    with serve(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat) as client:
        client.setup()
        jobs = [client.post("/webhook", START, 201) for _ in range(3)]
        first = jobs[0]["job"]
        assert {job["job"] for job in jobs} == {job["job_id"] for job in jobs} == {first}

        may_read.set()
        client.started(first)
        waiting = {client.post("/webhook", START, 201)["job"] for _ in range(3)}

        assert len(waiting) == 1
        assert first not in waiting
        assert [job["job"] for job in client.get("/is_training?project=7")["jobs"]] == [first, *waiting]
        script.release()
        assert client.ended(waiting.pop()).status == "finished"


def test_events_become_a_training_after_so_many(serve: Serve, script: Script, label_studio: FakeLabelStudio) -> None:
    given = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.pat}
    label_studio.annotated = [{"id": 1, "annotations": [{"id": 1, "result": []}]}]
    with serve(retrain_after_annotations=3, **given) as client:
        for number in (1, 2, 2):
            assert client.post("/webhook", annotated(number)) == {"status": "ok", "action": "ANNOTATION_CREATED"}
        assert client.get("/is_training")["is_training"] is False

        client.post("/webhook", annotated(3))

        assert eventually(lambda: client.get("/versions")["versions"])
    assert [call["kind"] for call in script.calls("fit")] == ["head"]


@pytest.mark.parametrize("action", ["REVIEW_CREATED", "REVIEW_UPDATED", "REVIEWS_DELETED"])
def test_after_a_review_the_annotations_are_read_again(client: Client, action: str) -> None:
    annotation_log = client.backend.projects.annotation_log(PROJECT)
    annotation_log.keep_tasks(PackedTasks([{"id": 1, "annotations": []}]), annotation_log.begin_reading())
    assert annotation_log.tasks() is not None

    client.post("/webhook", {"action": action, "project": DESCRIBED})

    assert annotation_log.tasks() is None


@pytest.mark.parametrize(
    ("payload", "changes"),
    [
        (annotated(1), 1),
        ({**annotated(1), "action": "ANNOTATION_UPDATED"}, 1),
        ({"action": "ANNOTATIONS_CREATED", "annotation": [{"id": 1}, {"id": 2}], "project": DESCRIBED}, 2),
        ({"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 1}, {"id": 2}], "project": DESCRIBED}, 2),
        ({"action": "ANNOTATION_CREATED", "annotation": {"id": [1], "updated_at": {}}, "project": DESCRIBED}, 1),
        ({**annotated(1), "action": "REVIEW_CREATED", "review": {"id": 1, "accepted": False}}, 1),
        ({"action": "REVIEWS_DELETED", "reviews": [{"id": 1}], "project": DESCRIBED}, 0),
        ({"action": "TASKS_DELETED", "tasks": [{"id": 1}], "project": DESCRIBED}, 0),
        ({"action": "PROJECT_UPDATED", "project": DESCRIBED}, 0),
        ({"action": "SOMETHING_NEW", "project": DESCRIBED}, 0),
    ],
)
def test_event_counts_the_annotations_that_it_is_about(client: Client, payload: dict[str, Any], changes: int) -> None:
    client.post("/webhook", payload)

    assert client.backend.projects.annotation_log(PROJECT).unlearned() == changes


def test_event_tells_the_projects_title_and_config(client: Client) -> None:
    client.post("/webhook", {"action": "PROJECT_UPDATED", "project": {**DESCRIBED, "label_config": OTHER_CONFIG}})

    project = client.backend.projects.get(PROJECT)
    assert (project.title, project.label_config) == ("Pets", OTHER_CONFIG)


def test_event_without_a_project_means_the_named_or_the_only_one(client: Client) -> None:
    bare = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1}}
    client.post("/webhook", bare)
    client.post("/webhook?project=", {**bare, "annotation": {"id": 2}})
    client.setup("8.1")
    client.post("/webhook?project=8", bare)

    counted = [client.backend.projects.annotation_log(uid).unlearned() for uid in (PROJECT, "8.1")]
    assert counted == [2, 1]
    client.post("/webhook", bare, 400)


def test_imported_tasks_are_prepared_in_the_background(client: Client, script: Script) -> None:
    client.post("/webhook", {"action": "TASKS_CREATED", "tasks": [{"id": 5}, {"id": 6}], "project": DESCRIBED})

    assert eventually(lambda: [call["tasks"] for call in script.calls("prepare")] == [[5, 6]])
