"""The endpoints that label many tasks at once and undo it."""

from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from functools import partial

from my_backend import context
from my_backend.backend import Backend
from my_backend.labeling.pool.all_projects import Collected
from my_backend.labeling.pool.project_pool import Group as PoolGroup
from my_backend.labeling.pool.project_pool import ProjectPool
from my_backend.labeling.pool.project_pool import QueuedImage as PoolImage
from my_backend.labeling.runs.records import Action, Labels, Run, RunKind, RunStatus
from my_backend.web.api.project_images import ProjectImages, project_images
from my_backend.web.api.responses import Answer
from my_backend.web.bodies import (
    GroupsRequest,
    Json,
    LabelRequest,
    QueueRequest,
    RunRequest,
    SimilarRequest,
    UndoRequest,
)
from my_backend.web.endpoint import endpoint
from my_backend.web.lookup import PROJECT_QUERY, find_project
from my_backend.web.middleware.auth import is_known, require_token

RUN_BYTES = 4_000_000  # the ids of 100,000 tasks
SHOWN_GROUPS = 2  # the one to label now, and the next one, whose thumbnails the browser loads meanwhile


class Copy(Answer):
    """A task whose image shows the same as another one."""

    task: int
    """The task's id."""

    digest: str
    """The SHA-256 of its image."""


class GroupImage(Answer):
    """A task in a group."""

    task: int
    """The task's id."""

    digest: str
    """The SHA-256 of its image."""

    confidence: float | None
    """The probability that the group's suggested label is right for the image (0 to 1); null without a model."""

    copies: list[Copy]
    """Unlabeled tasks that get the same label; they join groups only after the image has a label."""


class Group(Answer):
    """Images that probably get the same choice."""

    proposal: str | None
    """The suggested label; null if the images don't look like any labeled image."""

    images: list[GroupImage]
    """The group's images, the most certain first."""


class Groups(ProjectImages):
    """Groups to label next."""

    groups: list[Group]
    """The groups, in the order in which to label them."""


class SimilarImage(Answer):
    """A task whose image looks like another one."""

    task: int
    """The task's id."""

    digest: str
    """The SHA-256 of its image."""

    similarity: float
    """How similar the two images are; 1 is the maximum."""

    label: str | None
    """The task's label, or its labels, separated by commas; null if it has none."""


class SimilarImages(Answer):
    """The tasks whose images look most like a task's."""

    images: list[SimilarImage]
    """The tasks, the most similar first."""


class QueuedImage(Answer):
    """A task to label."""

    task: int
    """The task's id."""

    digest: str
    """The SHA-256 of its image."""

    proposal: str | list[str] | None
    """The most probable choice; if the labeling config allows several, all choices with a probability of at least 0.5.
    Null without a model."""

    probabilities: dict[str, float]
    """The probability of each choice that the model knows (0 to 1)."""

    nearest: list[SimilarImage]
    """The labeled images that look most like this one."""

    copies: list[Copy]
    """Unlabeled tasks that get the same label."""

    withheld: bool
    """Whether `proposal`, `probabilities`, `nearest` and `copies` are left empty, because the task is in the sample of
    a plan to accept predictions."""


class Queue(ProjectImages):
    """Images to label one by one; if the request has `tasks`, the numbers are for these tasks only."""

    multiple: bool
    """Whether the labeling config allows several choices for an image."""

    plan: str | None
    """The id of the plan whose tasks are shown without predictions; null if there is none."""

    images: list[QueuedImage]
    """The images, in the order in which to label them."""


class LeftAlone(Answer):
    """Tasks that a run left alone."""

    deleted: list[int]
    """Tasks that were deleted."""

    labeled: list[int]
    """Tasks that have an annotation that this run didn't write."""

    changed: list[int]
    """Tasks whose annotation someone has changed since the run wrote it."""


class LabelingRun(Answer):
    """A labeling run."""

    run: str
    """The run's id."""

    project: str
    """The project's uid."""

    kind: RunKind
    """How people saw the images: in a `group`, each one alone (`single`), or not at all (`accepted`)."""

    action: Action
    """What the run does, or did last: `write` its annotations or `undo` them."""

    status: RunStatus
    """The state of this action."""

    tasks: int
    """The number of the run's tasks."""

    done: int
    """The number of tasks that the current action has dealt with."""

    written: int
    """The number of tasks that the run has labeled; after an undo of all, without labels that people had removed."""

    undone: int
    """How many of these the last undo has removed."""

    withdrawn: list[int]
    """Tasks whose labels were undone individually; if the run is still writing, it skips them."""

    left_alone: LeftAlone
    """The tasks that the run left alone, by reason."""

    error: str | None
    """Why the run stopped; null if it didn't."""

    request_id: str | None
    """The id of the HTTP request that started it."""

    created_at: float
    """When it was submitted, in seconds since 1970."""

    changed_at: float
    """When it last made progress, in seconds since 1970."""


class LabelingRuns(Answer):
    """The labeling runs of a project."""

    runs: list[LabelingRun]
    """The runs, the newest first."""


class LabelingEndpoints:
    """No request calls Label Studio: threads carry out the runs and collect the images."""

    def __init__(self, backend: Backend) -> None:
        self._settings, self._projects, self._labeling = backend.settings, backend.projects, backend.labeling
        self._serving = backend.serving
        self._gate, self._pools, self._plans = backend.token_gate, backend.pools, backend.acceptor.store

    @endpoint("POST", "/api/labeling/groups", answers={200: Groups}, errors=(404, 409), max_body=RUN_BYTES)
    def groups(self, body: GroupsRequest) -> Json:
        """Groups of look-alikes to label next; the first call starts to collect the project's images."""
        project = find_project(self._projects, body.project)
        found, groups = self._pools.groups(
            project, body.without, body.tasks, largest=body.most, count=SHOWN_GROUPS, tab=body.page
        )
        sampled = self._plans.sampled(self._plans.newest(project.uid))
        return {
            **project_images(self._serving, project, found),
            "groups": [_described_group(group, found.pool, sampled) for group in groups if found.pool],
        }

    @endpoint("POST", "/api/labeling/queue", answers={200: Queue}, errors=(404, 409), max_body=RUN_BYTES)
    def queue(self, body: QueueRequest) -> Json:
        """Images to label next, one by one; the first call starts to collect the project's images."""
        project = find_project(self._projects, body.project)
        found, images = self._pools.queue(project, body.without, body.tasks, count=body.most, tab=body.page)
        plan = self._plans.newest(project.uid)
        sampled = self._plans.sampled(plan)
        return {
            **project_images(self._serving, project, found),
            "multiple": found.tag.multiple,
            "plan": plan.id if plan and plan.waits_for_labels else None,
            "images": [_described_image(image, found, found.pool, sampled) for image in images if found.pool],
        }

    @endpoint("POST", "/api/labeling/similar", answers={200: SimilarImages}, errors=(404, 409))
    def similar(self, body: SimilarRequest) -> Json:
        """The tasks whose images look most like a task's, the most similar first."""
        project = find_project(self._projects, body.project)
        found = self._pools.most_alike(project, body.task, body.most, unlabeled=body.unlabeled)
        return {"images": [_described_similar(*one) for one in found]}

    @endpoint("POST", "/api/labeling/runs", answers={202: LabelingRun}, errors=(404, 409), max_body=RUN_BYTES)
    def start(self, body: LabelRequest) -> tuple[Json, int]:
        """Starts to label tasks in Label Studio, in the background; needs the password or a token."""
        require_token(self._settings, body.token)
        project = find_project(self._projects, body.project)
        labels = [Labels(group.label, group.tasks) for group in body.labels]
        run = self._labeling.submit(project, labels, body.token, body.kind, idempotency_key=body.idempotency_key)
        if body.kind == "group":
            self._pools.note_labels(project.uid, labels)
        return described(run), 202

    @endpoint("GET", "/api/labeling/runs", answers={200: LabelingRuns}, errors=(400, 404), query=PROJECT_QUERY)
    def runs(self, project: str | None) -> Json:
        """The labeling runs of a project, the newest first."""
        uid = find_project(self._projects, project).uid
        return {"runs": [described(run) for run in self._labeling.store.of_project(uid)]}

    @endpoint("GET", "/api/labeling/runs/<run_id>", answers={200: LabelingRun}, errors=(404,))
    def run(self, run_id: str) -> Json:
        """The state and progress of a labeling run."""
        return described(self._labeling.store.get(run_id))

    @endpoint(
        "POST", "/api/labeling/runs/<run_id>/undo", answers={202: LabelingRun}, errors=(404, 409), max_body=RUN_BYTES
    )
    def undo(self, run_id: str, body: UndoRequest) -> tuple[Json, int]:
        """Removes a run's annotations, except those that someone has changed; needs the password or a token."""
        undo = partial(self._labeling.undo, tasks=body.tasks or ())
        return self._ask(run_id, body.token, "Undoing", undo)

    @endpoint("POST", "/api/labeling/runs/<run_id>/resume", answers={202: LabelingRun}, errors=(404, 409))
    def resume(self, run_id: str, body: RunRequest) -> tuple[Json, int]:
        """Continues a run that stopped, for example with another token; needs the password or a token."""
        return self._ask(run_id, body.token, "Resuming", self._labeling.resume)

    def _ask(self, run_id: str, token: str, what: str, do: Callable[[str, str], Run]) -> tuple[Json, int]:
        require_token(self._settings, token)
        run = self._labeling.store.get(run_id)
        project = self._projects.get(run.project)
        context.now_for(project=project.uid)
        if is_known(self._settings):
            return described(do(run_id, token)), 202
        # Until Label Studio has confirmed the token, nothing about the run changes.
        self._gate.ask(project, token, f"{what} labeling run {run_id}", lambda: do(run_id, token))
        return described(run), 202


def _described_group(group: PoolGroup, pool: ProjectPool, sampled: Container[int]) -> Json:
    images, found = [], group.look_alikes
    for image, probability, copies in zip(found.images, found.probabilities, group.copies, strict=True):
        task, digest = pool.shown(image)
        confidence = None if probability is None else round(probability, 4)
        described = [] if task in sampled else _described_copies(copies, pool, sampled)
        images.append({"task": task, "digest": digest, "confidence": confidence, "copies": described})
    return {"proposal": found.proposal, "images": images}


def _described_copies(copies: Sequence[int], pool: ProjectPool, sampled: Container[int]) -> list[Json]:
    """The copies without those in a plan's sample, which a person labels one by one."""
    shown = [pool.shown(copy) for copy in copies]
    return [{"task": task, "digest": digest} for task, digest in shown if task not in sampled]


def _described_image(queued: PoolImage, found: Collected, pool: ProjectPool, sampled: Container[int]) -> Json:
    task, digest = pool.shown(queued.image)
    if task in sampled:
        queued = replace(queued, suggested=None, probabilities={}, nearest=[], copies=[])
    nearest = [(*pool.shown(image), cosine) for image, cosine in queued.nearest]
    suggested = queued.suggested
    return {
        "task": task,
        "digest": digest,
        "proposal": suggested if suggested is None or found.tag.multiple else suggested[0],
        "probabilities": {choice: round(probability, 4) for choice, probability in queued.probabilities.items()},
        "nearest": [_described_similar(*one, found.labels.get(one[0])) for one in nearest],
        "copies": _described_copies(queued.copies, pool, sampled),
        "withheld": task in sampled,
    }


def _described_similar(task: int, digest: str, cosine: float, label: str | None) -> Json:
    return {"task": task, "digest": digest, "similarity": round(cosine, 4), "label": label}


def described(run: Run) -> Json:
    """A run as the endpoints and the command line show it."""
    return {
        "run": run.id,
        "project": run.project,
        "kind": run.kind,
        "action": run.action,
        "status": run.status,
        "tasks": run.tasks,
        "done": run.done,
        "written": run.written,
        "undone": run.undone,
        "withdrawn": run.withdrawn,
        "left_alone": {reason: run.left_alone.get(reason, []) for reason in ("deleted", "labeled", "changed")},
        "error": run.error or None,
        "request_id": run.request_id or None,
        "created_at": run.created,
        "changed_at": run.changed,
    }
