"""The endpoints that Label Studio calls while people label: setup, predictions, events and training."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from label_studio_format.labeling_config import parse_label_config
from my_backend.backend import Backend
from my_backend.counters.in_process import RequestCounts
from my_backend.errors import BadRequest
from my_backend.projects.project import Project
from my_backend.projects.recent_predictions import sightings
from my_backend.projects.registry import Credentials
from my_backend.projects.sent_annotations import SentAnnotations
from my_backend.projects.uid import project_uid
from my_backend.web.api.jobs import StartedJob, started
from my_backend.web.api.labeling_configs import LABELING_CONFIG_BYTES
from my_backend.web.api.responses import Answer, ModelVersion
from my_backend.web.bodies import Json, PredictRequest, SetupRequest, TrainRequest, WebhookRequest
from my_backend.web.endpoint import endpoint
from my_backend.web.lookup import PROJECT_QUERY, find_project, remember_project
from my_backend.web.middleware.auth import is_known, requested_host
from safe_http.redaction import said

# Label Studio sends whole tasks, with their annotations and predictions, and images as `data:` URLs.
TASKS_BYTES, EVENT_BYTES = 128_000_000, 64_000_000
LONGEST_TITLE = 1000  # Label Studio allows 50 characters
ANNOTATION_EVENTS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED", "ANNOTATIONS_DELETED")


class Prediction(BaseModel):
    """A prediction in Label Studio's format."""

    model_config = ConfigDict(extra="allow", frozen=True)

    result: Annotated[list[Json], Field(min_length=1)]
    """The results in Label Studio's format."""

    score: float | None = None
    """The score by which Label Studio can sort tasks."""

    model_version: str
    """The version that made the prediction."""


class Predictions(ModelVersion):
    """Predictions of tasks."""

    results: list[Prediction | Annotated[list[Any], Field(max_length=0)]]
    """A prediction for each task, in order; `[]` for a task that can't be predicted."""


class EventTaken(Answer):
    """The event was received."""

    status: Literal["ok"]
    """Always `ok`."""

    action: str
    """The event's name."""


class ProtocolEndpoints:
    """No request waits for a training run; `/predict` waits for a model that is loading."""

    def __init__(self, backend: Backend, counts: RequestCounts) -> None:
        self._backend, self._counts = backend, counts
        self._projects, self._serving, self._queue = backend.projects, backend.serving, backend.queue

    @endpoint("POST", "/setup", answers={200: ModelVersion}, max_body=LABELING_CONFIG_BYTES)
    def setup(self, body: SetupRequest) -> Json:
        """Stores the project and its labeling config; returns the live version."""
        self._projects.notice_deletion(body.project)
        remember_project(self._projects, body.project, label_config=body.label_config or None)
        self._backend.webhook_password.called(body.project, requested_host())
        if is_known(self._backend.settings) and body.hostname and body.access_token:
            self._projects.remember_credentials(body.project, Credentials(body.hostname, body.access_token))
        return {"model_version": self._serving.version_name(body.project)}

    @endpoint("POST", "/predict", answers={200: Predictions}, errors=(404, 503), max_body=TASKS_BYTES)
    def predict(self, body: PredictRequest, deadline: float) -> Json:
        """Predicts tasks: one result for each task, in order, which is a prediction or `[]`."""
        project = self._project_to_predict(body)
        self._backend.prediction_refresh.asked(project.uid, _numbers(task.id for task in body.tasks))
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
            why[position], reasons[position] = text, reason

        results = live.predict(tasks, label_config=label_config, deadline=deadline, failed=failed)
        if any(results):
            self._backend.title_sync.predicted(project.uid)
        if tag:
            self._backend.recent.note(project.uid, sightings(tasks, results, why, tag.field, live.name))
        for position, result in enumerate(results):
            if result:
                self._counts.predicted.inc()
            else:
                self._counts.failed(reasons.get(position, "no_answer" if tag else "no_choices"))
        ranked = self._backend.prediction_refresh.ranked(project.uid, tasks, results)
        return {"results": ranked, "model_version": live.name}

    def _project_to_predict(self, body: PredictRequest) -> Project:
        if body.project is None or "." not in body.project:  # sent by people, not by Label Studio
            return find_project(self._projects, body.project)
        return remember_project(self._projects, body.project, label_config=body.label_config or None)

    @endpoint(
        "POST",
        "/webhook",
        answers={200: EventTaken, 201: StartedJob},
        errors=(404,),
        query=PROJECT_QUERY,
        max_body=EVENT_BYTES,
    )
    def webhook(self, body: WebhookRequest, project: str | None) -> Json | tuple[Json, int]:
        """Receives events and the "Start Training" button; never waits for a training run."""
        found = self._project_of_event(body.project, project)
        if body.action == "START_TRAINING":
            return started(self._queue.submit(found.uid, "full", "Start Training pressed"))
        if body.action in ANNOTATION_EVENTS:
            self._backend.webhook_password.heard(found.uid)
            self._backend.retraining.changed(found.uid, body.action, body.changes)
            self._backend.recent.forget(found.uid, _numbers(one.annotation.get("task") for one in body.changes))
        elif body.action.startswith(
            "REVIEW"
        ):  # REVIEW_CREATED, REVIEW_UPDATED, REVIEWS_DELETED of the Enterprise edition
            found.annotation_log.forget_tasks()  # they don't include the current annotation
            self._backend.retraining.changed(found.uid, body.action, body.changes)
        elif body.action == "TASKS_CREATED":
            self._serving.prepare(found, body.tasks)
            self._backend.prediction_refresh.imported(found.uid)
        elif body.action == "TASKS_DELETED":
            found.annotation_log.forget_tasks()  # their annotations are deleted without an event
            self._backend.recent.forget(found.uid, _numbers(task.get("id") for task in body.tasks))
        return {"status": "ok", "action": body.action}

    def _project_of_event(self, described: Json | None, queried: str | None) -> Project:
        """The project of an event; without a description it is `/webhook?project=7`, or the only project."""
        if described is None or "id" not in described:
            return find_project(self._projects, queried)
        try:
            uid = project_uid(described)
        except ValueError as error:
            raise BadRequest(said(error)) from None
        config, title = described.get("label_config"), described.get("title")
        return remember_project(
            self._projects,
            uid,
            label_config=config if isinstance(config, str) else None,
            title=title[:LONGEST_TITLE] if isinstance(title, str) else None,
        )

    @endpoint("POST", "/train", "/api/models/train", answers={201: StartedJob}, errors=(404,), max_body=TASKS_BYTES)
    def train(self, body: TrainRequest) -> Json | tuple[Json, int]:
        """Starts a training run, which learns from the annotated tasks in the body if there are any."""
        if body.project is not None and body.annotations and "." in body.project:
            project = remember_project(self._projects, body.project, label_config=body.label_config)
        else:
            project = find_project(self._projects, body.project)
        if body.annotations is not None:
            tasks = [task.model_dump(exclude_unset=True) for task in body.annotations]
            SentAnnotations(self._projects.folder(project.uid)).keep(tasks)
        return started(self._queue.submit(project.uid, "full", "started manually"))


def _numbers(values: Iterable[Any]) -> list[int]:
    """The values that can be task ids."""
    return [value for value in values if isinstance(value, int)]
