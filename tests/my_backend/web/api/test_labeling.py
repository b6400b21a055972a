"""The endpoints that label many tasks at once: who may ask, as whom it writes, and what is told."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from my_backend.jobs.reconciliation import Reconciliation
from my_backend.labeling.runs import attempt, writer
from my_backend.labeling.runs.records import Labels, RunStore, new_run_id
from my_backend.labeling.runs.writer import Writer
from my_backend.token_gate import TokenGate
from safe_http.redaction import redact
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import SECONDS, eventually
from tests.my_backend.conftest import PROJECT, Client, Serve, basic
from tests.my_backend.fake_model import LABEL_CONFIG, Script
from tests.my_backend.web.api.test_groups import SEVERAL
from tests.stored import texts

ELSEWHERE = {"REMOTE_ADDR": "192.0.2.7"}
OPEN: dict[str, Any] = {"host": "0.0.0.0"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(writer, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(attempt, "BATCH_TASKS", 4)


@pytest.fixture
def start(serve: Serve, label_studio: FakeLabelStudio) -> Iterator[Any]:
    """Starts a backend that knows the project and its Label Studio."""
    with ExitStack() as running:

        def start(**settings: Any) -> Client:
            given = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.pat, **settings}
            client = running.enter_context(serve(**given))
            client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)
            return client

        yield start


NO_TOKEN = "not-a-token-of-label-studio"


def label(client: Client, tasks: list[int], status: int = 202, **more: Any) -> Any:
    options = {key: more.pop(key) for key in ("environ_base", "headers") if key in more}
    body = {"project": 7, "labels": [{"label": "Cat", "tasks": tasks}], **more}
    return client.post("/api/labeling/runs", body, status, **options)


def ended(client: Client, run: str) -> Any:
    path = f"/api/labeling/runs/{run}"
    assert eventually(lambda: client.get(path)["status"] in ("finished", "failed")), client.get(path)
    return client.get(path)


def labeling_problems(client: Client) -> list[Any]:
    return [one for one in client.get("/problems")["troubles"] if one["code"] in ("labeling", "refused")]


def test_run_is_started_followed_listed_and_undone(start: Any, label_studio: FakeLabelStudio) -> None:
    client, tasks = start(), label_studio.labels.add(10)

    asked = label(client, tasks)
    assert (asked["status"], asked["tasks"], asked["project"]) == ("queued", 10, PROJECT)
    run = ended(client, asked["run"])
    assert (run["status"], run["action"], run["written"], run["error"]) == ("finished", "write", 10, None)
    assert run["request_id"]
    second = ended(client, label(client, tasks[:2], kind="single")["run"])
    assert (run["kind"], second["kind"]) == ("group", "single")
    assert second["left_alone"] == {"deleted": [], "labeled": tasks[:2], "changed": []}
    listed = client.get("/api/labeling/runs?project=7")["runs"]
    assert [one["run"] for one in listed] == [second["run"], run["run"]]

    assert "tasks" in client.post(f"/api/labeling/runs/{run['run']}/undo", {"tasks": []}, 400)["error"]
    undone = client.post(f"/api/labeling/runs/{run['run']}/undo", {}, 202)
    assert (undone["action"], undone["status"]) == ("undo", "queued")
    assert ended(client, run["run"])["undone"] == 10
    assert set(map(tuple, label_studio.labels.choices().values())) == {()}
    assert client.post("/api/labeling/runs/20260101T000000-abcdef/undo", {}, 404)
    assert labeling_problems(client) == []


def test_request_that_is_repeated_starts_one_run(start: Any, label_studio: FakeLabelStudio) -> None:
    """The answer to the first one may have been lost."""
    client, tasks = start(), label_studio.labels.add(3)
    run = ended(client, label(client, tasks, idempotency_key="a1")["run"])

    assert label(client, tasks, idempotency_key="a1") == run
    for more in ({"kind": "single"}, {"labels": [{"label": "Dog", "tasks": tasks}]}):
        error = label(client, tasks, 409, idempotency_key="a1", **more)["error"]
        assert f"labeling run {run['run']} has the same key" in error
    others = [label(client, tasks, **key)["run"] for key in ({}, {}, {"idempotency_key": "a2"})]

    listed = {one["run"] for one in client.get("/api/labeling/runs")["runs"]}
    assert listed == {run["run"], *others}
    assert len(listed) == 4
    client.post(f"/api/labeling/runs/{run['run']}/undo", {}, 202)
    assert ended(client, run["run"])["undone"] == 3


def test_run_is_found_by_its_key_after_its_choice_was_removed(start: Any, label_studio: FakeLabelStudio) -> None:
    client, tasks = start(), label_studio.labels.add(1)
    run = ended(client, label(client, tasks, idempotency_key="a1")["run"])
    client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG.replace("Cat", "Horse"))

    assert label(client, tasks, idempotency_key="a1") == run
    assert "no choice Cat" in label(client, tasks, 400, idempotency_key="a2")["error"]


def test_repeated_request_brings_the_token_that_a_restart_has_lost(start: Any, label_studio: FakeLabelStudio) -> None:
    client, tasks = start(), label_studio.labels.add(2)
    label_studio.labels.failing = {"look"}
    key = {"token": label_studio.pat, "idempotency_key": "a1"}
    run = label(client, tasks, **key)["run"]
    assert eventually(lambda: client.get(f"/api/labeling/runs/{run}")["error"])
    client.backend.labeling._tokens.clear()  # as after a restart
    label_studio.labels.failing = set()

    assert label(client, tasks, **key)["run"] == run
    assert ended(client, run)["written"] == 2


def test_choice_that_appears_twice_in_a_label_is_refused(start: Any, label_studio: FakeLabelStudio) -> None:
    client, tasks = start(), label_studio.labels.add(1)
    client.backend.projects.remember(PROJECT, label_config=SEVERAL)

    body = {"project": 7, "labels": [{"label": ["Dog", "Cat", "Dog"], "tasks": tasks}]}
    assert "the choice Dog appears twice in one label" in client.post("/api/labeling/runs", body, 400)["error"]

    assert client.get("/api/labeling/runs")["runs"] == []


def test_tasks_that_get_another_label_while_their_undo_has_to_wait_get_it(
    start: Any, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "LONGEST_SECONDS", 0.1)
    client, tasks = start(), label_studio.labels.add(3)
    first = ended(client, label(client, tasks)["run"])["run"]
    label_studio.labels.failing.add("remove_all")
    client.post(f"/api/labeling/runs/{first}/undo", {"tasks": tasks[:1]}, 202)
    assert eventually(lambda: client.get(f"/api/labeling/runs/{first}")["error"])
    body = {"project": 7, "labels": [{"label": "Dog", "tasks": tasks[:1]}]}
    second = client.post("/api/labeling/runs", body, 202)["run"]
    looked = label_studio.labels.requests.count("remove_all")
    assert eventually(lambda: label_studio.labels.requests.count("remove_all") >= looked + 2)
    label_studio.labels.failing.clear()

    assert ended(client, second)["written"] == 1
    assert label_studio.labels.choices() == {1: ["Dog"], 2: ["Cat"], 3: ["Cat"]}


def test_request_does_not_wait_for_label_studio(start: Any, label_studio: FakeLabelStudio) -> None:
    client, tasks, go = start(), label_studio.labels.add(1), threading.Event()

    def hang(name: str) -> None:
        assert go.wait(SECONDS)

    label_studio.labels.before = hang
    try:
        asked = label(client, tasks)
        client.post(f"/api/labeling/runs/{asked['run']}/undo", {}, 202)
    finally:
        go.set()
    assert ended(client, asked["run"])["action"] == "undo"


# Who may ask


@pytest.mark.parametrize("path", ["/api/labeling/runs", "/api/labeling/runs/{run}/undo", "/delete"])
def test_caller_without_password_or_token_is_refused(
    start: Any, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    client, tasks = start(**OPEN), label_studio.labels.add(2)
    run = label(client, tasks, token=label_studio.pat)["run"]
    assert ended(client, run)["written"] == 2
    body = {"project": 7, "labels": [{"label": "Cat", "tasks": tasks}]}

    for caller in ({}, {"environ_base": ELSEWHERE}):
        error = client.post(path.format(run=run), body, 403, **caller)["error"]
        assert "password" in error
        assert "token" in error
    assert [one["run"] for one in client.get("/api/labeling/runs")["runs"]] == [run]
    assert client.get(f"/api/labeling/runs/{run}")["action"] == "write"


def test_caller_with_the_password_needs_no_token(start: Any, label_studio: FakeLabelStudio) -> None:
    client, headers = start(**OPEN, basic_auth_user="me", basic_auth_pass="secret"), basic("me", "secret")
    tasks = label_studio.labels.add(2)

    label(client, tasks, 401)
    run = label(client, tasks, headers=headers)["run"]

    assert eventually(lambda: client.backend.labeling.store.get(run).written == 2)
    assert client.post("/delete", {"project": 7}, headers=headers) == {"deleted": PROJECT}


def test_proxy_on_this_machine_speaks_for_nobody(start: Any, label_studio: FakeLabelStudio) -> None:
    client, tasks = start(), label_studio.labels.add(1)

    label(client, tasks, 403, headers={"X-Forwarded-For": "192.0.2.7"})


def test_token_that_label_studio_rejects_changes_nothing(start: Any, label_studio: FakeLabelStudio) -> None:
    client, tasks = start(**OPEN), label_studio.labels.add(2)
    run = ended(client, label(client, tasks, token=label_studio.pat)["run"])["run"]

    failed = ended(client, label(client, tasks, token=NO_TOKEN)["run"])
    client.post(f"/api/labeling/runs/{run}/undo", {"token": NO_TOKEN}, 202)
    client.post("/delete", {"project": 7, "token": NO_TOKEN}, 202)

    assert (failed["status"], failed["done"]) == ("failed", 0)
    assert "use a valid personal access token" in failed["error"]
    assert "LABEL_STUDIO_API_KEY" not in failed["error"], "they can't change the backend's settings"
    assert eventually(lambda: any("Deleting" in one["message"] for one in labeling_problems(client)))
    assert client.get(f"/api/labeling/runs/{run}")["action"] == "write"
    assert [project.uid for project in client.backend.projects.all()] == [PROJECT]


def test_project_is_deleted_for_a_token_that_may_change_it(start: Any, label_studio: FakeLabelStudio) -> None:
    client = start(**OPEN)

    assert client.post("/delete", {"project": 7, "token": label_studio.pat}, 202) == {"status": "asked"}

    assert eventually(lambda: client.backend.projects.all() == [])


def test_label_that_follows_an_undo_waits_until_the_token_is_checked(
    start: Any, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, tasks = start(**OPEN), label_studio.labels.add(3)
    token = {"token": label_studio.pat}
    first = ended(client, label(client, tasks, **token)["run"])["run"]
    check, tick, ticks, asked = TokenGate._check, Writer._tick, 0, threading.Event()

    def counted(self: Writer) -> float:
        nonlocal ticks
        pause = tick(self)
        ticks += 1
        return pause

    def slow(self: TokenGate, *given: Any) -> None:
        check(self, *given)
        assert asked.wait(SECONDS)
        seen = ticks
        assert eventually(lambda: ticks >= seen + 2), "the next label could have been written by now"

    monkeypatch.setattr(Writer, "_tick", counted)
    monkeypatch.setattr(TokenGate, "_check", slow)
    client.post(f"/api/labeling/runs/{first}/undo", token, 202)
    second = label(client, [], labels=[{"label": "Dog", "tasks": tasks}], **token)["run"]
    asked.set()

    assert ended(client, second)["written"] == 3
    assert client.get(f"/api/labeling/runs/{first}")["undone"] == 3
    assert label_studio.labels.choices() == {1: ["Dog"], 2: ["Dog"], 3: ["Dog"]}


def test_token_that_waits_delays_nobody_elses_labels(
    start: Any, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, tasks, go = start(**OPEN), label_studio.labels.add(2), threading.Event()
    monkeypatch.setattr(TokenGate, "_check", lambda *given: go.wait(SECONDS))
    run = ended(client, label(client, tasks[:1], token=label_studio.pat)["run"])["run"]
    client.post(f"/api/labeling/runs/{run}/undo", {"token": NO_TOKEN}, 202)
    try:
        assert ended(client, label(client, tasks[1:], token=label_studio.pat)["run"])["written"] == 1
    finally:
        go.set()


def test_stranger_with_a_token_undoes_a_run(start: Any, label_studio: FakeLabelStudio) -> None:
    client, tasks = start(**OPEN), label_studio.labels.add(2)
    run = ended(client, label(client, tasks, token=label_studio.pat)["run"])["run"]

    client.post(f"/api/labeling/runs/{run}/undo", {"token": label_studio.pat}, 202)

    assert eventually(lambda: client.get(f"/api/labeling/runs/{run}")["undone"] == 2)


# As whom


def test_own_token_that_may_not_write_is_not_blamed_on_the_settings(start: Any, label_studio: FakeLabelStudio) -> None:
    client, tasks = start(**OPEN), label_studio.labels.add(1)
    label_studio.labels.forbidden = True

    error = ended(client, label(client, tasks, token=label_studio.pat)["run"])["error"]

    assert "use the token of someone who may change the project's settings" in error
    assert "LABEL_STUDIO_API_KEY" not in error


def test_backends_token_that_may_not_write_is_said_before_anything_is_done(
    start: Any, label_studio: FakeLabelStudio
) -> None:
    client, tasks = start(), label_studio.labels.add(2)
    label_studio.labels.forbidden = True

    run = ended(client, label(client, tasks)["run"])

    assert (run["status"], run["done"]) == ("failed", 0)
    assert "isn't allowed to change" in run["error"]
    assert label_studio.labels.requests == ["import"]
    assert eventually(lambda: labeling_problems(client))
    assert f"label resume {run['run']}" in labeling_problems(client)[0]["hint"]
    label_studio.labels.forbidden = False
    client.post(f"/api/labeling/runs/{run['run']}/resume", {}, 202)
    assert ended(client, run["run"])["written"] == 2
    assert eventually(lambda: labeling_problems(client) == [])
    assert "finished" in client.post(f"/api/labeling/runs/{run['run']}/resume", {}, 409)["error"]


def test_missing_token_or_url_is_reported_at_once(serve: Serve, label_studio: FakeLabelStudio) -> None:
    for settings, said in (({}, "LABEL_STUDIO_URL"), ({"label_studio_url": label_studio.url}, "without a token")):
        with serve(**settings) as client:
            client.setup()
            assert said in label(client, [1], 409)["error"]
            assert client.get("/api/labeling/runs")["runs"] == []


def test_persons_token_is_used_and_kept_nowhere(
    start: Any, label_studio: FakeLabelStudio, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    label_studio.legacy_enabled = True
    client, tasks = start(), label_studio.labels.add(2)

    run = ended(client, label(client, tasks, token=label_studio.legacy)["run"])

    used = {seen.headers.get("Authorization") for seen in label_studio.server.seen if "predictions" in seen.path}
    assert used == {f"Token {label_studio.legacy}"}
    assert run["written"] == 2
    kept = texts(tmp_path / "models")
    assert any("labeling" in path.parts for path in kept)
    assert [path for path, text in kept.items() if label_studio.legacy in text] == []
    assert label_studio.legacy not in caplog.text
    undone = ended(client, client.post(f"/api/labeling/runs/{run['run']}/undo", {}, 202)["run"])
    assert undone["undone"] == 2, "the backend's own token may undo it"


def test_run_whose_token_is_lost_says_so_and_goes_on_with_another(
    start: Any, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SILENT_SECONDS", 0.0)
    client, tasks = start(), label_studio.labels.add(2)
    label_studio.labels.failing = {"look"}
    run = label(client, tasks, token=label_studio.pat)["run"]
    assert eventually(lambda: client.get(f"/api/labeling/runs/{run}")["error"])
    client.backend.labeling._tokens.clear()  # as after a restart

    assert eventually(lambda: any("needs a token" in one["message"] for one in labeling_problems(client)))
    label_studio.labels.failing = set()  # not before: an attempt may still have the token
    client.post(f"/api/labeling/runs/{run}/resume", {"token": label_studio.pat}, 202)

    assert ended(client, run)["written"] == 2


# What goes on


def test_label_studio_that_is_down_is_tried_again(start: Any, label_studio: FakeLabelStudio) -> None:
    client, tasks = start(), label_studio.labels.add(6)
    label_studio.labels.failing = {"annotate"}

    run = label(client, tasks)["run"]

    assert eventually(lambda: any("500" in one["message"] for one in labeling_problems(client)))
    label_studio.labels.failing = set()
    assert ended(client, run)["written"] == 6
    assert eventually(lambda: labeling_problems(client) == [])


def test_run_left_by_another_process_is_completed(start: Any, label_studio: FakeLabelStudio) -> None:
    client, tasks = start(), label_studio.labels.add(3)
    other = RunStore(client.backend.projects.root)
    run = other.create(PROJECT, [Labels(["Cat"], tasks)], own_token=False)

    other.begin(run)  # as if the process was killed right after it had begun

    assert ended(client, run.id)["written"] == 3


def test_events_of_a_run_start_one_training(
    start: Any, label_studio: FakeLabelStudio, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    # If it looked just after the training has published its version, it would have it done again.
    monkeypatch.setattr(Reconciliation, "visit", lambda *given: None)
    client, labels = start(retrain_after_annotations=2), label_studio.labels
    label_studio.annotated = [{"id": 1, "data": {"image": "1.png"}, "annotations": [{"id": 1, "result": []}]}]
    tasks = labels.add(12)

    def send_event(name: str) -> None:
        if name != "annotate":
            return
        new = [one for task in labels.tasks.values() for one in task["annotations"]]
        told = [{**one, "updated_at": "2026-11-26T10:00:00Z"} for one in new]
        project = {"id": 7, "created_at": "2026-11-20T13:35:51Z"}
        client.post(
            "/webhook",
            {
                "action": "ANNOTATIONS_CREATED",
                "annotation": told,
                "task": [{"id": one["task"], "data": {}} for one in told],
                "project": project,
            },
        )

    labels.after = send_event
    ended(client, label(client, tasks)["run"])

    store = client.backend.job_store
    assert eventually(lambda: store.of_project(PROJECT) and not store.unfinished(PROJECT))
    assert eventually(lambda: client.backend.projects.annotation_log(PROJECT).unlearned() == 0)
    assert len(store.of_project(PROJECT)) == 1


def test_metrics_count_runs_and_annotations(start: Any, label_studio: FakeLabelStudio) -> None:
    client, tasks = start(), label_studio.labels.add(5)
    label_studio.labels.annotate(1, "Dog")
    run = ended(client, label(client, tasks)["run"])["run"]
    client.post(f"/api/labeling/runs/{run}/undo", {}, 202)
    ended(client, run)

    def value(line: str) -> float:
        return next(
            float(one.rpartition(" ")[2]) for one in client.get("/metrics").splitlines() if one.startswith(line)
        )

    for outcome, count in (("written", 4), ("undone", 4), ("left_alone", 1)):
        sample = f'ml_backend_labeling_annotations_total{{outcome="{outcome}",project="{PROJECT}"}}'
        assert eventually(lambda sample=sample, count=count: value(sample) == count), sample
    runs = f'ml_backend_labeling_runs_total{{action="undo",outcome="finished",project="{PROJECT}"}}'
    assert value(runs) == 1
    assert value(runs.replace("finished", "failed")) == 0


def test_failed_runs_of_strangers_are_not_kept_forever(
    start: Any, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("my_backend.labeling.runs.records.KEPT_IN_VAIN", 2)
    client, tasks = start(**OPEN), label_studio.labels.add(1)

    for _ in range(4):
        ended(client, label(client, tasks, token=NO_TOKEN)["run"])

    assert eventually(lambda: len(client.get("/api/labeling/runs")["runs"]) == 2)
    assert labeling_problems(client) == []


@pytest.mark.parametrize("token", ["e", "a" * 19, "a" * 2001])
def test_token_that_cannot_be_one_is_refused(start: Any, label_studio: FakeLabelStudio, token: str) -> None:
    """It would hide ordinary words in the log, or cost memory."""
    client, tasks = start(**OPEN), label_studio.labels.add(1)

    for path, body in (("/api/labeling/runs", {"labels": [{"label": "Cat", "tasks": tasks}]}), ("/delete", {})):
        assert "isn't a Label Studio token" in client.post(path, {"project": 7, **body, "token": token}, 400)["error"]


def test_tokens_of_strangers_are_forgotten(start: Any, label_studio: FakeLabelStudio) -> None:
    client, tasks = start(**OPEN), label_studio.labels.add(1)
    ended(client, label(client, tasks, token=NO_TOKEN)["run"])
    client.post("/delete", {"project": 7, "token": NO_TOKEN}, 202)

    assert eventually(lambda: redact(NO_TOKEN) == NO_TOKEN)


@pytest.mark.parametrize("odd", ["claim", "lock"])
def test_files_of_one_project_stop_no_run_of_another(start: Any, label_studio: FakeLabelStudio, odd: str) -> None:
    client, tasks = start(), label_studio.labels.add(4)
    store = client.backend.labeling.store
    client.backend.projects.remember("8.1", label_config=LABEL_CONFIG)
    folder, older = client.backend.projects.folder("8.1") / "labeling", new_run_id()
    path = folder / ".claim" if odd == "claim" else folder / older / ".lock"
    path.mkdir(parents=True)  # before there is a run, with which the backend would make the file
    store.create("8.1", [Labels(["Cat"], [1])], own_token=False, run_id=older)
    assert eventually(lambda: any("Is a directory" in str(one) for one in labeling_problems(client)))
    assert ended(client, label(client, tasks)["run"])["written"] == 4
    path.rmdir()
    assert eventually(lambda: store.get(older).status != "queued")
