import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from errno import EIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from label_studio_format.events import Change
from my_backend import files
from my_backend.jobs.backlog import Backlog
from my_backend.jobs.learned import LEARNED_FILE, Learned, learned_state
from my_backend.jobs.reconciliation import Reconciliation
from my_backend.jobs.record import Job, new_job
from my_backend.jobs.run import MAX_ATTEMPTS, run_job
from my_backend.jobs.training_job import TrainingJob
from my_backend.projects.corrections import Corrections
from my_backend.projects.random_order import in_random_order, keep_next
from my_backend.projects.registry import Credentials, Projects
from my_backend.projects.sent_annotations import SET_ASIDE, SentAnnotations
from my_backend.projects.versions import Versions
from testing.fake_label_studio.server import PNG, FakeLabelStudio
from testing.http_server import Reply
from testing.waiting import eventually
from tests.broken_disk import disk_error
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import LABEL_CONFIG, OTHER_CONFIG, FakeModel, Script

CHANGE = Change({"id": 5})
TASK = {"id": 1, "data": {"image": "/a.png"}, "annotations": [{"id": 5, "updated_at": "t", "result": [{"a": 1}]}]}


@pytest.fixture
def connected(serve: Serve, label_studio: FakeLabelStudio) -> Iterator[Client]:
    """A backend that knows where Label Studio is."""
    label_studio.annotated = [TASK]
    url, key = label_studio.url, label_studio.pat
    with serve(label_studio_url=url, label_studio_api_key=key, retrain_after_annotations=0) as client:
        client.setup()
        yield client


def start(client: Client, kind: Any = "full") -> str:
    return client.backend.queue.submit(PROJECT, kind, "test").id


def saved(client: Client, kind: Any) -> Job:
    """A job that no queue knows."""
    job = new_job(PROJECT, kind, "test")
    client.backend.job_store.save(job)
    return job


def run(client: Client, job: Job, correct: Callable[[str], object] = lambda project: None) -> Job:
    """Runs a job in this thread; `correct` is called where it asks for a correction."""
    backend = client.backend
    work = TrainingJob(
        backend.settings, backend.projects, backend.job_store, backend.connections, backend.new_model, correct
    )
    return run_job(job, backend.job_store, work, lambda: False)


def versions_of(client: Client) -> Versions:
    return Versions(client.backend.projects.folder(PROJECT))


def learned_tasks(client: Client) -> int:
    """How many tasks the live version has learned; 0 before the first."""
    live = versions_of(client).live()
    return live.train_output["labels"]["Cat"] if live else 0


def noted(client: Client) -> Learned:
    return learned_state(client.backend.projects.folder(PROJECT))


def sent(client: Client) -> SentAnnotations:
    return SentAnnotations(client.backend.projects.folder(PROJECT))


def test_job_learns_label_studios_annotated_tasks(connected: Client, script: Script) -> None:
    job = connected.ended(start(connected))

    assert (job.status, job.annotations_read, job.progress["phase"]) == ("finished", True, "training")
    assert [(call["kind"], call["tasks"]) for call in script.calls("fit")] == [("full", [1])]
    live = Versions(connected.backend.projects.folder(PROJECT)).live()
    assert live is not None
    assert (job.result["versions"], live.cause, live.choices) == ([live.name], "test", ("Cat", "Dog"))
    assert job.result["labels"] == {"Cat": 1}
    assert str(connected.backend.projects.folder(PROJECT)) not in str(job.result)


def test_project_is_learned_as_label_studio_has_it_now(connected: Client, label_studio: FakeLabelStudio) -> None:
    label_studio.project |= {"label_config": OTHER_CONFIG, "title": "Birds"}

    connected.ended(start(connected))

    project = connected.backend.projects.get(PROJECT)
    assert (project.label_config, project.title) == (OTHER_CONFIG, "Birds")
    live = Versions(connected.backend.projects.folder(PROJECT)).live()
    assert live is not None
    assert live.choices == ("Cat", "Bird")


def test_training_grows_from_the_live_version(connected: Client, script: Script, label_studio: FakeLabelStudio) -> None:
    script.set(learn="Dog")
    connected.ended(start(connected))
    connected.ended(start(connected))

    assert [call["live"] for call in script.calls("fit")] == ["", "Dog"]


def test_model_that_knows_nothing_of_publish_just_returns(connected: Client, script: Script) -> None:
    script.set(returns={"threshold": 0.5})

    job = connected.ended(start(connected))

    versions = Versions(connected.backend.projects.folder(PROJECT))
    assert job.result["versions"] == versions.names()
    assert len(versions.names()) == 2
    assert versions.get(versions.live_name()).train_output == {"threshold": 0.5}


@pytest.mark.parametrize("returned", [["a list"], "text", 5])
def test_model_that_returns_no_dict_fails_with_words(connected: Client, script: Script, returned: Any) -> None:
    script.set(returns=returned)

    job = connected.ended(start(connected))

    assert job.status == "failed"
    assert "fit() must return a dict" in job.error


def test_numbers_of_numpy_become_those_of_json(connected: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    output = {"figures": {"accuracy": np.float32(0.5)}, "images": np.int64(3)}
    monkeypatch.setattr(FakeModel, "fit", lambda *given, **more: output)

    job = connected.ended(connected.submit_training())

    assert job.result["figures"] == {"accuracy": 0.5}
    [name] = job.result["versions"]
    stored = connected.backend.projects.get(PROJECT).versions.get(name).train_output
    assert stored == {"figures": {"accuracy": 0.5}, "images": 3}


@pytest.mark.parametrize("held_back", [None, "", "clearly worse"])
def test_version_is_held_back_where_the_model_says_why(connected: Client, script: Script, held_back: Any) -> None:
    script.set(output={"held_back": held_back})

    connected.ended(start(connected))

    versions = Versions(connected.backend.projects.folder(PROJECT))
    assert (versions.live() is None) is bool(held_back)
    assert versions.get(versions.names()[0]).held_back == (held_back or "")


def test_changes_that_were_learned_count_no_more(connected: Client, label_studio: FakeLabelStudio) -> None:
    projects = connected.backend.projects
    projects.annotation_log(PROJECT).add(3 * [CHANGE])
    label_studio.before_tasks = lambda: projects.annotation_log(PROJECT).add(2 * [CHANGE]) and None

    connected.ended(start(connected))

    assert eventually(lambda: projects.annotation_log(PROJECT).unlearned() == 2)


def test_failed_training_keeps_the_changes(connected: Client, script: Script) -> None:
    connected.backend.projects.annotation_log(PROJECT).add(3 * [CHANGE])
    script.set(fit_raises="no luck")

    assert connected.ended(start(connected)).status == "failed"
    assert connected.backend.projects.annotation_log(PROJECT).unlearned() == 3


def test_what_is_learned_already_is_not_learned_again_unless_a_person_asks(
    connected: Client, script: Script, label_studio: FakeLabelStudio
) -> None:
    connected.ended(start(connected, "head"))
    again = connected.ended(start(connected, "head"))
    assert (again.status, again.result["versions"]) == ("finished", [])
    assert connected.ended(start(connected, "full")).result["versions"] != []

    changed = [{**TASK["annotations"][0], "updated_at": "later"}]
    label_studio.annotated = [{**TASK, "annotations": changed}]
    connected.backend.projects.annotation_log(PROJECT).forget_tasks()

    assert connected.ended(start(connected, "head")).result["versions"] != []
    assert [call["kind"] for call in script.calls("fit")] == ["head", "full", "head"]


def annotation(task: int, choice: str, at: str = "u", number: int = 0) -> dict[str, Any]:
    """As an event has it; the annotation has the task's number, or another one."""
    value = {"from_name": "c", "type": "choices", "value": {"choices": [choice]}}
    return {"id": number or task + 4, "task": task, "updated_at": at, "result": [value]}


def test_correction_is_learned_from_its_event_without_asking_label_studio(
    connected: Client, script: Script, label_studio: FakeLabelStudio
) -> None:
    connected.ended(start(connected))
    label_studio.project = label_studio.annotated = None  # any request fails
    annotation_log = connected.backend.projects.annotation_log(PROJECT)
    annotation_log.add([Change(annotation(2, "Dog"), {"id": 2, "data": {"image": "/b.png"}, "total_annotations": 1})])

    job = connected.ended(start(connected, "head"))

    assert len(job.result["versions"]) == 1
    assert [call["tasks"] for call in script.calls("fit")] == [[1], [1, 2]]
    assert annotation_log.unlearned() == 0


def test_event_that_does_not_tell_all_has_label_studio_asked(
    connected: Client, script: Script, label_studio: FakeLabelStudio
) -> None:
    connected.ended(start(connected))
    connected.backend.projects.annotation_log(PROJECT).add([Change(annotation(2, "Dog"))])
    label_studio.annotated = [TASK, {"id": 2, "data": {"image": "/b.png"}, "annotations": [annotation(2, "Dog")]}]

    connected.ended(start(connected, "head"))

    assert [call["tasks"] for call in script.calls("fit")] == [[1], [1, 2]]
    known = connected.backend.projects.annotation_log(PROJECT).tasks()
    assert known is not None
    assert [task["id"] for task in known] == [1, 2]


def test_what_events_told_is_the_same_as_what_label_studio_has(
    connected: Client, script: Script, label_studio: FakeLabelStudio
) -> None:
    connected.ended(start(connected))
    second = {"id": 2, "data": {"image": "/b.png"}, "annotations": [annotation(2, "Dog")]}
    annotation_log = connected.backend.projects.annotation_log(PROJECT)
    annotation_log.add([Change(annotation(2, "Dog"), {"id": 2, "data": {"image": "/b.png"}})])
    connected.ended(start(connected, "head"))
    label_studio.annotated = [second, TASK]
    annotation_log.forget_tasks()

    again = connected.ended(start(connected, "head"))

    assert again.result["versions"] == []
    assert len(script.calls("fit")) == 2


def test_event_of_an_annotation_that_a_job_just_missed_starts_another(
    serve: Serve, script: Script, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It would have Label Studio asked, which doesn't have the annotation here, if it looked just after a publication.
    monkeypatch.setattr(Reconciliation, "visit", lambda *given: None)
    label_studio.annotated = [TASK]
    with serve(
        label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat, retrain_after_annotations=1
    ) as client:
        client.setup()
        annotation_log = client.backend.projects.annotation_log(PROJECT)
        told = [Change(annotation(2, "Dog"), {"id": 2, "data": {"image": "/b.png"}})]

        def miss() -> None:
            label_studio.before_tasks = lambda: None
            annotation_log.add(told)

        label_studio.before_tasks = miss
        client.ended(start(client))

        def learned() -> list[list[int]]:
            return [call["tasks"] for call in script.calls("fit")]

        # The event's own job may even begin to learn before the one that missed it.
        assert eventually(lambda: [1] in learned() and learned()[-1] == [1, 2]), script.calls("fit")
        assert eventually(lambda: annotation_log.unlearned() == 0)


def annotate_a_second_task(client: Client) -> None:
    told = Change(annotation(2, "Dog"), {"id": 2, "data": {"image": "/b.png"}})
    client.backend.projects.annotation_log(PROJECT).add([told])


@pytest.mark.parametrize("ends", ["canceled", "finished"])
def test_early_version_that_knows_less_is_corrected_while_its_job_runs(
    connected: Client, script: Script, ends: str
) -> None:
    script.block("full")
    full = start(connected)
    connected.started(full)
    annotate_a_second_task(connected)
    connected.ended(start(connected, "head"))
    newest = noted(connected)
    assert learned_tasks(connected) == 2

    script.block("full published")

    assert eventually(lambda: len(versions_of(connected).names()) == 3)
    assert eventually(lambda: noted(connected).digest == newest.digest)
    assert learned_tasks(connected) == 2
    if ends == "canceled":
        connected.backend.queue.cancel(full)
    else:
        script.release()
    assert connected.ended(full).status == ends
    assert connected.ended(start(connected, "head")).result["versions"] == [], "nothing is left to be learned"
    assert (learned_tasks(connected), len(versions_of(connected).names())) == (2, 3)


def test_correction_is_requested_if_nothing_shows_that_it_is_learned(connected: Client, script: Script) -> None:
    asked = []
    with ThreadPoolExecutor(1) as other:
        script.block("full")
        full = other.submit(run, connected, saved(connected, "full"), lambda uid: asked.append(noted(connected)))
        assert eventually(lambda: script.calls("fit"))
        annotate_a_second_task(connected)
        run(connected, saved(connected, "head"))
        newest = noted(connected)
        script.release()

    assert full.result().status == "finished"
    assert len(asked) == 1
    assert newest not in asked


def test_kill_before_it_is_noted_what_went_live_leaves_nothing_unlearned(
    connected: Client, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    write_json = files.write_json

    def killed(path: Path, *given: Any, **options: Any) -> None:
        if path.name == LEARNED_FILE:
            raise KeyboardInterrupt  # nothing is written after it, as after a kill
        write_json(path, *given, **options)

    with ThreadPoolExecutor(1) as other:
        script.block("full")
        full = other.submit(run, connected, saved(connected, "full"), asked.append)
        assert eventually(lambda: script.calls("fit"))
        annotate_a_second_task(connected)
        run(connected, saved(connected, "head"))
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_json", killed)
            script.release()
            assert isinstance(full.exception(), KeyboardInterrupt)
    assert (learned_tasks(connected), asked) == (1, [PROJECT])

    assert len(run(connected, saved(connected, "head")).result["versions"]) == 1
    assert learned_tasks(connected) == 2


def test_correction_begun_before_all_layers_went_live_is_left_to_the_next(connected: Client, script: Script) -> None:
    """Else it would put the network from before in the place of the one that was trained for an hour."""
    script.block("head", learn="Dog")
    head = start(connected, "head")
    connected.started(head)
    assert run(connected, saved(connected, "full")).status == "finished"
    trained = versions_of(connected).live()
    assert trained is not None
    annotate_a_second_task(connected)

    script.release()

    assert connected.ended(head).result["versions"] == []
    assert eventually(lambda: versions_of(connected).live_name() != trained.name)
    assert [call["live"] for call in script.calls("fit")] == ["", "", "Dog"]
    assert learned_tasks(connected) == 2


def test_annotations_of_a_train_request_outlive_an_overtaken_correction(connected: Client, script: Script) -> None:
    script.block("head")
    sent(connected).keep(TRAIN["annotations"])
    asked: list[str] = []
    with ThreadPoolExecutor(1) as other:
        head = other.submit(run, connected, saved(connected, "head"), asked.append)
        assert eventually(lambda: script.calls("fit"))
        text = sent(connected).path.read_text()
        sent(connected).path.unlink()  # so that the training that overtakes it is another one
        run(connected, saved(connected, "full"))
        sent(connected).path.write_text(text)
        script.release()
    assert (head.result().status, head.result().result["versions"], asked) == ("finished", [], [PROJECT])

    assert sent(connected).exist(), "nobody has learned them"


def test_version_that_went_live_while_nothing_new_was_read_is_corrected(
    connected: Client, label_studio: FakeLabelStudio
) -> None:
    """As where an annotation was made and taken back: the job that read it before that publishes last."""
    connected.ended(start(connected))
    connected.backend.projects.annotation_log(PROJECT).forget_tasks()
    second = {"id": 2, "data": {"image": "/b.png"}, "annotations": [annotation(2, "Dog")]}

    def publish_both() -> None:
        label_studio.before_tasks = lambda: None
        label_studio.annotated = [TASK, second]
        assert run(connected, saved(connected, "full")).status == "finished"
        label_studio.annotated = [TASK]

    label_studio.before_tasks = publish_both
    assert connected.ended(start(connected, "head")).result["versions"] == []

    assert eventually(lambda: len(versions_of(connected).names()) == 3 and learned_tasks(connected) == 1)


def test_watermark_is_from_before_the_annotations_were_read(connected: Client, label_studio: FakeLabelStudio) -> None:
    label_studio.before_tasks = lambda: setattr(label_studio, "updated_at", "later")

    connected.ended(start(connected))

    assert "2026-11-20T13:35:51Z" in noted(connected).watermark


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "Can't read annotations because Label Studio's URL is unknown"),
        (
            {"label_studio_url": "http://127.0.0.1:1", "label_studio_api_key": "x"},
            "Can't reach Label Studio at http://127.0.0.1:1",
        ),
    ],
)
def test_job_without_label_studio_fails_and_names_the_fix(serve: Serve, given: dict[str, str], said: str) -> None:
    with serve(**given) as client:
        client.setup()

        job = client.ended(start(client))

    assert job.status == "failed"
    assert said in job.error
    assert "LABEL_STUDIO_URL" in job.error


def test_label_studio_that_setup_named_is_asked_with_its_token(
    serve: Serve, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.legacy_enabled = True
    with serve() as client:
        client.setup()
        credentials = Credentials(label_studio.url, label_studio.legacy)
        client.backend.projects.remember_credentials(PROJECT, credentials)

        assert client.ended(start(client)).status == "finished"


def test_refused_token_is_in_the_jobs_error(serve: Serve, label_studio: FakeLabelStudio) -> None:
    with serve(label_studio_url=label_studio.url, label_studio_api_key=label_studio.legacy) as client:
        client.setup()

        job = client.ended(start(client))

    assert "legacy tokens are disabled" in job.error
    assert label_studio.legacy not in job.error


def test_train_requests_annotations_override_label_studios_until_learned(connected: Client, script: Script) -> None:
    body = {"project": PROJECT, "annotations": [{"id": 9, "data": {}}]}
    script.set(fit_raises="no luck")
    connected.ended(connected.post("/train", body, 201)["job"])

    script.set()
    connected.ended(start(connected))
    connected.ended(start(connected))

    assert [call["tasks"] for call in script.calls("fit")] == [[9], [9], [1]]


def test_annotations_of_a_train_request_that_teach_nothing_block_nothing(connected: Client, script: Script) -> None:
    script.set(fit_says="label more images")
    failed = connected.ended(connected.post("/train", {"annotations": [{"id": 9, "data": {}}]}, 201)["job"])
    assert (failed.status, failed.error) == ("failed", "label more images")

    script.set()
    connected.ended(start(connected))

    assert [call["tasks"] for call in script.calls("fit")] == [[9], [1]]


def test_annotations_that_come_while_others_are_learned_are_kept(connected: Client, script: Script) -> None:
    first, second = ({"annotations": [{"id": number, "data": {}}]} for number in (8, 9))
    script.block("fit")
    running = connected.post("/train", first, 201)["job"]
    connected.started(running)

    waiting = connected.post("/train", second, 201)["job"]
    script.release()

    assert connected.ended(waiting).status == "finished"
    assert waiting != running
    assert [call["tasks"] for call in script.calls("fit")] == [[8], [9]]


TRAIN = {"annotations": [{"id": 9, "data": {}}]}


def test_annotations_that_another_job_has_learned_meanwhile_are_no_error(connected: Client, script: Script) -> None:
    script.block("full")
    full = connected.post("/train", TRAIN, 201)["job"]
    connected.started(full)
    connected.ended(start(connected, "head"))
    assert not sent(connected).exist()

    script.release()

    job = connected.ended(full)
    assert (job.status, job.error, len(job.result["versions"])) == ("finished", "", 1)


def test_annotations_of_a_canceled_training_are_forgotten(connected: Client, script: Script) -> None:
    script.block("fit")
    job = connected.post("/train", TRAIN, 201)["job"]
    connected.started(job)
    connected.post(f"/api/jobs/{job}/cancel")
    assert connected.ended(job).status == "canceled"

    script.set()
    connected.ended(start(connected))

    assert [call["tasks"] for call in script.calls("fit")] == [[9], [1]]


def test_annotations_of_a_training_canceled_while_waiting_are_forgotten(connected: Client, script: Script) -> None:
    script.block("fit")
    running = start(connected)
    connected.started(running)
    waiting = connected.post("/train", TRAIN, 201)["job"]
    assert waiting != running

    connected.post(f"/api/jobs/{waiting}/cancel")
    assert not sent(connected).exist()

    sent(connected).keep(TRAIN["annotations"])
    connected.post(f"/api/jobs/{waiting}/cancel")
    assert sent(connected).exist(), "these are another request's"


def test_annotations_of_a_training_canceled_before_reading_are_forgotten(connected: Client, script: Script) -> None:
    sent(connected).keep(TRAIN["annotations"])
    job = saved(connected, "full")
    connected.backend.job_store.request_cancel(job)

    assert run(connected, job).status == "canceled"

    assert not sent(connected).exist()
    assert script.calls("fit") == []


def test_annotations_of_a_training_stay_where_a_correction_is_canceled(connected: Client, script: Script) -> None:
    sent(connected).keep(TRAIN["annotations"])
    script.block("head")
    job = start(connected, "head")
    connected.started(job)
    connected.post(f"/api/jobs/{job}/cancel")
    assert connected.ended(job).status == "canceled"

    connected.ended(start(connected))

    assert [call["tasks"] for call in script.calls("fit")] == [[9], [9]]


def test_annotations_of_a_training_stay_if_another_process_takes_it_over(connected: Client, script: Script) -> None:
    sent(connected).keep(TRAIN["annotations"])
    store, job = connected.backend.job_store, saved(connected, "full")
    with ThreadPoolExecutor(1) as other:
        script.block("fit")
        running = other.submit(run, connected, job)
        assert eventually(lambda: script.calls("fit"))

        def taken_over() -> bool:
            # Again if the running job was writing its progress at the same moment.
            store.save(replace(store.get(job.id), runner="another"))
            return running.done()

        assert eventually(taken_over)

    assert running.result().status == "started"
    assert sent(connected).exist()


DAMAGED = {
    "empty": b"",
    "cut short": b'[{"id": 9, "da',
    "no text": b"\xff\xfe",
    "another form": b"{}",
    "no tasks": b"[1]",
    "no annotations": b'[{"id": 9, "data": {}, "annotations": 5}]',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", ["head", "full"])
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_annotations_are_set_aside_and_label_studios_learned(
    name: str, kind: str, connected: Client, script: Script
) -> None:
    sent(connected).path.write_bytes(DAMAGED[name])

    job = connected.ended(start(connected, kind))

    assert (job.status, job.error) == ("finished", "")
    assert "damaged" in job.result["set_aside"]
    assert [call["tasks"] for call in script.calls("fit")] == [[1]]
    assert not sent(connected).exist()
    assert sent(connected).path.with_name(SET_ASIDE).read_bytes() == DAMAGED[name]
    assert "set_aside" not in connected.ended(start(connected)).result


def test_annotations_of_a_training_that_cannot_be_read_are_set_aside(connected: Client, script: Script) -> None:
    sent(connected).path.mkdir()

    assert connected.ended(start(connected)).status == "finished"

    assert [call["tasks"] for call in script.calls("fit")] == [[1]]
    assert sent(connected).path.with_name(SET_ASIDE).is_dir()


def test_annotations_that_the_disk_cannot_read_stay_for_a_later_training(
    connected: Client, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent(connected).keep(TRAIN["annotations"])
    read = files._read_once

    def fail(path: Path) -> bytes:
        if path == sent(connected).path:
            raise disk_error(EIO)
        return read(path)

    with monkeypatch.context() as failing:
        failing.setattr(files, "_read_once", fail)
        assert run(connected, saved(connected, "full")).status == "finished"
    assert run(connected, saved(connected, "full")).status == "finished"

    assert [call["tasks"] for call in script.calls("fit")] == [[1], [9]]
    assert not sent(connected).exist()


def test_record_of_what_was_learned_names_corrections(connected: Client) -> None:
    corrections = Corrections(connected.backend.projects.folder(PROJECT))
    corrections.keep(b"image", "a" * 64, ["Cat"])

    run(connected, saved(connected, "full"))

    [one] = corrections.newest_first()
    assert noted(connected).corrections == {one.image: one.corrected_at}


def test_quick_training_without_news_runs_if_a_missed_image_can_be_read(
    connected: Client, script: Script, label_studio: FakeLabelStudio
) -> None:
    label_studio.files["/a.png"] = Reply(503)
    script.set(fetch_images=True)
    run(connected, saved(connected, "full"))
    assert noted(connected).missed == [("/a.png", 1)]
    assert run(connected, saved(connected, "head")).result["versions"] == []
    assert noted(connected).missed == [("/a.png", 1)]

    label_studio.files["/a.png"] = PNG
    assert len(run(connected, saved(connected, "head")).result["versions"]) == 1

    assert noted(connected).missed == []
    assert run(connected, saved(connected, "head")).result["versions"] == []


def test_annotations_that_killed_the_process_three_times_are_set_aside(connected: Client, script: Script) -> None:
    sent(connected).keep(TRAIN["annotations"])
    killed = replace(saved(connected, "full"), status="started", started=time.time(), futile=MAX_ATTEMPTS)
    assert run(connected, killed).status == "failed"
    assert sent(connected).exist()

    job = run(connected, saved(connected, "head"))

    assert (job.status, "3 training runs" in job.result["set_aside"]) == ("finished", True)
    assert [call["tasks"] for call in script.calls("fit")] == [[1]]
    assert json.loads(sent(connected).path.with_name(SET_ASIDE).read_text()) == TRAIN["annotations"]


def test_annotations_that_fail_the_model_three_times_are_set_aside(connected: Client, script: Script) -> None:
    killed_before = replace(saved(connected, "full"), status="failed", started=1.0, futile=MAX_ATTEMPTS)
    connected.backend.job_store.save(killed_before)  # by what came before these
    sent(connected).keep(TRAIN["annotations"])
    script.set(fit_raises="it cannot")
    for _ in range(MAX_ATTEMPTS):
        assert run(connected, saved(connected, "full")).status == "failed"
    script.set()

    assert run(connected, saved(connected, "full")).status == "finished"

    assert [call["tasks"] for call in script.calls("fit")] == [*[[9]] * MAX_ATTEMPTS, [1]]


@pytest.mark.parametrize("when", ["before_project", "before_tasks"])
@pytest.mark.parametrize("who", ["this process", "another process"])
def test_project_that_is_deleted_while_label_studio_is_asked_stays_deleted(
    connected: Client, script: Script, label_studio: FakeLabelStudio, when: str, who: str
) -> None:
    projects, job = connected.backend.projects, saved(connected, "full")
    another = Projects(projects.root)
    # The follower's visit asks about the project, too: its deletion would come at any moment of the job.
    assert eventually(lambda: connected.backend.monitor.finding(PROJECT))
    label_studio.project["title"] = "Another"
    setattr(label_studio, when, lambda: (projects if who == "this process" else another).delete(PROJECT))

    assert run(connected, job).status == "canceled"
    assert not projects.folder(PROJECT).exists()
    assert script.calls("fit") == []


def test_cancelled_job_publishes_nothing(connected: Client, script: Script) -> None:
    script.block("fit")
    job = start(connected)
    connected.started(job)

    connected.backend.queue.cancel(job)

    assert connected.ended(job).status == "canceled"
    versions = Versions(connected.backend.projects.folder(PROJECT))
    assert versions.names() == []
    assert eventually(lambda: not Path(script.calls("fit")[0]["workdir"]).exists())


def test_config_that_label_studio_has_lost_is_no_reason_to_fail(
    connected: Client, label_studio: FakeLabelStudio
) -> None:
    label_studio.project = {"id": 7}

    assert connected.ended(start(connected)).status == "finished"
    assert connected.backend.projects.get(PROJECT).label_config == LABEL_CONFIG


def test_model_is_told_which_tasks_are_a_random_sample(
    connected: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    order = in_random_order(PROJECT, range(1, 200))
    labeled = [*order[:3], *order[4:6]]
    label_studio.annotated = [
        {"id": task, "data": {"image": "/a.png"}, "annotations": [annotation(task, "Cat")]} for task in sorted(labeled)
    ]
    connected.ended(start(connected))
    keep_next(connected.backend.projects.folder(PROJECT), [order[3], *order[6:]], labeled)
    connected.ended(start(connected))

    unseen = {"lead_time": None, "parent_prediction": 8}
    label_studio.annotated = [
        {**task, "annotations": [{**task["annotations"][0], **(unseen if task["id"] == order[1] else {})}]}
        for task in label_studio.annotated
    ]
    connected.ended(start(connected))

    first, second, third = script.calls("fit")
    assert first["at_random"] == []
    assert second["at_random"] == sorted(order[:3])
    assert third["at_random"] == [order[0]]


# --- a training that is repeated ------------------------------------------------------------


def test_repeated_training_that_was_given_the_same_makes_no_version(connected: Client, script: Script) -> None:
    script.set(given="the same")
    [first] = connected.ended(start(connected)).result["versions"]
    again = connected.ended(start(connected))

    assert (again.status, again.result) == ("finished", {"versions": [], "known_to": first})
    name = first.partition("-")[0]
    page = connected.get(f"/projects/{PROJECT}", headers={"Accept": "text/html"})
    assert f'no new labels since <a href="/projects/{PROJECT}/versions/{first}">{name}</a>' in page
    script.set(given="other settings")
    assert connected.ended(start(connected)).result["versions"]


def test_repeated_training_that_made_no_version_notes_images_it_could_not_read(
    connected: Client, script: Script, label_studio: FakeLabelStudio
) -> None:
    """Perhaps it was given the same only because the images of the new labels couldn't be read."""
    label_studio.files["/a.png"] = Reply(503)
    script.set(given="the same")
    connected.ended(start(connected))
    script.set(given="the same", fetch_images=True)

    assert connected.ended(start(connected)).result["versions"] == []

    assert noted(connected).missed == [("/a.png", 1)]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (["/a.png"], "1 image couldn’t be read, and a later training run will try it again"),
        (["/a.png", "/b.png", "/b.png"], "2 images couldn’t be read, and a later training run will try them again"),
    ],
)
def test_page_says_how_many_images_a_training_that_made_no_version_could_not_read(
    connected: Client, script: Script, label_studio: FakeLabelStudio, images: list[str], said: str
) -> None:
    label_studio.files |= {image: Reply(503) for image in images}
    script.set(given="the same")
    [first] = connected.ended(start(connected)).result["versions"]
    label_studio.annotated = [
        {"id": number, "data": {"image": image}, "annotations": [annotation(number, "Cat")]}
        for number, image in enumerate(images, start=1)
    ]
    script.set(given="the same", fetch_images=True)

    result = connected.ended(start(connected)).result

    assert result == {"versions": [], "known_to": first, "unread": len(set(images))}
    page = connected.get(f"/projects/{PROJECT}", headers={"Accept": "text/html"})
    assert f">{first.partition('-')[0]}</a>; {said}</span>" in page


def test_class_that_does_not_say_what_it_was_given_is_trained_again(connected: Client) -> None:
    assert connected.ended(start(connected)).result["versions"]
    assert connected.ended(start(connected)).result["versions"]


def test_training_is_repeated_if_its_version_does_not_load(connected: Client, script: Script) -> None:
    script.set(given="the same")
    [name] = connected.ended(start(connected)).result["versions"]
    (versions_of(connected).get(name).folder / "model" / "weights.txt").unlink()
    assert connected.ended(start(connected)).result["versions"]


def test_training_is_repeated_if_its_version_is_damaged_and_another_live(connected: Client, script: Script) -> None:
    [first] = connected.ended(start(connected)).result["versions"]
    script.set(given="the same")
    [second] = connected.ended(start(connected)).result["versions"]
    versions_of(connected).activate(first)
    assert connected.ended(start(connected)).result["known_to"] == second

    (versions_of(connected).get(second).folder / "model" / "weights.txt").unlink()
    assert connected.ended(start(connected)).result["versions"]


def test_training_is_repeated_if_its_version_was_deleted(connected: Client, script: Script) -> None:
    [first] = connected.ended(start(connected)).result["versions"]
    script.set(given="the same")
    [second] = connected.ended(start(connected)).result["versions"]
    versions_of(connected).activate(first)
    versions_of(connected).delete(second)
    assert connected.ended(start(connected)).result["versions"]


def test_killed_training_is_repeated(connected: Client, script: Script) -> None:
    """It had published a version, but not yet trained everything."""
    script.set(given="the same", block="full published")
    job = start(connected)
    assert eventually(lambda: versions_of(connected).names())
    connected.backend.queue.cancel(job)
    assert connected.ended(job).status == "canceled"
    script.set(given="the same")
    assert connected.ended(start(connected)).result["versions"]


def test_correction_makes_the_next_training_a_new_one(
    connected: Client, script: Script, label_studio: FakeLabelStudio
) -> None:
    script.set(given="the same")
    connected.ended(start(connected))
    other = {**TASK, "annotations": [{"id": 5, "updated_at": "later", "result": [{"a": 2}]}]}
    label_studio.annotated = [other]
    connected.backend.projects.annotation_log(PROJECT).forget_tasks()
    assert connected.ended(start(connected, "head")).status == "finished"
    assert noted(connected).given == ""


# --- updates ------------------------------------------------------------------


@pytest.fixture
def updated(
    serve: Serve, script: Script, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """A backend whose live version was only updated with the last label; it trains only when a test says so."""
    monkeypatch.setattr(Backlog, "_tick", lambda self: 3600.0)
    monkeypatch.setattr(Reconciliation, "visit", lambda *given: None)
    label_studio.annotated = [TASK]
    url, key = label_studio.url, label_studio.pat
    with serve(label_studio_url=url, label_studio_api_key=key, retrain_after_annotations=1) as client:
        client.setup()
        assert run(client, saved(client, "full")).status == "finished"
        annotate_a_second_task(client)
        script.set(output={"updated": True})
        assert run(client, saved(client, "head")).status == "finished"
        script.set()
        yield client


def test_all_labels_are_learned_once_after_an_update(updated: Client, script: Script) -> None:
    assert noted(updated).updated == versions_of(updated).live_name()

    again, once_more = (run(updated, saved(updated, "head")) for _ in range(2))

    assert [len(job.result["versions"]) for job in (again, once_more)] == [1, 0]
    assert [call["tasks"] for call in script.calls("fit")] == [[1], [1, 2], [1, 2]]
    assert noted(updated).updated == ""


def test_update_that_was_rolled_back_is_left_alone(updated: Client, script: Script) -> None:
    first = versions_of(updated).names()[0]
    versions_of(updated).activate(first)

    assert run(updated, saved(updated, "head")).result["versions"] == []
    assert versions_of(updated).live_name() == first
    assert noted(updated).updated != ""


def test_training_on_all_labels_gives_way_to_a_new_label(updated: Client, script: Script) -> None:
    live, asked = versions_of(updated).live_name(), list[str]()
    script.block("fit")
    with ThreadPoolExecutor(1) as other:
        training = other.submit(run, updated, saved(updated, "head"), asked.append)
        assert eventually(lambda: len(script.calls("fit")) == 3)
        told = Change(annotation(3, "Dog"), {"id": 3, "data": {"image": "/c.png"}})
        updated.backend.projects.annotation_log(PROJECT).add([told])
        gave_way = eventually(training.done)
        script.release()
        ended = training.result()

    assert gave_way
    assert (ended.status, ended.result, asked) == ("finished", {"versions": []}, [PROJECT])
    assert versions_of(updated).live_name() == live
    assert updated.backend.projects.annotation_log(PROJECT).unlearned() == 1


def test_training_on_new_labels_gives_no_way(updated: Client, script: Script) -> None:
    """Otherwise steady labeling would keep all labels from being learned."""
    annotation_log = updated.backend.projects.annotation_log(PROJECT)
    annotation_log.add([Change(annotation(3, "Dog"), {"id": 3, "data": {"image": "/c.png"}})])
    script.block("fit")
    with ThreadPoolExecutor(1) as other:
        training = other.submit(run, updated, saved(updated, "head"))
        assert eventually(lambda: len(script.calls("fit")) == 3)
        annotation_log.add([Change(annotation(4, "Dog"), {"id": 4, "data": {"image": "/d.png"}})])
        script.release()
        ended = training.result()

    assert len(ended.result["versions"]) == 1
    assert annotation_log.unlearned() == 1


def test_killed_update_is_learned_again(updated: Client, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after its version went live, before it is noted what that has learned."""

    class Killed(BaseException):
        pass

    def killed(*given: Any, **options: Any) -> None:
        raise Killed

    before = noted(updated)
    annotation_log = updated.backend.projects.annotation_log(PROJECT)
    annotation_log.add([Change(annotation(3, "Dog"), {"id": 3, "data": {"image": "/c.png"}})])
    script.set(output={"updated": True})
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("my_backend.jobs.training_job.note", killed)
        run(updated, saved(updated, "head"))
    assert (noted(updated), annotation_log.unlearned()) == (before, 1)

    assert len(run(updated, saved(updated, "head")).result["versions"]) == 1

    assert noted(updated).updated == versions_of(updated).live_name()
    assert (learned_tasks(updated), annotation_log.unlearned()) == (3, 0)
