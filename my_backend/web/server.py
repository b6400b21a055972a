"""The routes: Label Studio's protocol, and what people and programs ask beside it."""

import hmac
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version as package_version
from secrets import token_hex
from typing import Any, TypeVar
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask, Response, jsonify, request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from my_backend import context
from my_backend.backend import Backend
from my_backend.diagnosis import diagnose
from my_backend.errors import BackendError, BadRequest, NotFound
from my_backend.jobs.job import Job
from my_backend.jobs.training_job import keep_annotations
from my_backend.metrics.counts import RequestCounts
from my_backend.page.routes import Page, wants_page
from my_backend.protocol.label_config import parse_label_config
from my_backend.protocol.wire import (
    ActivateRequest,
    CorrectionRequest,
    DuplicateRequest,
    ImageRequest,
    JobRequest,
    Json,
    PredictRequest,
    ProjectRequest,
    SetupRequest,
    TrainRequest,
    ValidateRequest,
    WebhookRequest,
    project_uid,
)
from my_backend.store.projects import Credentials, Project
from my_backend.store.recent import sightings
from my_backend.store.versions import Versions
from my_backend.web.exposition import Exposition
from my_backend.web.openapi import openapi
from my_backend.web.single_image import Image, SingleImage

log = logging.getLogger(__name__)

PREDICT_SECONDS = 80.0  # Label Studio waits for 100 s and then drops everything
MAX_BODY_BYTES = 256_000_000
# They need no disk but that of CACHE_DIR.
FROM_MEMORY = ("/health", "/ready", "/setup", "/predict", "/api/models/predict")
OTHERS_AT_ONCE = 16  # half of uWSGI's threads
OTHERS_WAIT_SECONDS = 0.8  # Label Studio gives an event up after a second
ANNOTATION_EVENTS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED", "ANNOTATIONS_DELETED")

Body = TypeVar("Body", bound=BaseModel)
Answer = Json | tuple[Json, int] | Response


def create_app(backend: Backend) -> Flask:
    """The Flask application; the backend's threads are started by whoever serves it."""
    app = Flask("my_backend", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]
    counts = RequestCounts()
    page = Page(backend)
    app.register_blueprint(page.blueprint())
    routes = Routes(backend, counts, page)
    _measure(app, counts)
    for (method, path), handler in routes.table().items():
        app.add_url_rule(path, f"{method} {path}", handler, methods=[method])
    _guard(app, backend.settings.basic_auth, backend.webhook_password.refused)
    _keep_threads_for_predictions(app)
    _handle_errors(app, counts)
    app.wsgi_app = _with_request_id(app.wsgi_app)  # type: ignore[method-assign, assignment]
    return app


class Routes:
    """A method for each endpoint."""

    def __init__(self, backend: Backend, counts: RequestCounts, page: Page) -> None:
        self._backend, self._counts, self._page = backend, counts, page
        self._exposition = Exposition(backend, counts)
        self._version = package_version("image-classifier-backend")
        self._single_image = SingleImage(backend)
        self._projects, self._serving, self._queue = backend.projects, backend.serving, backend.queue

    def table(self) -> dict[tuple[str, str], Callable[..., Any]]:
        """The endpoints, by method and path."""
        return {
            ("GET", "/"): self.home,
            ("GET", "/health"): self.health,
            ("GET", "/troubles"): self.troubles,
            ("POST", "/api/troubles/check"): self.check_troubles,
            ("GET", "/ready"): self.ready,
            ("POST", "/setup"): self.setup,
            ("POST", "/predict"): self.predict,
            ("POST", "/webhook"): self.webhook,
            ("POST", "/train"): self.train,
            ("POST", "/api/models/train"): self.train,
            ("POST", "/api/models/predict"): self.predict_image,
            ("POST", "/api/models/retrain"): self.correct_image,
            ("POST", "/job_status"): self.job_status,
            ("POST", "/api/jobs/<job_id>/cancel"): self.cancel_job,
            ("GET", "/is_training"): self.is_training,
            ("GET", "/versions"): self.versions_of_the_only_project,
            ("POST", "/versions"): self.versions,
            ("POST", "/api/models/activate"): self.activate,
            ("POST", "/validate"): self.validate,
            ("POST", "/delete"): self.delete,
            ("POST", "/duplicate_model"): self.duplicate_model,
            ("GET", "/metrics"): self._exposition.response,
            ("GET", "/openapi.json"): self.description,
        }

    # --- how it is ----------------------------------------------------------

    def home(self) -> Answer:
        """The page for browsers, the health for programs."""
        return self._page.projects() if wants_page() else self.health()

    def health(self) -> Json:
        """200 as long as the process lives; what is amiss stands in `problems`."""
        return {
            "status": "UP",
            "version": self._version,
            "model_class": self._backend.settings.model_class,
            "model": self._serving.description,
            "ready": self._serving.ready,
            "projects": len(self._projects.all()),
            "problems": [str(trouble) for trouble in diagnose(self._backend)],
        }

    def troubles(self) -> Answer:
        """What is wrong and what to do; a page for browsers, objects with a stable `code` for programs."""
        if wants_page():
            return self._page.troubles()
        return {"troubles": [trouble.record() for trouble in diagnose(self._backend)]}

    def check_troubles(self) -> tuple[Json, int]:
        """Has Label Studio asked again, in the background, how it sees this backend."""
        self._backend.checkup.look_again()
        return {"status": "asked"}, 202

    def ready(self) -> Answer:
        """200 when every project that has a version can be predicted, else 503."""
        return ({"ready": True}, 200) if self._serving.ready else ({"ready": False}, 503)

    def description(self) -> Json:
        """This description of the endpoints."""
        return openapi(self.table(), protected=self._backend.settings.basic_auth is not None)

    # --- Label Studio's protocol --------------------------------------------

    def setup(self) -> Json:
        """Remembers the project and its labeling config; names the live version."""
        body = _read(SetupRequest)
        self._remember(body.project, label_config=body.label_config or None)
        self._backend.webhook_password.called(body.project, request.host)
        if self._backend.settings.trusts_setup and body.hostname and body.access_token:
            self._projects.remember_credentials(body.project, Credentials(body.hostname, body.access_token))
        return {"model_version": self._serving.version_name(body.project)}

    def predict(self) -> Json:
        """One result for each task, in order: a prediction, or `[]`."""
        deadline = time.monotonic() + PREDICT_SECONDS
        body = _read(PredictRequest)
        project = self._project_to_predict(body)
        self._backend.renewal.asked(project.uid, _numbers(task.id for task in body.tasks))
        live = self._serving.live(project.uid, deadline)
        tasks = [task.model_dump() for task in body.tasks]
        if live.model is None or not tasks:
            self._counts.failed("untrained", len(tasks))
            return {"results": [[] for _ in tasks], "model_version": live.name}
        label_config = body.label_config or project.label_config
        tag = parse_label_config(label_config, self._backend.settings.choices).image_choices
        why: dict[int, str] = {}
        reasons: dict[int, str] = {}

        def failed(position: int, said: str, reason: str = "other") -> None:
            why[position], reasons[position] = said, reason

        results = live.predict(tasks, label_config=label_config, deadline=deadline, failed=failed)
        if any(results):
            self._backend.title_keeper.predicted(project.uid)
        if tag:
            self._backend.recent.note(project.uid, sightings(tasks, results, why, tag.field, live.name))
        for position, result in enumerate(results):
            if result:
                self._counts.predicted.inc()
            else:
                self._counts.failed(reasons.get(position, "no_answer" if tag else "no_choices"))
        return {"results": results, "model_version": live.name}

    def _project_to_predict(self, body: PredictRequest) -> Project:
        if body.project is None or "." not in body.project:  # people, not Label Studio
            return self._find(body.project)
        return self._remember(body.project, label_config=body.label_config or None)

    def _find(self, name: str | None) -> Project:
        """As `Projects.find`; from here on log lines name the project, as after `_remember`."""
        project = self._projects.find(name)
        context.now_for(project=project.uid)
        return project

    def _remember(self, uid: str, *, label_config: str | None = None, title: str | None = None) -> Project:
        context.now_for(project=uid)
        return self._projects.remember(uid, label_config=label_config, title=title)

    def webhook(self) -> Answer:
        """Events, and the button "Start training"; never waits for training."""
        body = _read(WebhookRequest)
        project = self._project_of_event(body.project)
        if body.action == "START_TRAINING":
            return _started(self._queue.submit(project.uid, "full", "Start training was pressed"))
        if body.action in ANNOTATION_EVENTS:
            self._backend.webhook_password.heard(project.uid)
            self._backend.retraining.changed(project.uid, body.action, body.changes)
            self._backend.recent.forget(project.uid, _numbers(one.annotation.get("task") for one in body.changes))
        elif body.action == "TASKS_CREATED":
            self._serving.prepare(project, body.tasks)
            self._backend.renewal.imported(project.uid)
        elif body.action == "TASKS_DELETED":
            self._projects.changes(project.uid).forget_tasks()  # their annotations go without an event of their own
            self._backend.recent.forget(project.uid, _numbers(task.get("id") for task in body.tasks))
        return {"status": "ok", "action": body.action}

    def _project_of_event(self, described: Json | None) -> Project:
        """The project that an event describes; a bare event names it as /webhook?project=7, or means the only one."""
        if described is None or "id" not in described:
            return self._find(request.args.get("project") or None)
        try:
            uid = project_uid(described)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        config, title = described.get("label_config"), described.get("title")
        return self._remember(
            uid,
            label_config=config if isinstance(config, str) else None,
            title=title if isinstance(title, str) else None,
        )

    def train(self) -> Answer:
        """Starts a training by hand; annotated tasks in the body are what it learns from."""
        body = _read(TrainRequest)
        if body.project is not None and body.annotations and "." in body.project:
            project = self._remember(body.project, label_config=body.label_config)
        else:
            project = self._find(body.project)
        if body.annotations is not None:
            keep_annotations(
                self._projects, project.uid, [task.model_dump(exclude_unset=True) for task in body.annotations]
            )
        return _started(self._queue.submit(project.uid, "full", "asked for by hand"))

    # --- one image ----------------------------------------------------------

    def predict_image(self) -> Json:
        """What one image shows: the likeliest choice, and the probability of each."""
        deadline = time.monotonic() + PREDICT_SECONDS
        body, image = _read_with_image(ImageRequest, self._backend.settings.max_image_bytes)
        return self._single_image.predict(self._find(body.project), image, deadline)

    def correct_image(self) -> Answer:
        """Teaches the right label of one image, which is kept for later trainings too; starts a training."""
        deadline = time.monotonic() + PREDICT_SECONDS
        body, image = _read_with_image(CorrectionRequest, self._backend.settings.max_image_bytes)
        return _started(self._single_image.correct(self._find(body.project), image, body.label, deadline))

    # --- labeling configs ---------------------------------------------------

    def validate(self) -> Json:
        """Whether a labeling config has something to learn, and why not."""
        config = parse_label_config(_read(ValidateRequest).config, self._backend.settings.choices)
        return {
            "valid": config.image_choices is not None,
            "message": config.problem,
            "choices": list(config.choices),
        }

    # --- jobs ---------------------------------------------------------------

    def job_status(self) -> Json:
        """How a job is going."""
        return _described(self._backend.job_store.get(_read(JobRequest).job))

    def cancel_job(self, job_id: str) -> Json:
        """Ends a job; one that runs ends at its next step."""
        job = self._queue.cancel(job_id)
        context.now_for(project=job.project, job=job.id)
        return _described(job)

    def is_training(self) -> Json:
        """Whether a job runs or waits for the project."""
        project = self._projects.find(request.args.get("project") or None)
        jobs = [job for job in self._backend.job_store.of_project(project.uid) if job.unfinished]
        return {
            "is_training": bool(jobs),
            "job": jobs[0].id if jobs else None,
            "jobs": [_described(job) for job in jobs],
            "model_version": self._serving.version_name(project.uid),
        }

    # --- versions -----------------------------------------------------------

    def versions_of_the_only_project(self) -> Json:
        """Label Studio names no project here; at a 404 it falls back to the version that it knows."""
        projects = self._projects.all()
        if len(projects) != 1:
            raise NotFound('GET /versions names no project, and there is not just one: POST {"project": id}')
        return self._versions_of(projects[0])

    def versions(self) -> Json:
        """The versions of a project, the newest first."""
        return self._versions_of(self._projects.find(_read(ProjectRequest).project))

    def _versions_of(self, project: Project) -> Json:
        versions = Versions(self._projects.folder(project.uid))
        newest_first = versions.all()[::-1]
        return {
            "versions": [version.name for version in newest_first],
            "live": versions.live_name(),
            "details": [version.record() for version in newest_first],
        }

    def activate(self) -> Json:
        """Makes a version live, an older one too."""
        body = _read(ActivateRequest)
        project = self._find(body.project)
        version = Versions(self._projects.folder(project.uid)).activate(body.version)
        return {"live": version.name, "project": project.uid}

    def delete(self) -> Json:
        """Forgets a project: its jobs are canceled, its versions removed."""
        project = self._find(_read(ProjectRequest).project)
        # The newest first: what waits must not start when what runs is ended.
        for job in self._backend.job_store.of_project(project.uid)[::-1]:
            if job.unfinished:
                self._queue.cancel(job.id)
        self._projects.delete(project.uid)
        return {"deleted": project.uid}

    def duplicate_model(self) -> Json:
        """Gives another project a copy of this one's live version."""
        body = _read(DuplicateRequest)
        source = self._find(body.project_src)
        destination = body.project_dst
        if "." not in destination:  # people, not Label Studio
            destination = self._projects.find(destination).uid
        live = Versions(self._projects.folder(source.uid)).live()
        if live is None:
            raise NotFound(f"project {source.uid} has no version to copy yet")
        target = Versions(self._projects.folder(destination))
        copy = target.copy_from(live, cause=f"copied from project {source.uid}", choices=live.choices)
        self._projects.remember(destination)
        return {"live": copy.name, "project": destination}


def _read(model: type[Body]) -> Body:
    """The request's JSON body; an empty one is `{}`. Raises BadRequest that names the field."""
    raw = request.get_data()
    try:
        return model.model_validate_json(raw if raw.strip() else b"{}")
    except ValidationError as error:
        raise _named(error) from None


def _named(error: ValidationError) -> BadRequest:
    faults = (f"{'.'.join(str(part) for part in fault['loc']) or 'body'}: {fault['msg']}" for fault in error.errors())
    return BadRequest("; ".join(list(faults)[:5]))


ImageBody = TypeVar("ImageBody", bound=ImageRequest)


def _read_with_image(model: type[ImageBody], max_bytes: int) -> tuple[ImageBody, Image]:
    """The fields of a form with an uploaded image, or of a JSON body with its URL; raises BadRequest."""
    upload = None
    if request.mimetype == "multipart/form-data":
        fields = {name: values if len(values) > 1 else values[0] for name, values in request.form.lists()}
        try:
            body = model.model_validate(fields)
        except ValidationError as error:
            raise _named(error) from None
        upload = request.files.get("image")
    else:
        body = _read(model)
    if bool(upload) is bool(body.url):
        raise BadRequest("image: upload one as the field `image` of a multipart form, or give its address as `url`")
    # One byte more than is allowed tells that it is too large.
    return body, upload.stream.read(max_bytes + 1) if upload else body.url or ""


def _numbers(values: Iterable[Any]) -> list[int]:
    """Of what names tasks, what can be a task's id."""
    return [value for value in values if isinstance(value, int)]


def _started(job: Job) -> tuple[Json, int]:
    context.now_for(job=job.id)
    return {"job": job.id, "job_id": job.id, "job_status": job.status}, 201


def _described(job: Job) -> Json:
    return {
        "job": job.id,
        "job_status": job.status,
        "kind": job.kind,
        "cause": job.cause,
        "request_id": job.request_id or None,
        "progress": job.progress,
        "error": job.error or None,
        "result": job.result or None,
        "created_at": job.created,
        "started_at": job.started,
        "ended_at": job.ended,
    }


def _guard(app: Flask, basic_auth: tuple[str, str] | None, event_refused: Callable[[], None]) -> None:
    """Asks for the password where one is set, and refuses what a page of another site sends."""

    @app.before_request
    def check_password() -> Response | None:
        if basic_auth is None or request.path == "/ready":
            return None
        given = request.authorization
        user, password = (given.username or "", given.password or "") if given else ("", "")
        right = hmac.compare_digest(user.encode(), basic_auth[0].encode())
        if hmac.compare_digest(password.encode(), basic_auth[1].encode()) and right:
            return None
        if given is None and request.path == "/webhook":
            event_refused()
        refusal = jsonify(_said("this backend wants a password: connect as http://user:password@host:port"))
        refusal.status_code = 401
        refusal.headers["WWW-Authenticate"] = 'Basic realm="image classifier"'
        return refusal

    @app.before_request
    def check_origin() -> tuple[Json, int] | None:
        # Browsers name the page that sends a form; Label Studio and programs send no Origin.
        origin = request.headers.get("Origin")
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return None
        if origin is None and request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
            return None
        if origin is None or origin.partition("://")[2] != request.host:
            return _said(f"requests from pages of other sites ({(origin or 'not named')[:100]}) are refused"), 403
        if basic_auth is None and _anyone_may_own(request.host):
            said = f"requests from pages under a name like {request.host[:100]} are refused where no password is set"
            return _said(f"{said}: set BASIC_AUTH_USER and BASIC_AUTH_PASS"), 403
        return None


def _anyone_may_own(host: str) -> bool:
    """Whether it is a name that its owner can bind to this machine's address, so that his page passes for ours.

    An address is none, nor is a name without a dot (`localhost`, or a service of compose).
    """
    name = host.rpartition(":")[0] or host
    if name.startswith("[") or name.replace(".", "").isdigit():
        return False
    return "." in name.rstrip(".")


def _keep_threads_for_predictions(app: Flask) -> None:
    """Where the disk of MODEL_DIR hangs, what waits for it must not take all of uWSGI's threads."""
    others = threading.BoundedSemaphore(OTHERS_AT_ONCE)

    @app.before_request
    def enter() -> tuple[Json, int] | None:
        if request.path in FROM_MEMORY:
            return None
        if not others.acquire(timeout=OTHERS_WAIT_SECONDS):
            return {"error": f"{OTHERS_AT_ONCE} requests wait already: does the disk of MODEL_DIR answer?"}, 503
        request.environ["my_backend.entered"] = True
        return None

    @app.teardown_request
    def leave(error: BaseException | None) -> None:
        if request.environ.pop("my_backend.entered", False):
            others.release()


def _handle_errors(app: Flask, counts: RequestCounts) -> None:
    """Every error is JSON; none shows a traceback."""

    @app.errorhandler(BackendError)
    def expected(error: BackendError) -> tuple[Json, int]:
        if error.status >= 500:
            log.warning("%s %s: %s", request.method, request.path, error)
        return _said(str(error)), error.status

    @app.errorhandler(HTTPException)
    def http(error: HTTPException) -> tuple[Json, int, dict[str, str]]:
        headers = {"Allow": ", ".join(sorted(error.valid_methods or ()))} if isinstance(error, MethodNotAllowed) else {}
        return _said(f"{error.name}: {request.method} {request.path[:200]}"), error.code or 500, headers

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> tuple[Json, int]:
        counts.errors.inc()
        log.exception("%s %s failed", request.method, request.path)
        return _said("an unexpected error, which is in the backend's log"), 500


def _said(error: str) -> Json:
    """An error's answer: what is wrong, and by which id the log's lines are found."""
    return {"error": error, "request_id": context.ids().get("request_id", "")}


def _with_request_id(app: WSGIApplication) -> WSGIApplication:
    """Around everything, so that each line and each answer has it; a caller's own id goes on."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        given = str(environ.get("HTTP_X_REQUEST_ID", ""))
        request_id = given if _REQUEST_ID.fullmatch(given) else token_hex(8)

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, [*headers, ("X-Request-ID", request_id)], *more)

        with context.working_for(request_id=request_id):
            return app(environ, start)

    return answer


_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _measure(app: Flask, counts: RequestCounts) -> None:
    """Every request, those too that are refused."""

    @app.before_request
    def begin() -> None:
        request.environ["my_backend.begin"] = time.perf_counter()
        counts.in_progress.inc()

    @app.after_request
    def end(response: Response) -> Response:
        spent = time.perf_counter() - request.environ["my_backend.begin"]
        endpoint = request.url_rule.rule if request.url_rule else "unknown"
        counts.requests.labels(endpoint, _method(), str(response.status_code)).inc()
        counts.seconds.labels(endpoint).observe(spent)
        _tell(response.status_code, spent)
        return response

    @app.teardown_request
    def leave(error: BaseException | None) -> None:
        counts.in_progress.dec()


def _tell(status: int, seconds: float) -> None:
    """One line a request; those that only look and find what they look for are many, and seldom of interest."""
    level = logging.DEBUG if request.method in ("GET", "HEAD") and status < 400 else logging.INFO
    milliseconds = round(seconds * 1000, 1)
    fields = {"method": request.method, "path": request.path, "status": status, "milliseconds": milliseconds}
    text = "%s %s: %s in %.1f ms"
    log.log(level, text, request.method, request.path, status, milliseconds, extra={"fields": fields})


def _method() -> str:
    """Anybody may make one up."""
    return request.method if request.method in ("GET", "HEAD", "POST", "OPTIONS") else "other"
