"""Every kind of annotation, made in a real Label Studio: what a training uses, leaves out, and reports."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from label_studio_format.annotations import GROUP_MARK, label_of
from label_studio_format.labeling_config import parse_label_config
from my_backend.errors import LabelStudioError
from my_backend.label_studio import task_pages
from my_backend.label_studio.client import LabelStudio as Client
from safe_http.session import SafeSession
from testing.backend import Backend
from testing.label_studio import LabelStudio
from testing.waiting import wait_for
from tests.e2e.projects import Digits, wait_for_new_version
from tests.e2e.test_labeling_configs import IMAGE, as_text, samples

CONFIG = f"""<View>{IMAGE}
  <Choices name="digit" toName="image"><Choice value="even"/><Choice value="odd"/><Choice value="none of it"/></Choices>
  <Choices name="quality" toName="image"><Choice value="good"/><Choice value="bad"/></Choices>
  <TextArea name="note" toName="image"/></View>"""
WITHOUT_A_CHOICE = CONFIG.replace('<Choice value="none of it"/>', '<Choice value="neither"/>')

Annotation = dict[str, Any]


def said(name: str, *, by: int | None = None, tag: str = "digit", **fields: Any) -> Annotation:
    region = {"from_name": tag, "to_name": "image", "type": "choices", "value": {"choices": [name]}}
    return {"result": [region], "ground_truth": False, **({"completed_by": by} if by else {}), **fields}


def note(text: str) -> Annotation:
    region = {"from_name": "note", "to_name": "image", "type": "textarea", "value": {"text": [text]}}
    return {"result": [region], "ground_truth": False}


@pytest.fixture(scope="module")
def people(label_studio: LabelStudio) -> list[int]:
    """The ids of three annotators."""
    found = [int(user["id"]) for user in label_studio.request("GET", "/api/users/").json()]
    for number in range(3 - len(found)):
        address = f"annotator{number}@example.com"
        user = {"email": address, "username": address, "first_name": "A", "last_name": "B", "password": "a password"}
        found.append(int(label_studio.request("POST", "/api/users/", json=user).json()["id"]))
    return found[:3]


# By name: the annotations of a task, in the order they are made, and what is learned of it ("": nothing).
Case = tuple[Callable[[Sequence[int]], list[Annotation]], str]
CASES: dict[str, Case] = {
    "one annotation": (lambda by: [said("even")], "even"),
    "skipped": (lambda by: [{"result": [], "was_cancelled": True, "ground_truth": False}], ""),
    "skipped with something ticked": (lambda by: [said("even", was_cancelled=True)], ""),
    "submitted with nothing ticked": (lambda by: [{"result": [], "ground_truth": False}], ""),
    "only another tag": (lambda by: [said("good", tag="quality")], ""),
    "only a note": (lambda by: [note("blurred")], ""),
    "another tag beside ours": (
        lambda by: [{**said("odd"), "result": [*said("bad", tag="quality")["result"], *said("odd")["result"]]}],
        "odd",
    ),
    "a majority": (lambda by: [said("odd", by=by[0]), said("even", by=by[1]), said("odd", by=by[2])], "odd"),
    "a tie": (lambda by: [said("odd", by=by[0]), said("even", by=by[1])], ""),
    "a ground truth against the majority": (
        lambda by: [said("odd", by=by[0]), said("odd", by=by[1]), said("even", by=by[2], ground_truth=True)],
        "even",
    ),
    "the newest of one annotator": (lambda by: [said("odd", by=by[0]), said("even", by=by[0])], "even"),
    "one skipped and one annotated": (
        lambda by: [said("odd", by=by[0], was_cancelled=True), said("even", by=by[1])],
        "even",
    ),
    "a prediction accepted": (
        lambda by: [{**said("even"), "result": [{**said("even")["result"][0], "origin": "prediction", "score": 0.9}]}],
        "even",
    ),
    "a prediction changed": (
        lambda by: [{**said("odd"), "result": [{**said("odd")["result"][0], "origin": "prediction-changed"}]}],
        "odd",
    ),
    "imported": (lambda by: [said("odd", ground_truth=True)], "odd"),
    "a choice that goes later": (lambda by: [said("none of it")], "none of it"),
    "a choice that goes later, again": (lambda by: [said("none of it")], "none of it"),
}
LEFT_OUT = {"skipped": 2, "empty": 2, "other tag": 1, "tie": 1}


def test_every_kind_of_annotation_is_used_or_left_out_as_it_should(
    label_studio: LabelStudio, digits: Digits, shared_backend: Backend, people: list[int]
) -> None:
    backend = shared_backend
    project = label_studio.create_project("annotations", CONFIG)
    plain = [said("odd" if int(label) % 2 else "even") for _, label in digits[50:60]]
    annotated = [[one] for one in plain] + [make(people) for make, _ in CASES.values()] + [[], []]
    tasks = label_studio.import_tasks(
        project,
        [
            {"data": {"image": as_text(path)}, "annotations": made}
            for (path, _), made in zip(digits[100:], annotated, strict=False)
        ],
    )
    by_case = dict(zip(CASES, tasks[len(plain) :], strict=False))
    draft = tasks[-1]
    label_studio.request("POST", f"/api/tasks/{draft}/drafts", json={**said("even"), "lead_time": 1.0})
    connection = label_studio.connect(project, backend.url)

    job, version = train(label_studio, backend, connection, project, "untrained")

    learned = samples(backend, project, version)
    assert {case: learned.get(by_case[case], "") for case in CASES} == {
        case: label for case, (_, label) in CASES.items()
    }
    assert draft not in learned
    used = len(plain) + sum(bool(label) for _, label in CASES.values())
    counted = {reason: count for reason, count in job["annotations"].items() if count}
    assert counted == {"used": used, **LEFT_OUT}
    assert job["summary"].startswith(f"Learned from {used} of {used + sum(LEFT_OUT.values())} annotated tasks.")
    assert "New since" not in job["summary"]

    label_studio.update_project(project, label_config=WITHOUT_A_CHOICE)
    version = wait_for_new_version(backend, project, version)  # the same network, of today's choices
    job, version = train(label_studio, backend, connection, project, version)
    assert job["annotations"]["unknown choice"] == 2
    assert job["unknown_choices"] == {"none of it": 2}
    assert "choices that no longer exist: none of it (2×)" in job["summary"]
    assert "No longer predicted: none of it. No annotations yet: neither." in job["summary"]
    label_studio.retrieve_predictions(project, tasks)
    stored = [one for predictions in label_studio.predictions(project).values() for one in predictions]
    assert {choice for one in stored for region in one["result"] for choice in region["value"]["choices"]} <= {
        "even",
        "odd",
    }


def test_too_little_to_learn_from_is_said_and_the_live_version_stays(
    label_studio: LabelStudio, digits: Digits, shared_backend: Backend
) -> None:
    backend = shared_backend
    project = label_studio.create_project("too little", CONFIG)
    made = [said("even"), said("odd"), said("even"), {"result": [], "was_cancelled": True, "ground_truth": False}]
    tasks = [
        {"data": {"image": as_text(path)}, "annotations": [one]} for (path, _), one in zip(digits, made, strict=False)
    ]
    ids = label_studio.import_tasks(project, tasks)
    connection = label_studio.connect(project, backend.url)

    failed = ended_job(label_studio, backend, connection, project)
    assert failed["job_status"] == "failed"
    assert failed["error"].startswith("Too few labels to train on: label at least 4 images, with at least 2 different")
    assert "(labeled so far: 2 × even, 1 × odd)" in failed["error"]
    assert "Left out: 1 skipped." in failed["error"]

    label_studio.annotate(ids[3], "odd")
    _, version = train(label_studio, backend, connection, project, "untrained")
    for task in ids[1:]:
        for annotation in label_studio.request("GET", f"/api/tasks/{task}/annotations/").json():
            label_studio.delete_annotation(annotation["id"])
    assert ended_job(label_studio, backend, connection, project)["job_status"] == "failed"
    assert backend.is_training(project)["model_version"] == version


def ended_job(label_studio: LabelStudio, backend: Backend, connection: int, project: int) -> dict[str, Any]:
    """Presses "Start training" and waits for its job."""
    before = set(jobs(backend, project))
    label_studio.start_training(connection)
    name = wait_for(lambda: set(jobs(backend, project)) - before, "a job").pop()
    return dict(wait_for(lambda: (job := backend.job(name))["ended_at"] and job, "the job's end"))


def jobs(backend: Backend, project: int) -> list[str]:
    return [path.stem for path in (backend.folder / "models" / "projects").glob(f"{project}.*/jobs/full-*.json")]


def train(
    label_studio: LabelStudio, backend: Backend, connection: int, project: int, before: str
) -> tuple[dict[str, Any], str]:
    """The job's summary, and the version that is live afterwards."""
    job = ended_job(label_studio, backend, connection, project)
    assert job["job_status"] == "finished", job
    return job["result"], wait_for_new_version(backend, project, before)


def test_pages_of_tasks_tell_the_same_labels_as_the_export(
    label_studio: LabelStudio, people: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_pages, "PAGE_TASKS", 5)
    project = label_studio.create_project("pages", CONFIG)
    made = [make(people) for make, _ in CASES.values()]
    label_studio.import_tasks(project, [{"data": {"image": "/a.png"}, "annotations": one} for one in [*made, []]])
    accepted, seen, skipped = label_studio.import_tasks(project, 3 * [{"data": {"$undefined$": "/b.png"}}])
    stored = {**said("odd"), "task": accepted, "model_version": "v1"}
    prediction = label_studio.request("POST", "/api/predictions/", json=stored).json()["id"]
    action = {"selectedItems": {"all": False, "included": [accepted]}}
    label_studio.request("POST", f"/api/dm/actions?id=predictions_to_annotations&project={project}", json=action)
    note = {**said("even")["result"][0], "meta": {"text": [f"{GROUP_MARK} g1"]}}
    label_studio.request(
        "POST",
        f"/api/tasks/{seen}/annotations/",
        json={"result": [note], "lead_time": 2.5, "parent_prediction": prediction},
    )
    label_studio.annotate(skipped, [], was_cancelled=True)
    client = Client(label_studio.url, label_studio.personal_access_token, SafeSession(["127.0.0.1"]))

    pages = list(task_pages.task_pages(client, project, annotated=True))

    exported = {task["id"]: task for task in label_studio.export(project)}
    read = {task["id"]: task for page, _ in pages for task in page}
    assert read.keys() == exported.keys()
    assert len(pages) == -(-len(read) // 5)
    tag = parse_label_config(CONFIG).image_choices
    assert tag is not None
    assert {number: label_of(task, tag) for number, task in read.items()} == {
        number: label_of(task, tag) for number, task in exported.items()
    }
    assert {label_of(read[number], tag).source for number in (accepted, seen)} == {"unseen", "group"}
    assert [task["data"] for task in read.values()] == [exported[number]["data"] for number in read]
    assert not any(task.get("predictions") or task.get("drafts") for task in read.values())


def test_project_that_is_gone_is_explained(label_studio: LabelStudio) -> None:
    client = Client(label_studio.url, label_studio.personal_access_token, SafeSession(["127.0.0.1"]))

    with pytest.raises(LabelStudioError, match="the project doesn't exist, or the token's owner has no access to it"):
        list(task_pages.task_pages(client, 999_999, annotated=True))
