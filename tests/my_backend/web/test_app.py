import fcntl
import json
import logging
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from my_backend.jobs.record import Job
from my_backend.projects.packed_tasks import PackedTasks
from my_backend.projects.registry import Credentials
from my_backend.web.middleware.auth import OTHERS_AT_ONCE
from my_backend.web.middleware.request_log import LOGGED_PATH
from tests.my_backend.conftest import PROJECT, Client, MakeSettings, Serve, basic
from tests.my_backend.fake_model import LABEL_CONFIG, OTHER_CONFIG, Script
from tests.my_backend.fake_server import FakeLabelStudio
from tests.my_backend.waiting import eventually
from tests.stored import texts

CREATED_AT = "2026-11-20T13:35:51.342017Z"
DESCRIBED = {"id": 7, "created_at": CREATED_AT, "title": "Pets", "label_config": LABEL_CONFIG}
START = {"action": "START_TRAINING", "project": DESCRIBED}


def choices(results: list[Any]) -> list[str]:
    """Each task's choice; "" if it has no prediction."""
    return [result["result"][0]["value"]["choices"][0] if result else "" for result in results]


def annotated(number: int, at: str = CREATED_AT) -> dict[str, Any]:
    """The event of a submitted annotation."""
    annotation = {"id": number, "updated_at": at, "result": []}
    return {"action": "ANNOTATION_CREATED", "annotation": annotation, "task": {"id": number}, "project": DESCRIBED}


# How it is


def test_health_is_up_and_says_what_is_amiss(client: Client) -> None:
    health = client.get("/health")

    assert (health["status"], health["projects"]) == ("UP", 1)
    assert health["model_class"].endswith(":FakeModel")
    assert health["version"]
    assert any("LABEL_STUDIO_API_KEY is not set" in problem for problem in health["problems"])


def test_ready_is_503_until_the_version_can_be_predicted(serve: Serve, script: Script) -> None:
    with serve() as client:
        client.setup()
        client.train()
    script.block("load")

    with serve() as client:
        assert client.http.get("/ready").status_code == 503
        assert client.get("/health")["status"] == "UP"
        script.release()
        assert eventually(lambda: client.http.get("/ready").status_code == 200)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
    ],
)
def test_home_is_the_page_for_browsers_and_the_health_for_programs(
    client: Client, accept: str | None, expected: str
) -> None:
    response = client.http.get("/", headers={"Accept": accept} if accept else {})

    assert (response.status_code, response.mimetype) == (200, expected)


# Predict


def test_before_the_first_version_each_task_gets_nothing(client: Client) -> None:
    assert client.predict({}, {}) == {"results": [[], []], "model_version": "untrained"}


def test_results_keep_length_and_order(client: Client) -> None:
    client.train()

    answer = client.predict({}, {"broken": True}, {})

    assert choices(answer["results"]) == ["Cat", "", "Cat"]
    assert client.predict()["results"][0]["score"] == 0.75
    assert client.post("/predict", {"tasks": [], "project": PROJECT})["results"] == []


def test_version_has_one_name_everywhere(client: Client) -> None:
    name = client.train()

    answer = client.predict()
    versions = client.post("/versions", {"project": PROJECT})
    folder = client.backend.projects.folder(PROJECT)
    names = {
        client.setup(),
        answer["model_version"],
        answer["results"][0]["model_version"],
        versions["live"],
        *versions["versions"],
        versions["details"][0]["version"],
        client.get("/versions")["live"],
        client.get("/is_training")["model_version"],
        (folder / "live").read_text().strip(),
        *(path.name for path in (folder / "versions").iterdir()),
    }
    assert names == {name}
    assert name in client.http.get(f"/projects/{PROJECT}", headers={"Accept": "text/html"}).text


def test_predict_waits_for_a_version_that_is_being_loaded(serve: Serve, script: Script) -> None:
    with serve() as client:
        client.setup()
        name = client.train()
    script.block("load")

    with serve() as client:
        assert client.setup() == name
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(client.predict()))
        thread.start()
        assert client.get("/health")["ready"] is False
        assert answers == []
        script.release()
        thread.join()

    assert (choices(answers[0]["results"]), answers[0]["model_version"]) == (["Cat"], name)


def test_predict_gives_up_waiting_in_time(serve: Serve, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as client:
        client.setup()
        client.train()
    script.block("load")
    monkeypatch.setattr("my_backend.web.endpoint.PREDICT_SECONDS", 0.05)

    with serve() as client:
        refused = client.post("/predict", {"tasks": [], "project": PROJECT}, 503)

    assert "still loading" in refused["error"]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf"), "0.5", None, []])
def test_score_that_is_no_finite_number_is_left_out(client: Client, script: Script, score: Any) -> None:
    client.train()
    region = {"value": {"choices": ["Cat"]}}
    script.set(results=[{"result": [region], "score": score}, {"result": [region], "score": 0}])

    text = client.http.post("/predict", json={"tasks": [{"data": {}}] * 2, "project": PROJECT}).text

    first, second = json.loads(text, parse_constant=pytest.fail)["results"]
    assert ("score" in first, second["score"]) == (False, 0)


@pytest.mark.parametrize("nothing", [[], {}, None, {"result": []}, {"result": None, "score": 0.5}])
def test_prediction_without_a_result_is_an_empty_list(client: Client, script: Script, nothing: Any) -> None:
    client.train()
    script.set(results=[nothing])

    assert client.predict()["results"] == [[]]


def test_model_that_drops_a_task_is_an_error_and_no_shift(client: Client, script: Script) -> None:
    client.train()
    script.set(results=[[]])

    client.post("/predict", {"tasks": [{"data": {}}] * 2, "project": PROJECT}, 500)


def test_error_of_the_model_is_in_the_log_and_not_in_the_answer(
    client: Client, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    client.train()
    script.set(predict_raises="the secret of the model")

    refused = client.post("/predict", {"tasks": [{"data": {}}], "project": PROJECT}, 500)

    assert "secret" not in refused["error"]
    assert "RuntimeError: the secret of the model" in caplog.text


def test_predict_of_a_project_that_is_new_connects_it(client: Client) -> None:
    answer = client.predict({}, project="8.1", label_config=LABEL_CONFIG)

    assert answer == {"results": [[]], "model_version": "untrained"}
    assert client.backend.projects.get("8.1").label_config == LABEL_CONFIG


def test_swap_of_versions_fails_no_request_and_mixes_none(client: Client, script: Script) -> None:
    learned = {client.train(): "Cat"}
    ended = threading.Event()
    seen: list[tuple[str, str]] = []
    faults: list[Any] = []

    def predict() -> None:
        http = client.http.application.test_client()
        while not ended.is_set():
            response = http.post("/predict", json={"tasks": [{"id": 1, "data": {}}] * 2, "project": PROJECT})
            if response.status_code != 200:
                faults.append(response.text)
                return
            for result in response.json["results"]:
                seen.append((result["model_version"], result["result"][0]["value"]["choices"][0]))

    threads = [threading.Thread(target=predict) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(6):
        script.set(learn=f"choice {number}")
        learned[client.train()] = f"choice {number}"
    ended.set()
    for thread in threads:
        thread.join()

    assert faults == []
    assert set(seen) <= set(learned.items())
    assert len(set(seen)) > 1


# Setup and projects


def test_setup_names_the_live_version_and_connects_the_project(client: Client) -> None:
    assert client.setup("8.1") == "untrained"
    name = client.train()

    assert client.setup() == name
    assert [project.uid for project in client.backend.projects.all()] == [PROJECT, "8.1"]


@pytest.mark.parametrize("schema", ["", "   ", "<View>", "no xml", None])
def test_setup_before_the_labeling_config_is_made_is_no_error(client: Client, schema: str | None) -> None:
    client.post("/setup", {"project": "8.1", "schema": schema})

    assert "labeling config" in str(client.get("/health")["problems"])


def test_setup_without_a_labeling_config_keeps_the_known_one(client: Client) -> None:
    client.post("/setup", {"project": PROJECT})

    assert client.backend.projects.get(PROJECT).label_config == LABEL_CONFIG


TOLD = {"project": PROJECT, "schema": LABEL_CONFIG, "hostname": "http://label-studio:8080", "access_token": "token"}


@pytest.mark.parametrize(
    ("given", "headers", "kept"),
    [
        ({}, {}, True),
        ({"host": "0.0.0.0"}, {}, False),
        ({"host": "0.0.0.0", "basic_auth_user": "u", "basic_auth_pass": "p"}, basic("u", "p"), True),
    ],
)
def test_label_studio_that_setup_names_is_believed_where_the_caller_is_known(
    serve: Serve, given: dict[str, str], headers: dict[str, str], kept: bool
) -> None:
    with serve(**given) as client:
        client.post("/setup", TOLD, headers=headers)

        found = client.backend.projects.credentials(PROJECT)

    assert found == (Credentials("http://label-studio:8080", "token") if kept else None)


@pytest.mark.parametrize(
    ("headers", "environ"),
    [
        ({"X-Forwarded-For": "203.0.113.7"}, {}),
        ({"X-Forwarded-Host": "localhost"}, {}),
        ({"Forwarded": "for=203.0.113.7"}, {}),
        ({"Via": "1.1 nginx"}, {}),
        ({"X-Real-IP": "127.0.0.1"}, {}),
        ({"CF-Connecting-IP": "203.0.113.7"}, {}),
        ({"Host": "backend.example.com"}, {}),
        ({"Host": "backend:9090"}, {}),
        ({"Host": "localhost.example.com"}, {}),
        ({"Host": "127.0.0.1.example.com"}, {}),
        ({"Host": ""}, {}),
        ({}, {"SERVER_PROTOCOL": "HTTP/1.0"}),
        ({}, {"REMOTE_ADDR": "203.0.113.7"}),
    ],
)
def test_setup_that_came_through_a_proxy_is_not_believed_without_password(
    serve: Serve, headers: dict[str, str], environ: dict[str, str]
) -> None:
    with serve() as client:
        client.post("/setup", TOLD, headers=headers, environ_overrides=environ)
        assert client.backend.projects.credentials(PROJECT) is None
    with serve(basic_auth_user="u", basic_auth_pass="p") as client:
        client.post("/setup", TOLD, headers={**headers, **basic("u", "p")}, environ_overrides=environ)
        assert client.backend.projects.credentials(PROJECT)


@pytest.mark.parametrize("host", ["localhost:9090", "127.0.0.1:9090", "127.0.1.1", "[::1]:9090", "[::ffff:127.0.0.1]"])
def test_setup_from_this_machine_is_believed(client: Client, host: str) -> None:
    client.post("/setup", TOLD, headers={"Host": host})

    assert client.backend.projects.credentials(PROJECT)


def test_health_says_that_proxy_lets_anyone_in(serve: Serve) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.7"}
    with serve() as client:
        assert "come through a proxy" not in str(client.get("/health")["problems"])
        client.get("/ready", 200, headers=forwarded)
        assert "come through a proxy" in str(client.get("/health")["problems"])
    with serve(basic_auth_user="u", basic_auth_pass="p") as client:
        client.get("/health", headers={**forwarded, **basic("u", "p")})
        assert "come through a proxy" not in str(client.get("/health", headers=basic("u", "p"))["problems"])


def test_every_answer_says_how_browsers_may_take_and_keep_it(client: Client) -> None:
    def ask(method: str, path: str, **given: Any) -> Any:
        with client.http.open(path, method=method, **given) as answer:  # what it holds is free for the next one
            return answer

    stored = {"If-None-Match": ask("GET", "/static/page.css").headers["ETag"]}
    answers = [
        *(ask(method, path) for method, path in routes(client)),
        ask("GET", "/unknown"),
        ask("POST", "/health"),
        ask("POST", "/predict", data=b"{"),
        ask("POST", "/predict", headers={"Transfer-Encoding": "chunked"}),
        ask("POST", "/validate", headers={"Origin": "http://evil.example"}),
        ask("GET", "/static/page.css", headers=stored),
        ask("GET", "/static/unknown"),
    ]

    codes = {answer.status_code for answer in answers}
    assert codes >= {200, 304, 400, 403, 404, 405, 411}
    assert 503 not in codes, "each was answered by its own endpoint"
    assert {answer.headers.get("X-Content-Type-Options") for answer in answers} == {"nosniff"}
    assert [answer.request.path for answer in answers if not answer.headers.get("Cache-Control")] == []


@pytest.mark.parametrize("hostname", ["label-studio:8080", "http://", "http://[", "\0"])
def test_hostname_of_no_sense_in_setup_does_not_end_predictions(client: Client, hostname: str) -> None:
    client.train()
    client.post("/setup", {**TOLD, "hostname": hostname})
    client.post("/setup", {**TOLD, "hostname": hostname, "schema": OTHER_CONFIG})
    assert eventually(lambda: len(client.post("/versions", {"project": PROJECT})["versions"]) == 2)

    assert eventually(lambda: client.predict()["model_version"].startswith("v2"))


def test_changed_choices_get_a_new_version_so_that_label_studio_asks_again(client: Client) -> None:
    first = client.train()

    client.setup(config=OTHER_CONFIG)

    assert eventually(lambda: client.setup(config=OTHER_CONFIG) != first)
    assert client.predict()["model_version"] == client.setup(config=OTHER_CONFIG)
    assert client.setup(config=OTHER_CONFIG).startswith("v2-")
    assert client.post("/versions", {})["details"][0]["cause"] == "the labeling config's choices changed"


def test_same_choices_in_another_config_keep_the_version(client: Client) -> None:
    name = client.train()
    client.setup(config=LABEL_CONFIG.replace("<View>", "<View><Header value='x'/>"))

    client.train()  # the serving thread has checked again

    assert client.post("/versions", {})["versions"][-1] == name
    assert len(client.post("/versions", {})["versions"]) == 2


# Events


def test_start_training_answers_one_job_until_it_has_read_and_then_the_one_that_waits(
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
    changes = client.backend.projects.changes(PROJECT)
    changes.keep_tasks(PackedTasks([{"id": 1, "annotations": []}]), changes.begin_reading())
    assert changes.tasks() is not None

    client.post("/webhook", {"action": action, "project": DESCRIBED})

    assert changes.tasks() is None


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

    assert client.backend.projects.changes(PROJECT).unlearned() == changes


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

    counted = [client.backend.projects.changes(uid).unlearned() for uid in (PROJECT, "8.1")]
    assert counted == [2, 1]
    client.post("/webhook", bare, 400)


def test_imported_tasks_are_prepared_in_the_background(client: Client, script: Script) -> None:
    client.post("/webhook", {"action": "TASKS_CREATED", "tasks": [{"id": 5}, {"id": 6}], "project": DESCRIBED})

    assert eventually(lambda: [call["tasks"] for call in script.calls("prepare")] == [[5, 6]])


# Training by hand, and jobs


@pytest.mark.parametrize("path", ["/train", "/api/models/train"])
def test_annotations_of_a_train_request_are_kept_until_they_are_learned(
    serve: Serve, script: Script, path: str
) -> None:
    body = {"project": PROJECT, "annotations": [{"id": 5, "data": {}}, {"id": 6, "data": {}}]}
    script.block("fit")
    with serve() as client:
        client.setup()
        job = client.post(path, body, 201)["job"]
        client.started(job)

    script.set()
    with serve() as client:
        assert client.ended(job).status == "finished"
        assert [call["tasks"] for call in script.calls("fit")] == [[5, 6], [5, 6]]
        error = client.ended(client.post(path, {}, 201)["job"]).error
        assert error.startswith("Can't read annotations because Label Studio's URL is unknown")


def test_training_by_hand_needs_no_body_where_there_is_one_project(client: Client) -> None:
    response = client.http.post("/api/models/train")

    assert response.status_code == 201
    assert client.ended(response.json["job"]).project == PROJECT


def test_older_label_studios_train_request_connects_the_project(client: Client) -> None:
    body = {"project": "9.1", "annotations": [{"data": {}}], "label_config": LABEL_CONFIG, "params": {}}

    job = client.ended(client.post("/train", body, 201)["job"])

    assert (job.project, job.status) == ("9.1", "finished")
    assert client.backend.projects.get("9.1").label_config == LABEL_CONFIG


def test_job_says_how_it_goes(client: Client, script: Script) -> None:
    script.block("fit")
    job = client.submit_training()
    client.started(job)
    assert eventually(lambda: "loss" in client.backend.job_store.get(job).progress)  # nothing follows it

    running = client.post("/job_status", {"job": job})
    assert (running["job_status"], running["error"]) == ("started", None)
    assert running["progress"]["epochs"] == 2
    assert client.get("/is_training?project=7") == {
        "is_training": True,
        "job": job,
        "jobs": [client.post("/job_status", {"job": job})],
        "model_version": "untrained",
    }

    script.release()
    client.ended(job)
    ended = client.post("/job_status", {"job": job})
    assert (ended["job_status"], ended["result"]["labels"]) == ("finished", {"Cat": 1})
    assert client.get("/is_training")["is_training"] is False


def test_failed_job_says_why(client: Client, script: Script) -> None:
    script.set(fit_raises="no luck")

    job = client.ended(client.submit_training())

    assert client.post("/job_status", {"job": job.id})["error"] == "RuntimeError: no luck"


def test_job_can_be_cancelled(client: Client, script: Script) -> None:
    script.block("fit")
    job = client.submit_training()
    client.started(job)

    client.post(f"/api/jobs/{job}/cancel")

    assert client.ended(job).status == "canceled"
    assert client.post(f"/api/jobs/{job}/cancel")["job_status"] == "canceled"
    assert client.predict()["model_version"] == "untrained"


# Versions


def test_rollback_makes_an_old_version_answer_under_its_name(client: Client, script: Script) -> None:
    old = client.train()
    script.set(learn="Dog")
    new = client.train()
    assert choices(client.predict()["results"]) == ["Dog"]

    assert client.post("/api/models/activate", {"project": 7, "version": old}) == {"live": old, "project": PROJECT}

    assert eventually(lambda: client.setup() == old)
    assert choices(client.predict()["results"]) == ["Cat"]
    assert client.post("/versions", {})["versions"] == [new, old]


def test_versions_without_a_project_are_those_of_the_only_one(client: Client) -> None:
    name = client.train()
    assert client.get("/versions")["versions"] == [name]

    client.setup("8.1")

    assert "POST" in client.get("/versions", 404)["error"]
    assert client.post("/versions", {"project": "8"})["versions"] == []


def test_version_tells_how_it_came_about(client: Client, script: Script) -> None:
    first = client.train()
    script.set(output={"held_back": "clearly worse", "figures": {"accuracy": 0.5}, "warning": "random weights"})
    job = client.ended(client.submit_training())

    second = client.post("/versions", {})["details"][0]

    assert (second["version"], second["held_back"], second["grew_from"]) == (
        job.result["versions"][0],
        "clearly worse",
        first,
    )
    assert (second["figures"], second["labels"], second["warning"]) == (
        {"accuracy": 0.5},
        {"Cat": 1},
        "random weights",
    )
    assert client.predict()["model_version"] == first


def test_deleted_project_is_gone_with_its_jobs_and_versions(client: Client, script: Script) -> None:
    client.train()
    script.block("fit")
    running = client.submit_training()
    client.started(running)
    waiting = client.submit_training()

    assert client.post("/delete", {"project": 7}) == {"deleted": PROJECT}

    assert eventually(lambda: client.backend.queue._running["full"] is None)
    folder = client.backend.projects.folder(PROJECT)
    assert not folder.exists() or [path for path in folder.rglob("*") if path.is_file()] == []
    assert script.calls("fit") == script.calls("fit")[:2]  # what waited never ran
    for job in (running, waiting):
        client.post("/job_status", {"job": job}, 404)
    client.get("/is_training?project=7", 404)
    assert eventually(lambda: client.setup() == "untrained")


def test_what_is_left_of_a_deleted_project_goes_when_a_server_starts(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "models" / f".deleted-{PROJECT}-0a1b2c3d"
    (folder / "project" / "corrections").mkdir(parents=True)
    (folder / "project" / "corrections" / "image").touch()

    with serve():
        assert eventually(lambda: not folder.exists())


def test_duplicated_model_answers_for_the_other_project(client: Client) -> None:
    client.train()

    copied = client.post("/duplicate_model", {"project_src": PROJECT, "project_dst": "8.1"})

    assert eventually(lambda: client.setup("8.1") == copied["live"])
    assert choices(client.predict(project="8.1")["results"]) == ["Cat"]
    assert client.post("/duplicate_model", {"project_src": "8", "project_dst": "7"})["project"] == PROJECT
    client.setup("10.1")
    assert "no version" in client.post("/duplicate_model", {"project_src": "10.1", "project_dst": "9.1"}, 404)["error"]
    client.post("/duplicate_model", {"project_src": "7", "project_dst": "11"}, 404)


@pytest.mark.parametrize(("config", "valid"), [(LABEL_CONFIG, True), ("<View/>", False), ("", False), ("<View", False)])
def test_labeling_config_is_validated_before_it_is_saved(client: Client, config: str, valid: bool) -> None:
    answer = client.post("/validate", {"config": config})

    assert answer == {
        "valid": valid,
        "message": answer["message"],
        "choices": ["Cat", "Dog"] if valid else [],
    }
    assert bool(answer["message"]) is not valid


# Which project


ASKS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/is_training", {}),
    ("POST", "/versions", {}),
    ("POST", "/train", {}),
    ("POST", "/api/models/train", {}),
    ("POST", "/api/models/predict", {"url": "data:,x"}),
    ("POST", "/api/models/retrain", {"url": "data:,x", "label": "Cat"}),
    ("POST", "/api/models/activate", {"version": "v1-20261120T132501"}),
    ("POST", "/api/models/pin", {"version": "v1-20261120T132501"}),
    ("POST", "/api/models/delete", {"version": "v1-20261120T132501"}),
    ("POST", "/predict", {"tasks": []}),
    ("POST", "/webhook", {"action": "START_TRAINING"}),
]


def ask(client: Client, method: str, path: str, body: dict[str, Any], status: int) -> str:
    response = client.http.open(path, method=method, json=body if method == "POST" else None)
    assert response.status_code == status, response.text
    return str(response.json["error"])


@pytest.mark.parametrize(("method", "path", "body"), ASKS)
def test_project_that_is_not_named_is_asked_for_with_the_list(
    client: Client, method: str, path: str, body: dict[str, Any]
) -> None:
    client.setup("8.1")

    error = ask(client, method, path, body, 400)

    assert "project" in error
    assert PROJECT in error
    assert "8.1" in error


@pytest.mark.parametrize(("method", "path", "body"), ASKS)
def test_without_any_project_it_is_said_how_to_connect_one(
    serve: Serve, method: str, path: str, body: dict[str, Any]
) -> None:
    with serve() as client:
        assert "no project is connected yet" in ask(client, method, path, body, 404)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [entry for entry in ASKS if entry[1] not in ("/predict", "/webhook")] + [("POST", "/delete", {})],
)
def test_unknown_project_is_not_found(client: Client, method: str, path: str, body: dict[str, Any]) -> None:
    error = ask(client, method, path + ("?project=9" if method == "GET" else ""), {**body, "project": 9}, 404)

    assert "project 9 is not connected" in error
    assert PROJECT in error


def test_predict_for_the_number_of_a_connected_project_means_that_project(client: Client) -> None:
    name = client.train()

    assert client.predict(project="7")["model_version"] == name
    assert [project.uid for project in client.backend.projects.all()] == [PROJECT]


# Requests of no sense


@pytest.mark.parametrize(
    ("path", "body", "status", "named"),
    [
        ("/predict", b"", 400, "tasks"),
        ("/predict", b"{", 400, "JSON"),
        ("/predict", b"[]", 400, "body"),
        ("/predict", b"null", 400, "body"),
        ("/predict", b"\xff\xfe", 400, "JSON"),
        ("/predict", b"[" * 100_000, 400, "JSON"),
        ("/predict", {"tasks": {}}, 400, "tasks"),
        ("/predict", {"tasks": None}, 400, "tasks"),
        ("/predict", {"tasks": [{"id": 1}]}, 400, "tasks.0.data"),
        ("/predict", {"tasks": [{"data": {}}, {"data": []}]}, 400, "tasks.1.data"),
        ("/predict", {"tasks": [{"id": "x", "data": {}}]}, 400, "tasks.0.id"),
        ("/predict", {"tasks": [], "project": "../7"}, 400, "project"),
        ("/predict", {"tasks": [], "project": "abc"}, 400, "project"),
        ("/predict", {"tasks": [], "label_config": 5}, 400, "label_config"),
        ("/setup", {}, 400, "project"),
        ("/setup", {"project": "../../etc"}, 400, "project"),
        ("/setup", {"project": "abc"}, 400, "project"),
        ("/setup", {"project": "7" * 100}, 400, "project"),
        ("/setup", {"project": 7, "schema": 5}, 400, "schema"),
        ("/webhook", {}, 400, "action"),
        ("/webhook", {"action": "X", "project": 7}, 400, "project"),
        ("/webhook", {"action": "X", "project": {"id": 7}}, 400, "created_at"),
        ("/webhook", {"action": "X", "project": {"id": -1, "created_at": CREATED_AT}}, 400, "id"),
        ("/webhook", {"action": "X", "project": {"id": "9" * 500, "created_at": CREATED_AT}}, 400, "id"),
        ("/webhook", b'{"action": "X", "project": {"id": 1e999, "created_at": "2026-11-20T13:35:51Z"}}', 400, "id"),
        ("/webhook", {"action": "X", "annotation": 5}, 400, "annotation"),
        ("/train", {"annotations": []}, 400, "annotations"),
        ("/train", {"annotations": [{}]}, 400, "annotations.0.data"),
        ("/train", {"annotations": [{"data": {}, "annotations": ["Cat"]}]}, 400, "annotations.0.annotations.0"),
        ("/train", {"annotations": [{"data": {}, "completions": {}}]}, 400, "annotations.0.completions"),
        (
            "/train",
            {"annotations": [{"data": {}, "annotations": [{"id": 5, "result": 5}]}]},
            400,
            "annotations.0.annotations.0.result: Input should be a valid list",
        ),
        ("/job_status", {}, 400, "job"),
        ("/job_status", {"job": 5}, 400, "job"),
        ("/job_status", {"job": "x" * 5000}, 404, "no job"),
        ("/job_status", {"job": "*"}, 404, "no job"),
        ("/job_status", {"job": "\0"}, 404, "no job"),
        ("/api/jobs/none/cancel", {}, 404, "no job"),
        ("/api/models/activate", {}, 400, "version"),
        ("/api/models/activate", {"version": "../.."}, 404, "no version ../.."),
        ("/api/models/predict", {}, 400, "url"),
        ("/api/models/predict", {"url": 5}, 400, "url"),
        ("/api/models/retrain", {"url": "data:,x"}, 400, "label"),
        ("/api/models/retrain", {"url": "data:,x", "label": 5}, 400, "label"),
        ("/api/models/retrain", {"label": "Cat"}, 400, "url"),
        ("/validate", {}, 400, "config"),
        ("/duplicate_model", {}, 400, "project_src"),
        ("/duplicate_model", {"project_src": "../x", "project_dst": "8.1"}, 400, "project_src"),
        ("/duplicate_model", {"project_src": "9.1", "project_dst": "8.1"}, 404, "project 9.1 is not connected"),
        ("/unknown", {}, 404, "/unknown"),
        ("/health", {}, 405, "POST /health"),
    ],
)
def test_request_of_no_sense_is_refused_and_the_field_named(
    client: Client, path: str, body: Any, status: int, named: str
) -> None:
    options = {"data": body} if isinstance(body, bytes) else {"json": body}

    response = client.http.post(path, **options)

    assert response.status_code == status, response.text
    assert set(response.json) == {"error", "request_id"}
    assert named in response.json["error"]
    assert client.predict()["results"] == [[]]  # and nothing is broken by it


def test_choices_that_are_nested_too_deep_are_said_to_be(client: Client) -> None:
    nested = '<Choice value="A">' * 5000 + "</Choice>" * 5000
    config = f'<View><Image name="i" value="$i"/><Choices name="c" toName="i">{nested}</Choices></View>'

    assert "nested" in client.post("/validate", {"config": config})["message"]
    client.post("/setup", {"project": PROJECT, "schema": config})
    client.predict(label_config=config)
    assert "nested" in str(client.get("/health")["problems"])


# Who may ask


@pytest.fixture
def guarded(serve: Serve) -> Iterator[Client]:
    with serve(basic_auth_user="user", basic_auth_pass="pässword") as client:
        yield client


def routes(client: Client) -> list[tuple[str, str]]:
    return sorted(
        (method, rule.rule.replace("<job_id>", "x").replace("<path:filename>", "status.css"))
        for rule in client.http.application.url_map.iter_rules()
        for method in rule.methods or ()
    )


def test_password_is_wanted_everywhere_but_at_ready(guarded: Client) -> None:
    def let_in(headers: dict[str, str]) -> set[tuple[str, str]]:
        found = set()
        for method, path in routes(guarded):
            with guarded.http.open(path, method=method, headers=headers) as response:
                if response.status_code != 401:
                    found.add((method, path))
        return found

    assert let_in({}) == {("GET", "/ready"), ("HEAD", "/ready"), ("OPTIONS", "/ready")}
    assert let_in(basic("user", "pässword")) == set(routes(guarded))
    assert guarded.http.get("/unknown").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("user", "wrong"),
        basic("wrong", "pässword"),
        basic("user", ""),
        basic("", ""),
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic /////w=="},
        {"Authorization": "Bearer pässword"},
        {"Authorization": "Digest username=user"},
        {"Authorization": "Basic dXNlcg=="},
        {"Authorization": "\xff"},
    ],
)
def test_wrong_password_is_refused_with_the_way_in(guarded: Client, headers: dict[str, str]) -> None:
    response = guarded.http.get("/health", headers=headers)

    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Basic ")
    assert "password" in response.json["error"]


@pytest.mark.parametrize(("user", "password"), [("user", "wrong"), ("wrong", "pässword"), ("wrong", "wrong")])
def test_user_and_password_are_both_compared_in_constant_time(
    guarded: Client, monkeypatch: pytest.MonkeyPatch, user: str, password: str
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("my_backend.web.middleware.auth.hmac.compare_digest", compare)
    guarded.get("/health", 401, headers=basic(user, password))

    assert set(compared) == {(user.encode(), b"user"), (password.encode(), "pässword".encode())}


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://localhost:1234", "http://[", "file://", "http://localhost.evil.example"],
)
def test_page_of_another_site_may_send_nothing(client: Client, origin: str) -> None:
    answered = {
        (method, path): client.http.open(path, method=method, headers={"Origin": origin}).status_code
        for method, path in routes(client)
        if method == "POST"
    }

    assert set(answered.values()) == {403}
    client.post("/versions", {}, 403, headers={"Origin": origin, "Host": "my_server"})
    assert client.setup()


def test_own_page_and_programs_may_send(client: Client) -> None:
    for host in ("localhost", "server:9090", "my_server:9090", "127.0.0.1:9090", "[::1]:9090", "10.1.2.3"):
        client.post("/versions", {}, headers={"Origin": f"http://{host}", "Host": host})
    client.post("/versions", {}, headers={"Host": "backend.example"})
    client.get("/health", headers={"Origin": "http://evil.example"})


def test_page_under_a_name_that_anyone_may_own_needs_a_password(serve: Serve) -> None:
    # Its owner could point the name at this machine: the browser would treat that page as ours.
    page = {"Origin": "http://rebound.example:9090", "Host": "rebound.example:9090"}
    with_underscore = {"Origin": "http://a_b.example", "Host": "a_b.example"}
    with serve() as client:
        assert "BASIC_AUTH_PASS" in client.post("/validate", {"config": ""}, 403, headers=page)["error"]
        assert "BASIC_AUTH_PASS" in client.post("/validate", {"config": ""}, 403, headers=with_underscore)["error"]
    with serve(basic_auth_user="user", basic_auth_pass="password") as client:
        client.post("/validate", {"config": ""}, 401, headers=page)
        client.post("/validate", {"config": ""}, headers={**page, **basic("user", "password")})


@pytest.mark.parametrize(
    "host", ["rebound.example:9090", "rebound.example", "re_bound.example:9090", "rebound.example.:80"]
)
def test_page_under_a_name_that_anyone_may_own_reads_nothing_that_people_look_at(serve: Serve, host: str) -> None:
    def read(client: Client, headers: dict[str, str]) -> set[str]:
        paths = {path for method, path in routes(client) if method == "GET"} | {f"/projects/{PROJECT}", "/unknown"}
        answered = set()
        for path in paths:
            answer = client.http.get(path, headers=headers)
            answer.close()  # an open one takes a thread
            if answer.status_code != 403:
                answered.add(path)
        return answered

    rebound = {"Host": host}
    with serve() as client:
        client.setup()
        by_programs = {"/health", "/ready", "/metrics", "/versions", "/openapi.json", "/static/status.css"}
        assert read(client, rebound) == by_programs
        assert read(client, {**rebound, "Accept": "text/html"}) == by_programs
        assert client.http.head(f"/projects/{PROJECT}", headers=rebound).status_code == 403
        assert "BASIC_AUTH_PASS" in client.get("/", 403, headers=rebound)["error"]
        for own in ("localhost:9090", "server:9090", "my_server:9090", "127.0.0.1:9090", "[::1]:9090"):
            assert f"/projects/{PROJECT}" in read(client, {"Host": own})
    with serve(basic_auth_user="user", basic_auth_pass="password") as client:
        assert f"/projects/{PROJECT}" in read(client, {**rebound, **basic("user", "password")})


def test_label_studio_and_prometheus_may_call_by_any_name(client: Client) -> None:
    by_name = {"Host": "backend.example.com:9090"}
    client.train()

    for path in ("/health", "/ready", "/metrics", "/versions"):
        client.get(path, headers=by_name)
    client.post("/setup", {"project": PROJECT, "schema": LABEL_CONFIG}, headers=by_name)
    client.post("/validate", {"config": LABEL_CONFIG}, headers=by_name)
    client.post("/webhook", annotated(1), headers=by_name)
    assert client.post("/predict", {"tasks": [{"data": {}}], "project": PROJECT}, headers=by_name)["results"][0]


def test_no_answer_allows_other_sites_to_read_it(client: Client) -> None:
    response = client.http.options("/predict", headers={"Origin": "http://evil.example"})

    assert not [name for name, _ in response.headers if name.lower().startswith("access-control-")]


def test_nothing_secret_is_logged_or_answered(serve: Serve, caplog: pytest.LogCaptureFixture, script: Script) -> None:
    secrets = ["s3cret-key", "s3cret-pass", "s3cret-token"]
    caplog.set_level(logging.DEBUG)
    given = {"label_studio_api_key": secrets[0], "label_studio_url": "http://127.0.0.1:1"}
    with serve(basic_auth_user="user", basic_auth_pass=secrets[1], **given) as client:
        auth = {"headers": basic("user", secrets[1])}
        answers = [client.post("/setup", {**TOLD, "access_token": secrets[2]}, **auth)]
        answers.append(client.post("/webhook", START, 201, **auth))
        failed: Job = client.ended(answers[-1]["job"])
        answers += [client.get(path, **auth) for path in ("/health", "/is_training", "/openapi.json", "/metrics", "/")]
        answers.append(client.http.get("/", headers={**basic("user", secrets[1]), "Accept": "text/html"}).text)
        answers.append(client.post("/job_status", {"job": failed.id}, **auth))

    assert failed.status == "failed"
    assert [secret for secret in secrets if secret in caplog.text + str(answers)] == []


@pytest.mark.parametrize("token", ["s3cret-0123\ns3cret-4567", "s3cret-0123\r\n", "s3cret-0123\u2019", " s3cret-0123"])
def test_token_that_no_header_carries_is_told_nowhere(
    serve: Serve, caplog: pytest.LogCaptureFixture, label_studio: FakeLabelStudio, token: str
) -> None:
    with serve() as client:
        client.setup()
        folder = client.backend.projects.folder(PROJECT)
        # As an older release stored it.
        record = json.dumps({"hostname": label_studio.url, "access_token": token})
        (folder / "credentials.json").write_text(record, encoding="utf-8")
        client.post("/api/problems/check", status=202)
        failed = client.ended(client.post("/webhook", START, 201)["job"])
        monitor = client.backend.monitor
        assert eventually(lambda: any("isn't allowed in an HTTP header" in str(one) for one in monitor.problems()))
        answers = [client.get(path) for path in ("/health", "/problems", "/is_training")]
        answers += [
            client.http.get("/", headers={"Accept": "text/html"}).text,
            client.post("/job_status", {"job": failed.id}),
        ]

    kept = {path.name: text for path, text in texts(folder).items()}
    del kept["credentials.json"]
    assert "isn't allowed in an HTTP header" in failed.error
    assert [text for text in (caplog.text, str(answers), str(kept)) if "s3cret-0123" in text] == []


@pytest.mark.parametrize("token", ["s3cret-0123\ns3cret-4567", "s3cret-0123\u2019", "s3cret 0123", 's3cret"0123'])
def test_setup_with_a_token_that_no_header_carries_is_refused(client: Client, token: str) -> None:
    refused = client.post("/setup", {**TOLD, "access_token": token}, 400)

    assert "access_token" in refused["error"]
    assert "s3cret" not in refused["error"]


def test_token_of_setup_is_trimmed(client: Client) -> None:
    client.post("/setup", {**TOLD, "access_token": " s3cret-0123\r\n"})

    found = client.backend.projects.credentials(PROJECT)
    assert found is not None
    assert found.access_token == "s3cret-0123"


def test_long_path_is_logged_short(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client.http.get("/" + "a-" * 4000)

    [line] = [line for line in caplog.messages if line.startswith("GET /a-a-")]
    assert len(line) < LOGGED_PATH + 50


def test_nobody_else_may_look_into_what_is_kept(serve: Serve, make_settings: MakeSettings) -> None:
    folder = make_settings().model_dir / "projects"
    folder.mkdir(parents=True, mode=0o755)

    with serve():
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_predictions_are_answered_while_the_disk_hangs_on_which_events_wait(client: Client) -> None:
    client.train()
    lock = (client.backend.projects.folder(PROJECT) / ".unlearned").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)  # events wait for it, as they would for the disk

    def send(number: int) -> int:
        events = client.http.application.test_client()
        with events.post("/webhook", json=annotated(number)) as response:  # closed as when it is sent
            return response.status_code

    with ThreadPoolExecutor(OTHERS_AT_ONCE + 1) as clients:
        sent = [clients.submit(send, number) for number in range(OTHERS_AT_ONCE + 1)]
        try:
            assert eventually(lambda: any(one.done() for one in sent))
            assert [one.result() for one in sent if one.done()] == [503]

            assert client.predict()["results"][0]
            assert client.setup() != "untrained"
            assert client.get("/health")["status"] == "UP"
        finally:
            lock.close()
        assert sorted(one.result() for one in sent) == [200] * OTHERS_AT_ONCE + [503]
        assert send(100) == 200
