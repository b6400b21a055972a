"""The endpoints: Label Studio's protocol, and those for people and other programs."""

import time
from collections.abc import Callable, Iterable
from importlib.metadata import version as package_version
from typing import Any

from flask import Response, request

from label_studio_format.labeling_config import parse_label_config
from my_backend import context
from my_backend.backend import Backend
from my_backend.errors import BadRequest, NotFound
from my_backend.jobs.record import Job
from my_backend.jobs.training_job import forget_annotations, keep_annotations
from my_backend.metrics.counters import RequestCounts
from my_backend.projects.recent_predictions import sightings
from my_backend.projects.registry import Credentials, Project
from my_backend.projects.versions import Versions
from my_backend.redaction import redact, said
from my_backend.requests import (
    ActivateRequest,
    CorrectionRequest,
    DeleteRequest,
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
from my_backend.web.api.labeling import LabelingRoutes
from my_backend.web.api.openapi import openapi
from my_backend.web.api.single_image import SingleImage
from my_backend.web.browser import wants_page
from my_backend.web.middleware.auth import is_known, require_token
from my_backend.web.middleware.parsing import read, read_with_image
from my_backend.web.pages.routes import Page
from my_backend.web.prometheus.collector import Exposition

PREDICT_SECONDS = 80.0  # Label Studio waits for 100 s and then discards all predictions
LONGEST_TITLE = 1000  # Label Studio allows 50 characters
ANNOTATION_EVENTS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED", "ANNOTATIONS_DELETED")

Answer = Json | tuple[Json, int] | Response

# Former names of endpoints, for scripts that still use them.
ALIASES = {
    ("GET", "/troubles"): ("GET", "/problems"),
    ("POST", "/api/troubles/check"): ("POST", "/api/problems/check"),
}


class Routes:
    """A method for each endpoint."""

    def __init__(self, backend: Backend, counts: RequestCounts, page: Page) -> None:
        self._backend, self._counts, self._page = backend, counts, page
        self._exposition = Exposition(backend, counts)
        self._version = package_version("image-classifier-backend")
        self._single_image = SingleImage(backend)
        self._labeling = LabelingRoutes(backend)
        self._projects, self._serving, self._queue = backend.projects, backend.serving, backend.queue

    def table(self) -> dict[tuple[str, str], Callable[..., Any]]:
        """The endpoints, by method and path."""
        return {
            ("GET", "/"): self.home,
            ("GET", "/health"): self.health,
            ("GET", "/problems"): self.problems,
            ("POST", "/api/problems/check"): self.check_problems,
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
            ("POST", "/api/labeling/groups"): self._labeling.groups,
            ("POST", "/api/labeling/similar"): self._labeling.similar,
            ("POST", "/api/labeling/runs"): self._labeling.start,
            ("GET", "/api/labeling/runs"): self._labeling.runs,
            ("GET", "/api/labeling/runs/<run_id>"): self._labeling.run,
            ("POST", "/api/labeling/runs/<run_id>/undo"): self._labeling.undo,
            ("POST", "/api/labeling/runs/<run_id>/resume"): self._labeling.resume,
            ("POST", "/delete"): self.delete,
            ("POST", "/duplicate_model"): self.duplicate_model,
            ("GET", "/metrics"): self._exposition.response,
            ("GET", "/openapi.json"): self.description,
        }

    # --- status -------------------------------------------------------------

    def home(self) -> Answer:
        """The page for browsers, `/health` for programs."""
        return self._page.projects() if wants_page() else self.health()

    def health(self) -> Json:
        """200 as long as the process is running; `problems` says what is wrong."""
        return {
            "status": "UP",
            "version": self._version,
            "model_class": self._backend.settings.model_class,
            "model": self._serving.description,
            "ready": self._serving.ready,
            "projects": len(self._projects.all()),
            "problems": [str(problem) for problem in self._backend.summary.problems()],
        }

    def problems(self) -> Answer:
        """Problems and their fixes: a page for browsers, JSON with stable codes for programs; alias: `/troubles`."""
        if wants_page():
            return self._page.problems()
        return {"troubles": [problem.record() for problem in self._backend.summary.problems()]}

    def check_problems(self) -> tuple[Json, int]:
        """Checks again, in the background, how Label Studio sees this backend."""
        self._backend.monitor.look_again()
        return {"status": "asked"}, 202

    def ready(self) -> Answer:
        """200 if predictions work for every project that has a version, otherwise 503."""
        return ({"ready": True}, 200) if self._serving.ready else ({"ready": False}, 503)

    def description(self) -> Json:
        """This description of the endpoints."""
        return openapi(self.table(), protected=self._backend.settings.basic_auth is not None)

    # --- Label Studio's protocol --------------------------------------------

    def setup(self) -> Json:
        """Stores the project and its labeling config; returns the live version."""
        body = read(SetupRequest)
        self._remember(body.project, label_config=body.label_config or None)
        self._backend.webhook_password.called(body.project, request.host)
        if is_known(self._backend.settings) and body.hostname and body.access_token:
            self._projects.remember_credentials(body.project, Credentials(body.hostname, body.access_token))
        return {"model_version": self._serving.version_name(body.project)}

    def predict(self) -> Json:
        """Predicts tasks: one result for each task, in order, which is a prediction or `[]`."""
        deadline = time.monotonic() + PREDICT_SECONDS
        body = read(PredictRequest)
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

        def failed(position: int, text: str, reason: str = "other") -> None:
            why[position], reasons[position] = redact(text), reason

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
        return {"results": self._backend.renewal.ranked(project.uid, tasks, results), "model_version": live.name}

    def _project_to_predict(self, body: PredictRequest) -> Project:
        if body.project is None or "." not in body.project:  # sent by people, not by Label Studio
            return self._find(body.project)
        return self._remember(body.project, label_config=body.label_config or None)

    def _find(self, name: str | None) -> Project:
        """Like `Projects.find`; also adds the project to the following log lines, as `_remember` does."""
        project = self._projects.find(name)
        context.now_for(project=project.uid)
        return project

    def _remember(self, uid: str, *, label_config: str | None = None, title: str | None = None) -> Project:
        context.now_for(project=uid)
        return self._projects.remember(uid, label_config=label_config, title=title)

    def webhook(self) -> Answer:
        """Receives events and the "Start Training" button; never waits for a training."""
        body = read(WebhookRequest)
        project = self._project_of_event(body.project)
        if body.action == "START_TRAINING":
            return _started(self._queue.submit(project.uid, "full", "Start Training pressed"))
        if body.action in ANNOTATION_EVENTS:
            self._backend.webhook_password.heard(project.uid)
            self._backend.retraining.changed(project.uid, body.action, body.changes)
            self._backend.recent.forget(project.uid, _numbers(one.annotation.get("task") for one in body.changes))
        elif body.action.startswith(
            "REVIEW"
        ):  # REVIEW_CREATED, REVIEW_UPDATED, REVIEWS_DELETED of the Enterprise edition
            self._projects.changes(project.uid).forget_tasks()  # they don't include the current annotation
            self._backend.retraining.changed(project.uid, body.action, body.changes)
        elif body.action == "TASKS_CREATED":
            self._serving.prepare(project, body.tasks)
            self._backend.renewal.imported(project.uid)
        elif body.action == "TASKS_DELETED":
            self._projects.changes(project.uid).forget_tasks()  # their annotations are deleted without an event
            self._backend.recent.forget(project.uid, _numbers(task.get("id") for task in body.tasks))
        return {"status": "ok", "action": body.action}

    def _project_of_event(self, described: Json | None) -> Project:
        """The project of an event; without a description it is `/webhook?project=7`, or the only project."""
        if described is None or "id" not in described:
            return self._find(request.args.get("project") or None)
        try:
            uid = project_uid(described)
        except ValueError as error:
            raise BadRequest(said(error)) from None
        config, title = described.get("label_config"), described.get("title")
        return self._remember(
            uid,
            label_config=config if isinstance(config, str) else None,
            title=title[:LONGEST_TITLE] if isinstance(title, str) else None,
        )

    def train(self) -> Answer:
        """Starts a training; learns from the annotated tasks in the body if there are any."""
        body = read(TrainRequest)
        if body.project is not None and body.annotations and "." in body.project:
            project = self._remember(body.project, label_config=body.label_config)
        else:
            project = self._find(body.project)
        if body.annotations is not None:
            keep_annotations(
                self._projects, project.uid, [task.model_dump(exclude_unset=True) for task in body.annotations]
            )
        return _started(self._queue.submit(project.uid, "full", "started manually"))

    # --- one image ----------------------------------------------------------

    def predict_image(self) -> Json:
        """Predicts one image: the most likely choice, and the probability of each."""
        deadline = time.monotonic() + PREDICT_SECONDS
        body, image = read_with_image(ImageRequest, self._backend.settings.max_image_bytes)
        return self._single_image.predict(self._find(body.project), image, deadline)

    def correct_image(self) -> Answer:
        """Corrects the label of one image, stores it for future trainings, and starts a training."""
        deadline = time.monotonic() + PREDICT_SECONDS
        body, image = read_with_image(CorrectionRequest, self._backend.settings.max_image_bytes)
        return _started(self._single_image.correct(self._find(body.project), image, body.label, deadline))

    # --- labeling configs ---------------------------------------------------

    def validate(self) -> Json:
        """Whether the backend can learn from a labeling config, and why not."""
        config = parse_label_config(read(ValidateRequest).config, self._backend.settings.choices)
        return {
            "valid": config.image_choices is not None,
            "message": config.problem,
            "choices": list(config.choices),
        }

    # --- jobs ---------------------------------------------------------------

    def job_status(self) -> Json:
        """The state and progress of a job."""
        return _described(self._backend.job_store.get(read(JobRequest).job))

    def cancel_job(self, job_id: str) -> Json:
        """Cancels a job; a running one stops at its next step."""
        waited = self._backend.job_store.get(job_id).status == "queued"
        job = self._queue.cancel(job_id)
        if waited and job.kind == "full" and job.status == "canceled":  # a job that has started forgets them itself
            forget_annotations(self._projects, job.project)
        context.now_for(project=job.project, job=job.id)
        return _described(job)

    def is_training(self) -> Json:
        """Whether the project has a running or queued job."""
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
        """The versions of the only project; 404 if there are several, because Label Studio names none here."""
        projects = self._projects.all()
        if len(projects) != 1:
            raise NotFound('GET /versions works only if there is exactly one project: POST {"project": id} instead')
        return self._versions_of(projects[0])

    def versions(self) -> Json:
        """The versions of a project, the newest first."""
        return self._versions_of(self._projects.find(read(ProjectRequest).project))

    def _versions_of(self, project: Project) -> Json:
        versions = Versions(self._projects.folder(project.uid))
        newest_first = versions.all()[::-1]
        return {
            "versions": [version.name for version in newest_first],
            "live": versions.live_name(),
            "details": [version.record() for version in newest_first],
        }

    def activate(self) -> Json:
        """Makes a version live; it may be an older one."""
        body = read(ActivateRequest)
        project = self._find(body.project)
        version = Versions(self._projects.folder(project.uid)).activate(body.version)
        return {"live": version.name, "project": project.uid}

    def delete(self) -> Answer:
        """Deletes a project: cancels its jobs and removes its versions; needs the password or a token."""
        body = read(DeleteRequest)
        project = self._find(body.project)
        if is_known(self._backend.settings):
            self._backend.delete(project)
            return {"deleted": project.uid}
        require_token(self._backend.settings, body.token)
        self._backend.token_gate.ask(project, body.token, "Deleting the project", lambda: self._backend.delete(project))
        return {"status": "asked"}, 202

    def duplicate_model(self) -> Json:
        """Copies a project's live version to another project."""
        body = read(DuplicateRequest)
        source = self._find(body.project_src)
        destination = body.project_dst
        if "." not in destination:  # sent by people, not by Label Studio
            destination = self._projects.find(destination).uid
        live = Versions(self._projects.folder(source.uid)).live()
        if live is None:
            raise NotFound(f"project {source.uid} has no version to copy yet")
        target = Versions(self._projects.folder(destination))
        copy = target.copy_from(live, cause=f"copied from project {source.uid}", choices=live.choices)
        self._projects.remember(destination)
        return {"live": copy.name, "project": destination}


def _numbers(values: Iterable[Any]) -> list[int]:
    """The values that can be task ids."""
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
