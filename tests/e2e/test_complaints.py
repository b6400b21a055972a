"""The most common complaints, caused on purpose with a real Label Studio: the doctor reports them, and its fix works.

`docs/project/complaints.md` has all thirty; it names the tests of those that nobody can cause anymore.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jwt
import pytest
import requests

from testing.backend import Backend
from testing.digits import LABEL_CONFIG
from testing.label_studio import LabelStudio
from testing.process import ServerError, free_port
from testing.production import Production, Redis
from testing.waiting import wait_for
from tests.e2e.consultations import Examined, consult
from tests.e2e.projects import Digits, Serve, make_project, wait_for_new_version

QUICK = {"IMAGE_SIZE": "64", "RETRAIN_AFTER_ANNOTATIONS": "0", "WEIGHTS": "none", "TRAIN_MODE": "head"}


def says(backend: Examined, code: str, *words: str, **settings: str) -> None:
    """The doctor reports the problem and its fix."""
    found = consult(backend, **settings)
    assert found.status == 1
    assert code in found.problems, found.problems
    assert [word for word in words if word not in found.problems[code]] == [], found.problems


def is_well(backend: Examined, *arguments: str, but: str = "", **settings: str) -> None:
    """The doctor finds no problems, except for `but`."""
    found = consult(backend, *arguments, **settings)
    assert found.problems.keys() <= {but}, found.problems
    assert found.record["ok"] is (found.status == 0) is (not found.problems)


@dataclass
class Site:
    """A project connected to a backend that several tests share; there are no problems before and after the test."""

    label_studio: LabelStudio
    backend: Backend
    project: int
    connection: int
    others: list[int]  # tasks that are not annotated

    def train(self, before: str) -> str:
        self.label_studio.start_training(self.connection)
        return wait_for_new_version(self.backend, self.project, before)


@pytest.fixture(scope="module")
def own_backend(tmp_path_factory: pytest.TempPathFactory, label_studio: LabelStudio) -> Iterator[Backend]:
    with Backend(tmp_path_factory.mktemp("complaints"), label_studio, **QUICK) as backend:
        yield backend


def connected(label_studio: LabelStudio, backend: Backend, digits: Digits) -> Site:
    project, _, others = make_project(label_studio, digits, annotated=20, others=2)
    return Site(label_studio, backend, project, label_studio.connect(project, backend.url), others)


@pytest.fixture
def site(label_studio: LabelStudio, own_backend: Backend, digits: Digits) -> Iterator[Site]:
    site = connected(label_studio, own_backend, digits)
    yield site
    remove(site, site.project)


def remove(site: Site, project: int) -> None:
    site.label_studio.request("DELETE", f"/api/projects/{project}")
    url, body = f"{site.backend.url}/delete", {"project": str(project)}
    requests.post(url, json=body, timeout=30).raise_for_status()


def jobs(site: Site) -> list[str]:
    """All jobs that ever existed."""
    projects = site.backend.folder / "models" / "projects"
    return [path.stem for path in projects.glob(f"{site.project}.*/jobs/*.json")]


# --- training ---------------------------------------------------------------------


def test_start_training_does_nothing_and_localhost_is_somewhere_else(
    label_studio: LabelStudio, digits: Digits, serve: Serve
) -> None:
    """2 and 27"""
    site = connected(label_studio, serve(**QUICK), digits)
    site.backend.kill()
    site.label_studio.start_training(site.connection)  # the browser gets no message
    says(site.backend, "server", "Start it")
    says(site.backend, "disconnected", "localhost is the container itself", "host.docker.internal")
    nowhere = {"LABEL_STUDIO_URL": f"http://localhost:{free_port()}"}
    says(site.backend, "label-studio", "In a container, localhost is the container itself", **nowhere)

    site.backend.__enter__()
    is_well(site.backend)


def test_training_without_annotations_and_tokens_of_the_wrong_kind(
    label_studio: LabelStudio, digits: Digits, serve: Serve
) -> None:
    """3 and 22"""
    backend = serve(**QUICK, LABEL_STUDIO_API_KEY=label_studio.legacy_token)
    site = connected(label_studio, backend, digits)
    label_studio.start_training(site.connection)
    [job] = jobs(site)
    wait_for(lambda: backend.job(job)["job_status"] == "failed", "the failure")
    assert "legacy tokens are disabled" in str(backend.job(job)["error"])
    says(site.backend, "token", "legacy tokens are disabled", "personal access token")

    refresh = {"refresh": label_studio.personal_access_token}
    access = label_studio.request("POST", "/api/token/refresh/", json=refresh).json()["access"]
    says(site.backend, "token-short", "expires after a few minutes", LABEL_STUDIO_API_KEY=access)
    other = jwt.encode({"token_type": "refresh", "exp": 4e9}, "a key of another Label Studio, long enough")
    says(site.backend, "token", "rejected the token", LABEL_STUDIO_API_KEY=other)

    backend.kill()
    backend.set(LABEL_STUDIO_API_KEY=label_studio.personal_access_token)
    backend.__enter__()
    site.train("untrained")
    is_well(site.backend)


def test_production_never_trains(label_studio: LabelStudio, digits: Digits, tmp_path: Path) -> None:
    """6"""
    token = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": label_studio.personal_access_token}
    with Redis() as redis, Production(tmp_path / "production", redis.url, **QUICK, **token) as production:
        server = production.server()
        project, _, _ = make_project(label_studio, digits, annotated=20, others=0)
        connection = label_studio.connect(project, server.url)
        label_studio.start_training(connection)
        port = {"PORT": server.url.rpartition(":")[2]}
        says(production, "no-worker", "python -m my_backend worker", **port)

        production.worker()
        wait_for(lambda: server.get(f"/is_training?project={project}")["model_version"] != "untrained", "a version")
        is_well(production, **port)
        says(production, "no-worker", "the workers have the server's RQ_QUEUE_NAME?", **port, RQ_QUEUE_NAME="another")


def test_every_annotation_starts_a_training(site: Site) -> None:
    """7"""
    site.label_studio.update_project(site.project, min_annotations_to_start_training=1)
    site.label_studio.annotate(site.others[0], "1")
    wait_for(lambda: jobs(site), "the job")  # RETRAIN_AFTER_ANNOTATIONS is 0: only Label Studio asks
    says(site.backend, "trains-on-submission", "Start model training on annotation submission", "turn off")

    site.label_studio.update_project(site.project, min_annotations_to_start_training=0)
    is_well(site.backend)


def test_events_without_payload(site: Site) -> None:
    """9"""
    [hook] = site.label_studio.webhooks(site.project)
    site.label_studio.request("PATCH", f"/api/webhooks/{hook['id']}/", json={"send_payload": False})
    says(site.backend, "webhook-payload", "turn on “Send payload”")

    is_well(site.backend, "--fix", "--yes")
    [mended] = site.label_studio.webhooks(site.project)
    assert (mended["id"], mended["send_payload"]) == (hook["id"], True)


def test_events_of_other_kinds_start_nothing(site: Site) -> None:
    """10"""
    site.label_studio.import_tasks(site.project, [{"data": {"image": "/data/upload/gone.png"}}])
    [record] = (site.backend.folder / "models" / "projects").glob(f"{site.project}.*/project.json")

    def told() -> bool:  # Label Studio waits one second for an event's answer, and never sends it again
        site.label_studio.update_project(site.project, title="another title")
        return bool(json.loads(record.read_text("utf-8"))["title"] == "another title")

    wait_for(told, "the event")
    assert jobs(site) == []


def test_webhook_of_a_model_that_was_removed_trains_twice(site: Site) -> None:
    """11"""
    other = site.backend.url.replace("127.0.0.1", "localhost")
    first = site.label_studio.connect(site.project, other)
    site.label_studio.disconnect(site.project, first)
    assert len(site.label_studio.webhooks(site.project)) == 2
    says(site.backend, "webhook-orphaned", f"{other}/webhook", "delete this webhook")

    is_well(site.backend, "--fix", "--yes")
    [left] = site.label_studio.webhooks(site.project)
    assert left["url"] == f"{site.backend.url}/webhook"


# --- versions -----------------------------------------------------------------------


def test_versions_that_are_gone_old_predictions_and_a_renamed_choice(
    label_studio: LabelStudio, digits: Digits, serve: Serve
) -> None:
    """16, 18 and 30"""
    # By Label Studio's own default the scores of stored predictions are blank, which is none of the three.
    site = connected(label_studio, serve(**QUICK), digits)
    first = site.train("untrained")
    site.label_studio.retrieve_predictions(site.project, site.others)
    is_well(site.backend, but="scores-blank")

    models = site.backend.folder / "models"
    site.backend.kill()
    models.rename(models.with_name("unmounted"))
    site.backend.__enter__()
    site.label_studio.backend(site.connection)
    says(site.backend, "version-missing", first, "Restore MODEL_DIR")
    site.backend.kill()
    for name, left in (("mistaken", models), ("models", models.with_name("unmounted"))):
        left.rename(models.with_name(name))
    site.backend.__enter__()
    is_well(site.backend, but="scores-blank")

    label_studio.annotate(site.others[1], "1")  # otherwise there is nothing to learn
    second = site.train(first)
    site.label_studio.update_project(site.project, model_version=first)
    says(site.backend, "predictions-pinned", first, "choose the model “backend”")
    is_well(site.backend, "--fix", "--yes", but="scores-blank")
    site.label_studio.retrieve_predictions(site.project, site.others)
    stored = site.label_studio.predictions(site.project)[site.others[0]]
    assert {one["model_version"] for one in stored} == {first, second}

    site.label_studio.annotate(site.others[0], "0")
    half = LABEL_CONFIG.replace('<Choice value="0" ', '<Choice value="zero" ')
    site.label_studio.update_project(site.project, label_config=half)
    third = wait_for_new_version(site.backend, site.project, second)  # the same model, under today's choices
    fourth = site.train(third)
    says(site.backend, "choices-unknown", "choices that no longer exist: 0 (", "predicted_values")
    kept = LABEL_CONFIG.replace('<Choice value="0" ', '<Choice value="zero" predicted_values="0" ')
    site.label_studio.update_project(site.project, label_config=kept)
    site.train(fourth)
    is_well(site.backend, but="scores-blank")


# --- settings and labeling configs ----------------------------------------------------


def test_settings_that_contradict_themselves(site: Site) -> None:
    """19"""
    wrong = {"RETRAIN_AFTER_ANNOTATIONS": "true", "PORT": "http"}
    serve = [sys.executable, "-m", "my_backend", "serve"]
    environment = {**site.backend.environment, **wrong}
    refused = subprocess.run(
        serve, env=environment, cwd=site.backend.folder, capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 1
    assert "RETRAIN_AFTER_ANNOTATIONS: Input should be a valid integer" in refused.stderr
    says(site.backend, "settings", "RETRAIN_AFTER_ANNOTATIONS: Input should be a valid integer", "PORT: ", **wrong)

    is_well(site.backend)


def test_connecting_before_there_are_labels(site: Site) -> None:
    """29"""
    project = site.label_studio.create_project("no labels yet", "<View></View>")
    site.label_studio.connect(project, site.backend.url)
    says(site.backend, "labeling-config", "no <Image name=")

    site.label_studio.update_project(project, label_config=LABEL_CONFIG)
    is_well(site.backend)
    remove(site, project)


# --- images -------------------------------------------------------------------------


def test_images_behind_a_login_local_files_and_clouds(site: Site) -> None:
    """21, 23 and 24"""
    wrong = {
        f"{site.label_studio.url}/user/login/": "a web page instead of an image; does it require a login?",
        "/data/local-files/?d=pets/cat.png": "you start it with LOCAL_FILES_SERVING_ENABLED=true",
        "s3://no-such-bucket/cat.png": "no storage of the project covers it, or the storage's credentials were",
    }
    tasks = site.label_studio.import_tasks(site.project, [{"data": {"image": url}} for url in wrong])
    says(site.backend, "image", *wrong.values())

    for task in tasks:
        site.label_studio.request("DELETE", f"/api/tasks/{task}/")
    is_well(site.backend)


# --- where Label Studio is --------------------------------------------------------------


def test_label_studio_under_a_sub_path(site: Site) -> None:
    """26"""
    with _under_a_path(site.label_studio.url, "/label-studio") as origin:
        says(site.backend, "label-studio", "including its sub-path if it has one", LABEL_STUDIO_URL=origin)

        is_well(site.backend, LABEL_STUDIO_URL=f"{origin}/label-studio")


@contextmanager
def _under_a_path(target: str, path: str) -> Iterator[str]:
    """The origin of a proxy in front of a Label Studio whose pages are below `path`."""

    class Proxy(BaseHTTPRequestHandler):
        def _forward(self) -> None:
            if not self.path.startswith(f"{path}/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name: value for name, value in self.headers.items() if name != "Host"}
            with requests.Session() as session:
                session.trust_env = False
                url = target + self.path.removeprefix(path)
                answer = session.request(self.command, url, data=body, headers=headers, timeout=60)
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PATCH = do_DELETE = _forward  # noqa: N815

        def log_message(self, *args: object) -> None:
            """Nothing is to be printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow  # starts a Label Studio of its own, four times
def test_address_blocking_in_each_of_its_forms(tmp_path: Path, digits: Digits, serve: Serve) -> None:
    """23 by its own remedy, 27 and 28"""
    files = tmp_path / "files"
    (files / "pets").mkdir(parents=True)
    (files / "pets" / "cat.png").write_bytes(digits[0][0].read_bytes())
    label_studio = LabelStudio(tmp_path / "blocking", blocks_models=True, local_files=files)
    with label_studio:
        backend = serve(label_studio, **QUICK)
        project, _, _ = make_project(label_studio, digits, annotated=0, others=1)
        site = Site(label_studio, backend, project, 0, [])

        def restart(*blocks: str) -> None:
            label_studio.stop()
            label_studio.blocks_models = "models" in blocks
            label_studio.blocks_webhooks = "webhooks" in blocks
            label_studio.start()

        # With the default settings: refused, without a trace.
        with pytest.raises(ServerError, match="403"):
            label_studio.connect(project, backend.url)
        says(
            site.backend,
            "address-blocked",
            "USE_DEFAULT_BANNED_SUBNETS=false, or with both ML_BLOCK_LOCAL_IP=false and",
        )

        # Half of the fix leaves half a connection.
        restart("webhooks")
        with pytest.raises(ServerError, match="403"):
            label_studio.connect(project, backend.url)
        says(site.backend, "address-blocked", "from sending annotation events", "SSRF_PROTECTION_ENABLED=false as well")

        restart()
        says(site.backend, "webhook-missing", "add a webhook for all actions with the URL")
        is_well(site.backend, "--fix", "--yes")

        # After an upgrade to a Label Studio that blocks: everything is connected, but nothing arrives.
        restart("models", "webhooks")
        says(site.backend, "address-blocked", "keeps it from calling this backend")
        restart("webhooks")
        says(site.backend, "address-blocked", "from sending annotation events")
        restart()
        is_well(site.backend)

        label_studio.import_tasks(project, [{"data": {"image": "/data/local-files/?d=pets/cat.png"}}])
        says(site.backend, "image", "no Local Files storage of the project covers it")
        storage = {"project": project, "path": str(files / "pets"), "use_blob_urls": True}
        label_studio.request("POST", "/api/storages/localfiles", json=storage)
        is_well(site.backend)


@pytest.mark.slow  # starts a Label Studio of its own
def test_url_that_only_this_machine_knows(tmp_path: Path, serve: Serve) -> None:
    """27, if the model could never be connected"""
    with LabelStudio(tmp_path / "label-studio") as label_studio:
        backend = serve(label_studio, **QUICK)
        project = label_studio.create_project("digits", LABEL_CONFIG)
        site = Site(label_studio, backend, project, 0, [])
        with pytest.raises(ServerError, match="health check failed"):
            label_studio.connect(project, f"http://localhost:{free_port()}")
        says(
            site.backend,
            "no-project",
            "Connect Model",
            "use host.docker.internal or the name of the backend's service, not localhost",
        )

        label_studio.connect(project, backend.url)
        is_well(site.backend)
