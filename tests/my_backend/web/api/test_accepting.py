"""The endpoints that accept answers without review: plan, sample, acceptance, audit, undo, and who may ask for them."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from label_studio_format.labeling_config import ImageChoices
from my_backend import files
from my_backend.errors import Conflict
from my_backend.label_studio import task_pages
from my_backend.labeling.auto_accept import acceptor, planner, records, sample_reader
from my_backend.labeling.auto_accept.checks import AUDITED_AT_ONCE
from my_backend.labeling.auto_accept.records import Acceptance, AcceptanceStore, PlannedPredictions
from my_backend.labeling.auto_accept.sample_reader import SampleReader
from my_backend.labeling.pool import all_projects
from my_backend.labeling.runs import writer
from my_backend.projects.project import Project
from testing.fake_label_studio.labels import FakeLabels
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.broken_disk import disk_error
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import LABEL_CONFIG, Script

TASKS = 300
NO_TOKEN = "not-a-token-of-label-studio"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, seconds in (
        (acceptor, "LOOK_SECONDS", 0.05),
        (acceptor, "READ_AGAIN", 0.05),
        (sample_reader, "ALL_AGAIN", 0.05),
        (acceptor, "UNASKED_AGAIN", 0.05),
        (acceptor, "RETRY_SECONDS", 0.05),
        (all_projects, "LISTED_AGAIN", 0.05),
        (all_projects, "RETRY_SECONDS", 0.05),
        (writer, "LOOK_SECONDS", 0.2),
    ):
        monkeypatch.setattr(module, name, seconds)
    monkeypatch.setattr(sample_reader, "READING_SHARE", 1.0)
    monkeypatch.setattr(planner, "SystemRandom", lambda: Random(1))
    monkeypatch.setattr(task_pages, "IDS_AT_ONCE", 70)


Start = Callable[..., Client]


@pytest.fixture
def start(serve: Serve, label_studio: FakeLabelStudio) -> Iterator[Start]:
    """Starts a backend that knows the project and its Label Studio; no event trains."""
    with ExitStack() as running:

        def start(**settings: Any) -> Client:
            told = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.pat}
            client = running.enter_context(serve(**{**told, "retrain_after_annotations": 0, **settings}))
            client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)
            return client

        yield start


@pytest.fixture
def client(start: Start, script: Script, label_studio: FakeLabelStudio) -> Client:
    """A backend whose live version says Cat to all of 300 tasks."""
    label_studio.labels.add(TASKS)
    script.set(learn="Cat")
    client = start()
    client.train()
    return client


def state(client: Client) -> Any:
    return client.get("/api/labeling/accept?project=7")


def ask(client: Client, what: str, status: int = 202, **more: Any) -> Any:
    options = {key: more.pop(key) for key in ("environ_base", "headers") if key in more}
    return client.post(f"/api/labeling/accept/{what}", {"project": 7, **more}, status, **options)


def reached(client: Client, wanted: Callable[[Any], Any]) -> Any:
    assert eventually(lambda: wanted(state(client))), state(client)
    return state(client)


def sampling(client: Client, **more: Any) -> Any:
    """A plan whose sample is to be labeled."""
    ask(client, "plan", **{"percent": 5, **more})
    return reached(client, lambda now: now["sample"])


def label_sample(client: Client, labels: FakeLabels, choice: str = "Cat") -> Any:
    """A person labels what is asked for; returns the state once the backend has seen it."""
    for task in sampling(client)["sample"]["left"]:
        labels.annotate(task, choice)
    return reached(client, lambda now: now["sample"] and not now["sample"]["left"])


def accepted(client: Client, labels: FakeLabels) -> Any:
    label_sample(client, labels)
    ask(client, "write")
    return reached(client, lambda now: now["run"] and now["run"]["status"] == "finished")


def accept_problems(client: Client) -> list[Any]:
    return [one for one in client.get("/problems")["troubles"] if one["code"] == "accepted-wrong"]


def test_first_guess_is_not_accepted(client: Client, script: Script) -> None:
    script.set(learn="Cat", output={"first_guess": {"classes": ["Cat"]}})
    client.train()
    ask(client, "plan", percent=5)
    assert "a first guess, made without labels" in reached(client, lambda now: now["error"])["error"]


def test_sample_is_labeled_the_rest_accepted_audited_and_undone(client: Client, label_studio: FakeLabelStudio) -> None:
    labels = label_studio.labels
    labels.annotate(7, "Dog")
    assert state(client)["status"] == "none"
    now = sampling(client)
    assert (now["status"], now["percent"], now["tasks"]) == ("sampling", 5, 299)
    assert now["version"].startswith("v1-")
    sample = now["sample"]
    assert (sample["labeled"], sample["wrong"], sample["possible"], now["acceptable"]) == (0, 0, True, None)
    assert 7 not in sample["left"]
    assert len(set(sample["left"])) == len(sample["left"]) < 200
    more = len(sample["left"])
    assert f"label {more} more tasks of the sample" in ask(client, "write", 409)["error"]

    labels.annotate(sample["left"][0], "Cat")
    assert len(reached(client, lambda now: now["sample"]["labeled"] == 1)["sample"]["left"]) == more - 1
    now = label_sample_of(client, labels)
    found = now["acceptable"]
    left = 299 - more
    assert (found["tasks"], found["labels"]) == (left, {"Cat": left})
    assert (found["checked"], found["wrong"], found["share"]) == (more, 0, left / 299)
    assert {one["task"] for one in found["examples"]}.isdisjoint(sample["left"])
    assert {one["label"] for one in found["examples"]} == {"Cat"}

    before = json.dumps(labels.choices())
    assert ask(client, "write") == {"status": "asked"}
    now = reached(client, lambda now: now["run"]["status"] == "finished")
    run = now["run"]["run"]
    assert (now["status"], now["run"]["kind"], now["run"]["written"]) == ("accepted", "accepted", left)
    assert labels.marks() == {f"image-classifier:accepted {run}"}
    assert all(len(some) == 1 for some in labels.choices().values())
    assert "no plan has a sample that is being labeled" in ask(client, "write", 409)["error"]

    audit = now["audit"]
    assert (audit["accepted"], audit["checked"], audit["wrong"], audit["contradicted"]) == (left, 0, 0, False)
    assert len(audit["next"]) == AUDITED_AT_ONCE
    second = audit["next"][1]["task"]
    ask(client, "audit", task=second, label="Cat")
    assert state(client)["audit"]["checked"] == 0, "the first of the random order isn't checked yet"
    ask(client, "audit", task=audit["next"][0]["task"], label="Cat")
    assert state(client)["audit"]["checked"] == 2
    ask(client, "audit", task=second, label="")
    assert state(client)["audit"]["wrong"] == 1
    assert (
        "isn't next in the audit's random order"
        in ask(client, "audit", 400, task=sample["left"][0], label="Cat")["error"]
    )
    assert "has no choice Bird" in ask(client, "audit", 400, task=second, label="Bird")["error"]

    ask(client, "undo")
    now = reached(client, lambda now: now["run"]["status"] == "finished")
    assert (now["status"], now["run"]["undone"], now["audit"]) == ("undone", left, None)
    assert json.dumps(labels.choices()) == before
    assert sampling(client)["tasks"] == left, "a new plan is for what is left"


def label_sample_of(client: Client, labels: FakeLabels) -> Any:
    """A person labels what the newest plan asks for."""
    for task in state(client)["sample"]["left"]:
        labels.annotate(task, "Cat")
    return reached(client, lambda now: now["acceptable"])


def test_audit_against_the_promise_is_a_problem_until_labels_are_undone(
    client: Client, label_studio: FakeLabelStudio
) -> None:
    now = accepted(client, label_studio.labels)
    while not now["audit"]["contradicted"]:
        ask(client, "audit", task=now["audit"]["next"][0]["task"], label="Dog")
        now = state(client)
    assert now["audit"]["checked"] < 10
    assert now["audit"]["low"] > 0.05
    [problem] = accept_problems(client)
    assert "but the limit is 5%" in problem["message"]
    assert "label accept undo --project 7" in problem["hint"]
    assert "undo its labels first" in ask(client, "plan", 409, percent=5)["error"]
    ask(client, "undo")
    reached(client, lambda now: now["status"] == "undone" and now["run"]["status"] == "finished")
    assert eventually(lambda: accept_problems(client) == [])
    ask(client, "plan", percent=5)


def test_labels_are_accepted_automatically_until_the_audit_contradicts(
    client: Client, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = sampling(client)
    assert (now["automatic"], now["stopped"]) == (False, None)
    ask(client, "automatic", on=True)
    assert state(client)["automatic"] is True
    monkeypatch.setattr(acceptor, "ASKED_SECONDS", 0.0)  # nobody looks
    for task in now["sample"]["left"]:
        label_studio.labels.annotate(task, "Cat")
    runs = client.backend.labeling.store
    assert eventually(lambda: [run for run in runs.of_project(PROJECT) if run.status == "finished"])
    [run] = runs.of_project(PROJECT)
    assert (run.kind, run.written) == ("accepted", TASKS - len(now["sample"]["left"]))
    now = reached(client, lambda now: now["audit"])
    for image in now["audit"]["next"]:
        ask(client, "audit", task=image["task"], label="Dog")
    assert (state(client)["automatic"], state(client)["stopped"]) == (False, "the audit contradicts the guarantee")
    ask(client, "undo")
    reached(client, lambda now: now["status"] == "undone" and now["run"]["status"] == "finished")
    ask(client, "automatic", on=True)
    ask(client, "automatic", on=False)
    assert (state(client)["automatic"], state(client)["stopped"]) == (False, None)


def test_automatic_acceptance_without_a_token_says_why_it_waits(
    start: Start, label_studio: FakeLabelStudio, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_studio.labels.add(TASKS)
    script.set(learn="Cat")
    client = start()
    client.train()
    sampling(client)
    ask(client, "automatic", on=True)

    def refused(*args: Any, **more: Any) -> None:
        raise Conflict("can't write to Label Studio without a token")

    monkeypatch.setattr(client.backend.labeling, "submit", refused)
    for task in state(client)["sample"]["left"]:
        label_studio.labels.annotate(task, "Cat")
    now = reached(client, lambda now: now["error"])
    assert "without a token" in now["error"]
    assert (now["status"], bool(now["acceptable"])) == ("sampling", True)


def test_labels_undone_as_a_run_contradict_nothing(client: Client, label_studio: FakeLabelStudio) -> None:
    now = accepted(client, label_studio.labels)
    for image in now["audit"]["next"]:
        ask(client, "audit", task=image["task"], label="Dog")
    assert accept_problems(client)
    client.post(f"/api/labeling/runs/{now['run']['run']}/undo", {}, 202)
    assert eventually(lambda: accept_problems(client) == [])
    assert state(client)["status"] == "undone"


def contradicted(client: Client, labels: FakeLabels) -> Any:
    """Accepted labels whose audit contradicts the guarantee."""
    now = accepted(client, labels)
    while not now["audit"]["contradicted"]:
        ask(client, "audit", task=now["audit"]["next"][0]["task"], label="Dog")
        now = state(client)
    return now


def test_audit_during_a_look_is_not_forgotten(
    client: Client, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = accepted(client, label_studio.labels)
    looks = client.backend.acceptor
    looks.stop()
    plan, predictions = looks.store.newest(PROJECT), looks.store.predictions
    assert plan is not None

    def audited_meanwhile(asked: Acceptance) -> PlannedPredictions:
        monkeypatch.setattr(looks.store, "predictions", predictions)
        for image in now["audit"]["next"]:
            ask(client, "audit", task=image["task"], label="Dog")
        return predictions(asked)

    monkeypatch.setattr(looks.store, "predictions", audited_meanwhile)
    looks._follow(plan)

    assert accept_problems(client)


def test_undo_of_one_accepted_label_leaves_the_contradiction(client: Client, label_studio: FakeLabelStudio) -> None:
    now = contradicted(client, label_studio.labels)
    run = now["run"]["run"]
    plan = json.loads((client.backend.projects.folder(PROJECT) / "labeling" / run / "plan.json").read_text())

    client.post(f"/api/labeling/runs/{run}/undo", {"tasks": [plan[0]["tasks"][0]]}, 202)

    now = reached(client, lambda now: (now["run"]["action"], now["run"]["status"]) == ("undo", "finished"))
    assert (now["status"], now["audit"]["contradicted"]) == ("accepted", True)
    assert eventually(lambda: accept_problems(client))
    ask(client, "plan", 409, percent=5)
    ask(client, "undo")
    assert reached(client, lambda now: now["status"] == "undone" and now["run"]["status"] == "finished")
    assert label_studio.labels.marks() == set()


def test_undo_from_outdated_page_keeps_newer_plan(client: Client, label_studio: FakeLabelStudio) -> None:
    first = sampling(client)["plan"]
    ask(client, "plan", percent=5, replace=True)
    second = reached(client, lambda now: now["plan"] != first and now["status"] == "sampling")["plan"]

    assert "there is a newer plan" in ask(client, "undo", 409, plan=first)["error"]

    assert state(client)["status"] == "sampling"
    ask(client, "undo", plan=second)
    assert state(client)["status"] == "undone"


def test_plan_that_is_replaced_while_it_is_accepted_writes_no_labels(
    client: Client, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its labels could neither be checked nor undone on the page."""
    label_sample(client, label_studio.labels)
    used = client.backend.acceptor
    real = used._tag_for

    def replaced_by_another_server(acceptance: Acceptance, project: Project) -> ImageChoices:
        used.store.create(PROJECT, 0.05)
        return real(acceptance, project)

    with monkeypatch.context() as patch:
        patch.setattr(used, "_tag_for", replaced_by_another_server)
        with pytest.raises(Conflict, match="just been replaced"):
            used.accept(client.backend.projects.get(PROJECT))
    assert client.backend.labeling.store.of_project(PROJECT) == []


def test_undo_after_a_crash_before_there_was_a_run_gives_up_the_plan(
    client: Client, label_studio: FakeLabelStudio
) -> None:
    plan = sampling(client)["plan"]
    store = client.backend.acceptor.store
    newest = store.newest(PROJECT)
    assert newest is not None
    store.save(replace(newest, status="accepted", run="20260101T000000-abcdef"))

    ask(client, "undo", plan=plan)

    assert state(client)["status"] == "undone"


def test_contradicted_plan_cannot_be_replaced(client: Client, label_studio: FakeLabelStudio) -> None:
    contradicted(client, label_studio.labels)
    assert "undo its labels first" in ask(client, "plan", 409, percent=5, replace=True)["error"]


def test_labels_given_before_accepted_ones_are_written_end_the_promise(
    client: Client, label_studio: FakeLabelStudio
) -> None:
    labels = label_studio.labels
    sample = sampling(client)["sample"]["left"]
    label_sample_of(client, labels)
    labels.failing.add("import")
    ask(client, "write")
    reached(client, lambda now: now["run"] and now["run"]["error"])
    others = [task for task in range(1, TASKS + 1) if task not in sample]
    for task in others[:-20]:
        labels.annotate(task, "Cat")
    labels.failing.clear()
    client.backend.labeling._retries.clear()

    now = reached(client, lambda now: now["run"]["status"] == "finished")

    assert now["run"]["written"] == 20
    assert (now["audit"]["contradicted"], now["audit"]["overtaken"]) == (True, len(others) - 20)
    assert eventually(lambda: accept_problems(client))
    assert "no longer shows" in accept_problems(client)[0]["message"]
    ask(client, "undo")
    assert reached(client, lambda now: now["status"] == "undone" and now["run"]["status"] == "finished")
    assert eventually(lambda: not accept_problems(client))


def test_few_labels_that_people_give_meanwhile_leave_the_promise(client: Client, label_studio: FakeLabelStudio) -> None:
    labels = label_studio.labels
    sample = sampling(client)["sample"]["left"]
    label_sample_of(client, labels)
    labels.failing.add("import")
    ask(client, "write")
    reached(client, lambda now: now["run"] and now["run"]["error"])
    labels.annotate(next(task for task in range(1, TASKS + 1) if task not in sample), "Cat")
    labels.failing.clear()
    client.backend.labeling._retries.clear()

    now = reached(client, lambda now: now["run"]["status"] == "finished")

    assert (now["audit"]["contradicted"], now["audit"]["overtaken"]) == (False, 1)


@pytest.mark.parametrize("name", ["plan.json", "state.json"])
def test_disk_that_is_full_while_labels_are_accepted_leaves_the_sample(
    client: Client, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    label_sample(client, label_studio.labels)
    real = files.write_json

    def full(path: Path, value: Any, **options: Any) -> None:
        if path.name == name:
            path.parent.mkdir(parents=True, exist_ok=True)
            raise disk_error()
        real(path, value, **options)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_json", full)
        ask(client, "write", 507)
    now = state(client)
    assert (now["status"], now["run"]) == ("sampling", None)
    ask(client, "write")
    assert reached(client, lambda now: now["run"] and now["run"]["status"] == "finished")["run"]["written"] > 0


def test_newest_plan_counts_although_the_clock_was_set_back(
    client: Client, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sampling(client)["plan"]
    now = time.time()
    monkeypatch.setattr(records.time, "time", lambda: now - 3600)

    ask(client, "plan", percent=1, replace=True)

    assert reached(client, lambda now: now["plan"] != first)["percent"] == 1


def test_project_whose_disk_is_full_says_why_and_delays_no_other(
    client: Client, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = files.write_json

    def full(path: Path, value: Any, **options: Any) -> None:
        if path.name == "answers.json" or (path.name == "acceptance.json" and value["error"]):
            raise disk_error()
        real(path, value, **options)

    monkeypatch.setattr(files, "write_json", full)
    ask(client, "plan", percent=5)
    assert "No space left" in reached(client, lambda now: now["error"])["error"]
    client.backend.acceptor._tick()


def test_contradiction_is_known_after_a_restart(client: Client, start: Start, label_studio: FakeLabelStudio) -> None:
    now = accepted(client, label_studio.labels)
    for image in now["audit"]["next"]:
        ask(client, "audit", task=image["task"], label="Dog")
    client.backend.acceptor._contradicted.clear()
    assert eventually(lambda: accept_problems(client))


def test_model_that_is_often_wrong_gets_nothing_accepted(client: Client, label_studio: FakeLabelStudio) -> None:
    now = label_sample(client, label_studio.labels, "Dog")
    assert (now["acceptable"], now["sample"]["possible"]) == (None, False)
    assert now["sample"]["wrong"] == now["sample"]["labeled"] > 0
    assert "train a better model, then make a new plan" in ask(client, "write", 409)["error"]


def test_plan_whose_choices_are_renamed_says_so_and_counts_nothing_as_wrong(
    client: Client, label_studio: FakeLabelStudio
) -> None:
    labels = label_studio.labels
    now = sampling(client)
    first, second = now["sample"]["left"][:2]
    labels.annotate(first, "Cat")
    reached(client, lambda now: now["sample"]["labeled"] == 1)
    client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG.replace("Cat", "Kitty"))
    labels.annotate(second, "Kitty")

    now = reached(client, lambda now: now["error"])

    assert "it predicts Cat, which the labeling config no longer has" in now["error"]
    assert now["sample"]["wrong"] == 0
    assert ask(client, "write", 409)["error"] == now["error"]
    client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)
    labels.annotate(second, "Cat")
    assert reached(client, lambda now: not now["error"])
    assert label_sample_of(client, labels)["acceptable"]


def test_audit_whose_choices_are_renamed_counts_nothing_as_wrong(client: Client, label_studio: FakeLabelStudio) -> None:
    task = accepted(client, label_studio.labels)["audit"]["next"][0]["task"]
    client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG.replace("Cat", "Kitty"))

    for label in ("Kitty", ""):
        why = ask(client, "audit", 409, task=task, label=label)["error"]
        assert "it predicts Cat, which the labeling config no longer has" in why
    assert state(client)["audit"]["checked"] == 0
    client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)
    ask(client, "audit", task=task, label="Cat")
    assert state(client)["audit"]["wrong"] == 0


def test_audit_goes_on_without_a_choice_that_no_accepted_task_has(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    script.set(learn="Cat", others={"0": "Dog"})
    sampling(client)
    label_studio.labels.annotate(1, "Dog")  # so its prediction isn't accepted
    label_sample_of(client, label_studio.labels)
    ask(client, "write")
    now = reached(client, lambda now: now["run"] and now["run"]["status"] == "finished")
    client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG.replace('<Choice value="Dog"/>', ""))

    ask(client, "audit", task=now["audit"]["next"][0]["task"], label="Cat")

    assert state(client)["audit"]["checked"] == 1


def test_queue_hides_answers_to_planned_tasks_until_the_plan_ends(
    client: Client, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = label_studio.labels
    labels.annotate(1, "Cat")

    def queued(*tasks: int) -> Any:
        return client.post("/api/labeling/queue", {"project": 7, **({"tasks": tasks} if tasks else {})})["images"]

    def hidden(image: Any) -> bool:
        told = (image["proposal"], image["probabilities"], image["nearest"])
        assert (told == (None, {}, [])) == image["withheld"]
        return bool(image["withheld"])

    first, *_, last = sampling(client)["sample"]["left"]
    assert all(map(hidden, queued(first, last)))
    assert all(map(hidden, queued())), "others may become part of the sample later"
    labels.add(1)
    assert eventually(lambda: queued(TASKS + 1))
    assert not hidden(queued(TASKS + 1)[0])

    ask(client, "undo")
    assert (state(client)["status"], state(client)["run"]) == ("undone", None)
    assert not any(map(hidden, queued(first, last)))
    assert "nothing to undo" in ask(client, "undo", 409)["error"]

    store = client.backend.acceptor.store
    label_sample(client, labels)  # of a new plan
    assert first in store.sampled(store.newest(PROJECT))
    waiting = store.newest(PROJECT)
    ask(client, "write")
    assert first not in store.sampled(store.newest(PROJECT))
    with monkeypatch.context() as patched:
        patched.setattr(store, "newest", lambda _: waiting)  # as it was just before the labels were accepted
        ask(client, "undo")
    reached(client, lambda now: now["run"] and (now["run"]["action"], now["status"]) == ("undo", "undone"))


def test_damaged_plan_hides_no_answers(client: Client, tmp_path: Path) -> None:
    task = sampling(client)["sample"]["left"][0]
    [answers] = tmp_path.rglob("answers.json")
    answers.write_text("{")
    store = AcceptanceStore(client.backend.projects.root)  # of another process, which hasn't read them yet
    assert task not in store.sampled(store.newest(PROJECT))


def test_answers_stay_fixed_while_the_model_learns(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    version = sampling(client)["version"]
    script.set(learn="Dog")
    client.train()
    now = label_sample_of(client, label_studio.labels)
    assert (now["version"], set(now["acceptable"]["labels"])) == (version, {"Cat"})


def test_plan_is_prepared_again_if_label_studio_goes_away_meanwhile(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    script.block("near_duplicates", learn="Cat")
    ask(client, "plan", percent=5)
    assert eventually(lambda: script.calls("near_duplicates"))
    label_studio.labels.failing.add("list")  # the tasks are listed once more
    script.release()
    assert "500" in reached(client, lambda now: now["error"])["error"]
    assert not client.post("/api/labeling/queue", {"project": 7})["images"][0]["withheld"]
    label_studio.labels.annotate(1, "Cat")  # while the prediction is shown

    label_studio.labels.failing.clear()

    assert reached(client, lambda now: now["sample"])["tasks"] == TASKS - 1


def test_near_duplicates_are_planned_one_by_one(client: Client, label_studio: FakeLabelStudio, script: Script) -> None:
    script.set(learn="Cat", alike=[1, 2, 3], unsure=[1])
    assert sampling(client)["tasks"] == TASKS
    label_sample_of(client, label_studio.labels)
    [predictions] = client.backend.acceptor.store._predictions.values()
    alike = [predictions.by_task[task] for task in (1, 2, 3)]
    assert len({image.group for image in predictions.images}) == TASKS - 2
    assert len({image.group for image in alike}) == 1
    assert sorted(image.probability for image in alike) == [0.6, 0.999, 0.999]


def test_labels_given_while_the_plan_is_prepared_do_not_count_and_predictions_are_hidden(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    script.block("near_duplicates", learn="Cat")
    ask(client, "plan", percent=5)
    assert eventually(lambda: script.calls("near_duplicates"))
    queued = client.post("/api/labeling/queue", {"project": 7, "most": 50})["images"]
    assert [image["withheld"] for image in queued] == [True] * len(queued)
    for task in range(1, 101):
        label_studio.labels.annotate(task, "Cat")
    script.release()

    now = reached(client, lambda now: now["sample"])

    assert (now["tasks"], now["sample"]["labeled"]) == (TASKS - 100, 0)


def test_plan_survives_a_crash_at_every_step(
    client: Client, label_studio: FakeLabelStudio, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state on disk is what another process finds; the memory of this one is thrown away."""
    labels, backend = label_studio.labels, client.backend

    def forget() -> None:
        backend.acceptor._works.clear()
        backend.acceptor.store = AcceptanceStore(backend.projects.root)
        backend.acceptor._reader = SampleReader(backend.projects, backend.connections, backend.acceptor.store)

    script.block("near_duplicates")
    ask(client, "plan", percent=5)
    assert eventually(lambda: script.calls("near_duplicates"))
    assert state(client)["status"] == "preparing"
    forget()
    script.set(learn="Cat")
    script.release()
    now = reached(client, lambda now: now["sample"])
    left = now["sample"]["left"]
    for task in left[:50]:
        labels.annotate(task, "Cat")
    forget()
    assert reached(client, lambda now: now["sample"])["sample"]["left"] == left[50:]
    for task in left[50:]:
        labels.annotate(task, "Cat")
    reached(client, lambda now: now["acceptable"])

    def dies(*args: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # after the decision is stored, before there is a run
        patched.setattr(backend.labeling, "submit", dies)
        patched.setattr(backend.acceptor.store, "save", once(backend.acceptor.store.save))
        with pytest.raises(KeyboardInterrupt):
            backend.acceptor.accept(backend.projects.get(PROJECT))
    forget()
    now = reached(client, lambda now: now["status"] == "sampling" and now["acceptable"])
    assert now["acceptable"]["tasks"] == TASKS - len(left)
    ask(client, "write")
    now = reached(client, lambda now: now["run"] and now["run"]["status"] == "finished")
    forget()
    assert state(client)["audit"]["next"] == now["audit"]["next"]


def once(do: Callable[..., Any]) -> Callable[..., Any]:
    """Does it the first time, and nothing afterwards: the process has died."""
    done: list[int] = []

    def call(*args: Any) -> Any:
        if not done:
            done.append(1)
            return do(*args)
        return args[0]

    return call


def test_plan_waits_for_what_it_needs_and_says_so(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.failing.add("list")
    ask(client, "plan", percent=5)
    assert "500" in reached(client, lambda now: now["error"])["error"]
    label_studio.labels.failing.clear()
    assert reached(client, lambda now: now["status"] == "sampling")["error"] is None
    assert "isn't finished" in ask(client, "plan", 409, percent=5)["error"]
    first = state(client)["plan"]
    assert sampling(client, replace=True)["plan"] != first
    label_studio.labels.failing.add("look")
    label_studio.labels.annotate(1, "Cat")
    assert "500" in reached(client, lambda now: now["error"])["error"]


def test_projects_that_can_have_no_plan_are_told_why(
    start: Start, label_studio: FakeLabelStudio, script: Script
) -> None:
    client = start()
    label_studio.labels.add(20)
    ask(client, "plan", percent=5)
    assert "there is no trained model yet" in reached(client, lambda now: now["error"])["error"]
    script.set(learn="Cat")
    client.train()
    assert "20 unlabeled images are too few" in reached(client, lambda now: "too few" in (now["error"] or ""))["error"]
    ask(client, "plan", percent=2)  # no sample is lost
    reached(client, lambda now: now["percent"] == 2 and now["error"])
    several = LABEL_CONFIG.replace("<Choices ", '<Choices choice="multiple" ')
    client.backend.projects.remember("8.1", label_config=several)
    answer = client.post("/api/labeling/accept/plan", {"project": "8.1", "percent": 5}, 409)
    assert "one choice per image" in answer["error"]
    assert client.post("/api/labeling/accept/plan", {"project": 7, "percent": 3}, 400)
    for what, words in (("write", "no plan has a sample that is being labeled"), ("undo", "nothing to undo")):
        assert words in ask(client, what, 409)["error"]
    assert "nothing to check" in ask(client, "audit", 409, task=1, label="Cat")["error"]


def test_failed_plan_is_not_repeated_when_nobody_asks(
    start: Start, label_studio: FakeLabelStudio, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start()
    label_studio.labels.add(20)
    ask(client, "plan", percent=5)
    reached(client, lambda now: now["error"])
    monkeypatch.setattr(acceptor, "ASKED_SECONDS", 0.0)  # nobody looks
    backend = client.backend.acceptor
    attempts: list[str] = []
    monkeypatch.setattr(backend, "_prepare", lambda *given: attempts.append("prepare"))
    looks: list[str] = []
    real = backend._go_on

    def counted(*given: Any) -> None:
        real(*given)
        looks.append("look")

    monkeypatch.setattr(backend, "_go_on", counted)
    time_to_retry = acceptor.time.monotonic() + 2 * acceptor.RETRY_SECONDS

    assert eventually(lambda: len(looks) > 5 and acceptor.time.monotonic() > time_to_retry)

    newest = backend.store.newest(PROJECT)
    assert newest is not None
    assert (attempts, newest.status) == ([], "preparing")
    assert "there is no trained model yet" in newest.error


def test_sample_is_read_although_label_studio_limits_its_pages(client: Client, label_studio: FakeLabelStudio) -> None:
    label_studio.labels.page_tasks = 20

    now = label_sample(client, label_studio.labels)

    assert (now["sample"]["lost"], now["sample"]["wrong"]) == ([], 0), "no task was deleted"
    assert now["acceptable"]["tasks"] == TASKS - now["sample"]["labeled"]


def test_plan_that_is_being_prepared_can_be_discarded(client: Client, script: Script) -> None:
    script.block("near_duplicates")
    ask(client, "plan", percent=5)
    assert eventually(lambda: script.calls("near_duplicates"))
    plan = state(client)["plan"]

    ask(client, "undo", plan=plan)

    assert state(client)["status"] == "undone"
    script.release()
    ask(client, "plan", percent=5)
    assert reached(client, lambda now: now["sample"])["plan"] != plan


@pytest.mark.parametrize("what", ["plan", "write", "audit", "undo", "automatic"])
def test_caller_without_password_or_token_is_refused(start: Start, label_studio: FakeLabelStudio, what: str) -> None:
    client = start(host="0.0.0.0")
    body = {"percent": 5, "task": 1, "label": "Cat", "on": True}
    assert "password" in ask(client, what, 403, **body)["error"]
    assert ask(client, what, **body, token=NO_TOKEN) == {"status": "asked"}
    assert eventually(lambda: any(one["code"] == "refused" for one in client.get("/problems")["troubles"]))
    assert (state(client)["status"], state(client)["automatic"]) == ("none", False)


def test_stranger_with_a_token_accepts_and_undoes(start: Start, label_studio: FakeLabelStudio, script: Script) -> None:
    label_studio.labels.add(TASKS)
    script.set(learn="Cat")
    client = start(host="0.0.0.0")
    client.train()
    mine = {"token": label_studio.pat}
    ask(client, "plan", percent=5, **mine)
    reached(client, lambda now: now["sample"])
    label_sample_of(client, label_studio.labels)
    ask(client, "write", **mine)
    now = reached(client, lambda now: now["run"] and now["run"]["status"] == "finished")
    ask(client, "audit", task=now["audit"]["next"][0]["task"], label="Cat", **mine)
    reached(client, lambda now: now["audit"]["checked"] == 1)
    ask(client, "undo", **mine)
    reached(client, lambda now: now["status"] == "undone" and now["run"]["status"] == "finished")


def test_choice_that_only_the_task_offers_counts_against_the_prediction(
    client: Client, label_studio: FakeLabelStudio
) -> None:
    dynamic = LABEL_CONFIG.replace("<Choices ", '<Choices value="$options" ')
    client.backend.projects.remember(PROJECT, label_config=dynamic)
    for task in label_studio.labels.tasks.values():
        task["data"]["options"] = ["Bird"]
    for task in sampling(client)["sample"]["left"]:
        label_studio.labels.annotate(task, "Bird")
    now = reached(client, lambda now: now["sample"] and not now["sample"]["left"])
    assert now["sample"]["wrong"] == now["sample"]["labeled"] > 0


def test_tasks_being_written_by_another_run_are_not_planned(
    client: Client, label_studio: FakeLabelStudio, script: Script
) -> None:
    label_studio.labels.failing.add("import")
    body = {"project": 7, "labels": [{"label": "Dog", "tasks": [1, 2]}]}
    run = client.post("/api/labeling/runs", body, 202)["run"]
    assert eventually(lambda: client.get(f"/api/labeling/runs/{run}")["error"])
    assert sampling(client)["tasks"] == TASKS - 2
