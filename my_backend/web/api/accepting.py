"""The endpoints that accept a model's predictions without review, with a guarantee about how many of them are wrong."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from my_backend.backend import Backend
from my_backend.labeling.auto_accept.acceptor import State
from my_backend.labeling.auto_accept.checks import Checks
from my_backend.labeling.auto_accept.records import Automatic, PlannedImage, PlannedPredictions
from my_backend.labeling.auto_accept.sample import Sample, accepted_by_choice, examples
from my_backend.projects.project import Project
from my_backend.web.api.labeling import LabelingRun, described
from my_backend.web.api.responses import Answer, Asked
from my_backend.web.bodies import (
    AcceptRequest,
    AutomaticRequest,
    CheckRequest,
    Json,
    PlanRequest,
    UndoAcceptedRequest,
)
from my_backend.web.endpoint import endpoint
from my_backend.web.lookup import PROJECT_QUERY, find_project
from my_backend.web.middleware.auth import is_known, require_token


class PlannedTask(Answer):
    """A task of a plan, and its label."""

    task: int
    """The task's id."""

    digest: str
    """The SHA-256 of the task's image."""

    label: str
    """The label that the task gets."""

    confidence: float
    """How probable the label is according to the model (0 to 1)."""


class SampleLabels(Answer):
    """The labels of the random sample."""

    labeled: int
    """The number of images of the sample that people have labeled."""

    wrong: int
    """How many of these labels contradict the model."""

    left: list[int]
    """Tasks to label one by one until the next decision."""

    again: list[int]
    """Those of `left` whose labels don't count: given in a group or without review, or different from each other."""

    lost: list[int]
    """Tasks that count as wrong because they were deleted or skipped."""

    possible: bool
    """Whether more labels can still show that the guarantee holds."""


class Acceptable(Answer):
    """What would be accepted now."""

    tasks: int
    """The number of tasks."""

    share: float
    """These tasks as a share of all planned tasks (0 to 1)."""

    checked: int
    """The number of labels in the sample for images whose predictions are as certain as these."""

    wrong: int
    """How many of these labels contradicted the model."""

    labels: dict[str, int]
    """The number of tasks for each choice."""

    examples: list[PlannedTask]
    """Random tasks among them."""


class AuditResult(Answer):
    """Random checks of the accepted images."""

    accepted: int
    """The number of accepted images."""

    checked: int
    """How many of them people have checked."""

    wrong: int
    """How many of the checked labels are wrong."""

    low: float
    """The lower end of the 95% confidence interval for the share of wrong labels (0 to 1)."""

    high: float
    """The upper end of this interval."""

    contradicted: bool
    """Whether the checks contradict the guarantee, or `overtaken` is so large that the sample no longer supports it."""

    overtaken: int
    """The number of accepted images that people labeled or deleted before the backend wrote its labels."""

    next: list[PlannedTask]
    """The images to check next."""


class Accepting(Answer):
    """The newest plan of a project."""

    status: Literal["none", "preparing", "sampling", "accepted", "undone"]
    """The plan's state: `none` if there is no plan; a discarded plan is `undone`, without a `run`."""

    error: str | None
    """Why the plan can't continue; null if it can."""

    plan: str | None
    """The plan's id."""

    percent: int | None
    """The largest percentage of the accepted labels that may be wrong, with 95% confidence."""

    version: str | None
    """The version whose predictions the plan has recorded; null while it is `preparing`."""

    created_at: float | None
    """When the plan was made, in seconds since 1970."""

    tasks: int
    """The number of planned tasks; while `preparing`, of all the project's tasks."""

    collected: int
    """How many of these tasks have been read."""

    sample: SampleLabels | None
    """The random sample that people label."""

    acceptable: Acceptable | None
    """What would be accepted now; null if nothing would."""

    run: LabelingRun | None
    """The labeling run that writes or removes the accepted labels."""

    audit: AuditResult | None
    """The random checks of the accepted labels."""

    automatic: bool
    """Whether labels are accepted as soon as a plan allows it."""

    stopped: str | None
    """Why the backend has turned off `automatic`; null if it hasn't."""


NOTHING: Json = dict.fromkeys(
    ("error", "plan", "percent", "version", "created_at", "sample", "acceptable", "run", "audit")
) | {"status": "none", "tasks": 0, "collected": 0}


class AcceptEndpoints:
    """No request calls Label Studio: one thread prepares plans and reads samples, and another writes the labels."""

    def __init__(self, backend: Backend) -> None:
        self._settings, self._projects, self._gate = backend.settings, backend.projects, backend.token_gate
        self._acceptor, self._pools = backend.acceptor, backend.pools

    @endpoint("GET", "/api/labeling/accept", answers={200: Accepting}, errors=(400, 404, 409), query=PROJECT_QUERY)
    def state(self, project: str | None) -> Json:
        """The state of the newest plan: the sample to label, what would be accepted now, and the audit."""
        return self._state(find_project(self._projects, project))

    @endpoint("POST", "/api/labeling/accept/plan", answers={202: Asked}, errors=(404, 409))
    def plan(self, body: PlanRequest) -> tuple[Json, int]:
        """Makes a plan: records the live version's predictions for unlabeled tasks, and draws the sample to label."""
        return self._ask(
            body,
            "Planning to accept labels",
            lambda project: self._acceptor.plan(project, body.percent / 100, replacing=body.replace),
        )

    @endpoint("POST", "/api/labeling/accept/write", answers={202: Asked}, errors=(404, 409, 503))
    def write(self, body: AcceptRequest) -> tuple[Json, int]:
        """Starts to write the labels that may be accepted to Label Studio; needs the password or a token."""
        return self._ask(body, "Accepting labels", lambda project: self._acceptor.accept(project, body.token))

    @endpoint("POST", "/api/labeling/accept/audit", answers={202: Asked}, errors=(404, 409))
    def audit(self, body: CheckRequest) -> tuple[Json, int]:
        """Stores what a person sees in the image of an accepted task; needs the password or a token."""
        return self._ask(body, "Checking a label", lambda project: self._acceptor.check(project, body.task, body.label))

    @endpoint("POST", "/api/labeling/accept/automatic", answers={202: Asked}, errors=(404, 409))
    def automatic(self, body: AutomaticRequest) -> tuple[Json, int]:
        """Turns automatic acceptance on or off; needs the password or a token."""
        return self._ask(
            body, "Accepting labels automatically", lambda project: self._acceptor.switch(project, on=body.on)
        )

    @endpoint("POST", "/api/labeling/accept/undo", answers={202: Asked}, errors=(404, 409))
    def undo(self, body: UndoAcceptedRequest) -> tuple[Json, int]:
        """Removes the accepted labels, except those that someone changed; if there are none yet, discards the plan.

        Needs the password or a token.
        """
        undo = partial(self._acceptor.undo, token=body.token, plan=body.plan)
        return self._ask(body, "Undoing accepted labels", undo)

    def _ask(self, body: AcceptRequest, what: str, do: Callable[[Project], object]) -> tuple[Json, int]:
        require_token(self._settings, body.token)
        project = find_project(self._projects, body.project)
        if is_known(self._settings):
            do(project)
        else:
            # Until Label Studio has confirmed the token, nothing changes.
            self._gate.ask(project, body.token, what, lambda: do(project))
        return {"status": "asked"}, 202

    def _state(self, project: Project) -> Json:
        found = self._acceptor.state(project)
        plan = NOTHING if found is None else state_of(found, self._pools.counts(project.uid))
        return plan | switch_of(self._acceptor.store.automatic(project.uid))


def state_of(found: State, counts: dict[str, int]) -> Json:
    """A plan as the endpoint and the command line show it; `counts` are those of the project's pool."""
    acceptance, predictions, sample = found.acceptance, found.predictions, found.sample
    tasks = len(predictions.images) if predictions else counts["tasks"]
    return {
        "status": found.status,
        "error": found.error or None,
        "plan": acceptance.id,
        "percent": round(100 * acceptance.alpha),
        "version": predictions.version if predictions else None,
        "created_at": acceptance.created,
        "tasks": tasks,
        "collected": tasks if predictions else counts["collected"],
        "sample": _sample(sample) if sample else None,
        "acceptable": _acceptable(predictions, sample) if predictions and sample and sample.accepted else None,
        "run": described(found.run) if found.run else None,
        "audit": _audit(found.checks) if found.checks else None,
    }


def switch_of(automatic: Automatic) -> Json:
    """Whether labels are accepted automatically, as the endpoint and the command line show it."""
    return {"automatic": automatic.on, "stopped": automatic.stopped or None}


def _sample(sample: Sample) -> Json:
    return {
        "labeled": len(sample.wrong),
        "wrong": sum(sample.wrong),
        "left": sample.open,
        "again": sample.again,
        "lost": sample.lost,
        "possible": not sample.hopeless,
    }


def _acceptable(predictions: PlannedPredictions, sample: Sample) -> Json:
    labels = accepted_by_choice(predictions, sample)
    return {
        "tasks": labels.total(),
        "share": labels.total() / len(predictions.images),
        "checked": sample.decision.checked,
        "wrong": sample.decision.wrong,
        "labels": dict(labels.most_common()),
        "examples": [_planned(image) for image in examples(predictions, sample)],
    }


def _audit(checks: Checks) -> Json:
    return {
        "accepted": checks.accepted,
        "checked": checks.checked,
        "wrong": checks.wrong,
        "low": checks.bounds.low,
        "high": checks.bounds.high,
        "contradicted": checks.contradicted,
        "overtaken": checks.overtaken,
        "next": [_planned(image) for image in checks.next],
    }


def _planned(image: PlannedImage) -> Json:
    return {
        "task": image.task,
        "digest": image.digest,
        "label": image.answer,
        "confidence": round(image.probability, 4),
    }
