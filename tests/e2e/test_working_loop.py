"""The basic loop with a real Label Studio: connect, train, predict, correct."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from my_backend.projects.annotation_log import AnnotationLog
from testing.backend import Backend
from testing.digits import LABEL_CONFIG
from testing.label_studio import LabelStudio
from testing.waiting import wait_for
from tests.e2e.held_training import Hold
from tests.e2e.projects import Digits, Serve, choice, live, make_project, wait_for_new_version


def test_train_by_the_button_predict_correct_and_add_a_choice(
    label_studio: LabelStudio, digits: Digits, serve: Serve
) -> None:
    backend = serve(RETRAIN_AFTER_ANNOTATIONS="1", IMAGE_SIZE="64")
    project, truth, others = make_project(label_studio, digits, annotated=300, others=100)
    connection = label_studio.connect(project, backend.url)
    assert live(backend, project) == "untrained"
    label_studio.retrieve_predictions(project, others[:3])
    assert label_studio.predictions(project) == {}

    label_studio.start_training(connection)
    first = wait_for_new_version(backend, project, "untrained")
    label_studio.retrieve_predictions(project, others)
    predictions = label_studio.predictions(project)
    assert set(predictions) == set(others)
    assert all(len(stored) == 1 for stored in predictions.values())
    right = sum(choice(predictions[task][0]) == truth[task] for task in others)
    print(f"{right} of {len(others)} digits right")
    assert right >= 0.85 * len(others)
    assert all(0 <= stored[0]["score"] <= 1 for stored in predictions.values())
    assert {stored[0]["model_version"] for stored in predictions.values()} == {first}
    assert label_studio.backend(connection)["model_version"] == first

    label_studio.retrieve_predictions(project, others)
    assert label_studio.predictions(project) == predictions, "asking again must store nothing twice"

    wrong = next(task for task in others if choice(predictions[task][0]) != truth[task])
    label_studio.annotate(wrong, truth[wrong])
    second = wait_for_new_version(backend, project, first)
    label_studio.retrieve_predictions(project, [wrong])
    stored = {
        prediction["model_version"]: choice(prediction) for prediction in label_studio.predictions(project)[wrong]
    }
    assert stored[second] == truth[wrong]

    config = LABEL_CONFIG.replace('<Choice value="9" hotkey="9"/>', '<Choice value="nine" hotkey="9"/>')
    label_studio.update_project(project, label_config=config)
    third = wait_for_new_version(backend, project, second)
    label_studio.retrieve_predictions(project, others)
    renewed = [
        p for stored in label_studio.predictions(project).values() for p in stored if p["model_version"] == third
    ]
    assert len(renewed) == len(others)
    assert "9" not in {choice(prediction) for prediction in renewed}


@pytest.mark.usefixtures("legacy_tokens")
def test_legacy_token_and_basic_auth_are_enough(label_studio: LabelStudio, digits: Digits, serve: Serve) -> None:
    user, password = basic_auth = ("me", "se:cret")
    settings = {"LABEL_STUDIO_API_KEY": label_studio.legacy_token, "IMAGE_SIZE": "64", "TRAIN_MODE": "head"}
    backend = serve(**settings, BASIC_AUTH_USER=user, BASIC_AUTH_PASS=password)
    project, _, others = make_project(label_studio, digits, annotated=30, others=3)
    connection = label_studio.connect(project, backend.url, basic_auth=basic_auth)
    label_studio.start_training(connection)
    version = wait_for_new_version(backend, project, "untrained")
    label_studio.retrieve_predictions(project, others)
    assert {p["model_version"] for stored in label_studio.predictions(project).values() for p in stored} == {version}


@pytest.mark.usefixtures("legacy_tokens")
def test_token_from_setup_is_enough_if_legacy_tokens_are_enabled(
    label_studio: LabelStudio, digits: Digits, serve: Serve
) -> None:
    backend = serve(label_studio, IMAGE_SIZE="64", LABEL_STUDIO_URL="", LABEL_STUDIO_API_KEY="")
    project, _, _ = make_project(label_studio, digits, annotated=30, others=1)
    label_studio.start_training(label_studio.connect(project, backend.url))
    wait_for_new_version(backend, project, "untrained")


def test_without_a_token_that_works_the_job_says_which_setting_is_missing(
    label_studio: LabelStudio, digits: Digits, serve: Serve
) -> None:
    backend = serve(LABEL_STUDIO_URL="", LABEL_STUDIO_API_KEY="")
    project, _, _ = make_project(label_studio, digits, annotated=4, others=0)
    connection = label_studio.connect(project, backend.url)
    label_studio.start_training(connection)
    job = wait_for(lambda: backend.is_training(project)["job"] or newest_job(backend, project), "a job")
    failed = wait_for(lambda: (found := backend.job(job))["job_status"] == "failed" and found, "the job to fail")
    assert "LABEL_STUDIO_API_KEY" in failed["error"]
    assert "Personal Access Token" in failed["error"]


def newest_job(backend: Backend, project: int) -> str:
    records = sorted((backend.folder / "models" / "projects").glob(f"{project}.*/jobs/*.json"))
    return records[-1].stem if records else ""


def epochs_of_all_layers(job: dict[str, Any]) -> int:
    progress = job["progress"]
    return progress["epoch"] if progress.get("phase") == "training all layers" else 0


def test_labels_stay_with_their_images(label_studio: LabelStudio, digits: Digits, shared_backend: Backend) -> None:
    """Skipped, empty, duplicate and deleted annotations in between don't shift labels."""
    backend = shared_backend
    project, truth, _ = make_project(label_studio, digits, annotated=0, others=30)
    tasks = list(truth)
    for number, task in enumerate(tasks):
        if number % 5 == 0:
            label_studio.annotate(task, [], was_cancelled=True)
        elif number % 5 == 1:
            label_studio.annotate(task, [])
        elif number % 5 == 2:
            label_studio.annotate(task, "0" if truth[task] != "0" else "1")
            label_studio.annotate(task, truth[task])  # by the same person, later: it counts
        elif number % 5 == 3:
            label_studio.delete_annotation(label_studio.annotate(task, truth[task]))
        else:
            label_studio.annotate(task, truth[task])
    label_studio.start_training(label_studio.connect(project, backend.url))
    version = wait_for_new_version(backend, project, "untrained")
    (folder,) = (backend.folder / "models" / "projects").glob(f"{project}.*/versions/{version}/model")
    learned = {
        int(sample["name"]): sample["label"] for sample in json.loads((folder / "samples.json").read_text("utf-8"))
    }
    assert learned == {task: truth[task] for number, task in enumerate(tasks) if number % 5 in (2, 4)}
    exported = {
        task["id"]: submitted[-1]["result"][0]["value"]["choices"][0]
        for task in label_studio.export(project)
        if (submitted := [a for a in task["annotations"] if a["result"] and not a["was_cancelled"]])
    }
    assert learned == exported


def test_events_keep_the_annotated_tasks_as_label_studio_has_them(
    label_studio: LabelStudio, digits: Digits, shared_backend: Backend
) -> None:
    backend = shared_backend
    project, truth, others = make_project(label_studio, digits, annotated=20, others=8)
    label_studio.start_training(label_studio.connect(project, backend.url))
    wait_for_new_version(backend, project, "untrained")
    first = label_studio.annotate(others[0], "1")
    label_studio.annotate(others[0], "2")  # a second one, of the same person
    label_studio.annotate(others[1], [], was_cancelled=True)
    label_studio.annotate(others[2], [])
    label_studio.delete_annotation(label_studio.annotate(others[3], "3"))
    label_studio.update_annotation(first, "4")
    (folder,) = (backend.folder / "models" / "projects").glob(f"{project}.*")

    def facts(tasks: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        looked_at = ("id", "updated_at", "was_cancelled", "ground_truth", "completed_by", "result")
        return sorted(
            (task["id"], task["data"], *(annotation[name] for name in looked_at))
            for task in tasks
            for annotation in task["annotations"]
        )

    exported = facts(label_studio.export(project))
    # Label Studio waits only a second for an event's answer, so the last one may not be stored yet.
    wait_for(lambda: facts(AnnotationLog(folder).tasks() or []) == exported, "the tasks as Label Studio has them")
    known = AnnotationLog(folder).tasks()
    assert known is not None
    assert len(known) == len(truth) - len(others) + 3


def test_everything_answers_while_it_trains(label_studio: LabelStudio, digits: Digits, serve: Serve) -> None:
    # Epochs that take long: many short ones would take the head as long before. With fewer than 20 held-out images, all
    # layers aren't trained.
    backend = serve(TRAIN_MODE="full", EPOCHS="50", RETRAIN_AFTER_ANNOTATIONS="0", IMAGE_SIZE="96")
    project, _, _ = make_project(label_studio, digits, annotated=160, others=2)
    connection = label_studio.connect(project, backend.url)
    label_studio.start_training(connection)
    job = wait_for(lambda: backend.is_training(project)["job"], "a job")
    before = wait_for(lambda: epochs_of_all_layers(backend.job(job)), "all layers to be trained")

    uid = next((backend.folder / "models" / "projects").glob(f"{project}.*")).name
    predict = {"project": uid, "label_config": LABEL_CONFIG, "tasks": label_studio.tasks(project)[:1]}
    setup = {"project": uid, "schema": LABEL_CONFIG, "hostname": label_studio.url, "access_token": "x"}

    def ask(times: int, method: str, path: str, body: Any = None) -> list[str]:
        answers = (requests.request(method, backend.url + path, json=body, timeout=60) for _ in range(times))
        return [answer.text for answer in answers if not answer.ok]

    with ThreadPoolExecutor(3) as pool:
        failures = [
            pool.submit(ask, 50, "POST", "/predict", predict),
            pool.submit(ask, 20, "GET", "/health"),
            pool.submit(ask, 20, "POST", "/setup", setup),
        ]
    assert [one.result() for one in failures] == [[], [], []]
    assert backend.job(job)["job_status"] == "started", "it was to train all the while"
    wait_for(lambda: epochs_of_all_layers(backend.job(job)) > before, "another epoch")
    backend.cancel(job)
    wait_for(lambda: backend.job(job)["job_status"] == "canceled", "the job to end")


def test_a_killed_server_serves_at_once_and_ends_the_job(
    label_studio: LabelStudio, digits: Digits, serve: Serve, tmp_path: Path
) -> None:
    hold = Hold(tmp_path / "hold")
    hold.at(2)
    settings = {"TRAIN_MODE": "full", "EPOCHS": "4", "RETRAIN_AFTER_ANNOTATIONS": "0", "IMAGE_SIZE": "64"}
    backend = serve(**settings, **hold.settings)
    project, _, others = make_project(label_studio, digits, annotated=60, others=2)
    connection = label_studio.connect(project, backend.url)
    label_studio.start_training(connection)
    before = wait_for_new_version(backend, project, "untrained")
    job = newest_job(backend, project)
    wait_for(lambda: epochs_of_all_layers(backend.job(job)) == 2, "the second epoch")

    backend.kill()
    backend.__enter__()
    label_studio.retrieve_predictions(project, others)
    assert {p["model_version"] for s in label_studio.predictions(project).values() for p in s} == {before}
    hold.release()
    finished = wait_for(lambda: (found := backend.job(job))["job_status"] == "finished" and found, "its end")
    assert len(finished["result"]["versions"]) == 1, "the head was published before the server died"
    assert "resuming after epoch" in (backend.folder / "backend.log").read_text("utf-8")


def test_annotations_made_while_the_backend_is_down_are_learned_at_start(
    label_studio: LabelStudio, digits: Digits, serve: Serve
) -> None:
    backend = serve(IMAGE_SIZE="64")
    project, truth, others = make_project(label_studio, digits, annotated=40, others=5)
    label_studio.start_training(label_studio.connect(project, backend.url))
    first = wait_for_new_version(backend, project, "untrained")
    backend.kill()
    for task in others:
        label_studio.annotate(task, truth[task])

    backend.__enter__()
    second = wait_for_new_version(backend, project, first)
    assert set(others) <= set(map(int, names_of_samples(backend, project, second)))


def names_of_samples(backend: Backend, project: int, version: str) -> list[str]:
    (folder,) = (backend.folder / "models" / "projects").glob(f"{project}.*/versions/{version}/model")
    return [sample["name"] for sample in json.loads((folder / "samples.json").read_text("utf-8"))]
