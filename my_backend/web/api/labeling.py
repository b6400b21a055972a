"""The endpoints that label many tasks at once and undo it."""

from collections.abc import Callable
from typing import Literal

from my_backend import context
from my_backend.backend import Backend
from my_backend.labeling.project_pool import ProjectPool
from my_backend.labeling.runs import Action, Labels, Run, RunStatus, Seen
from my_backend.requests import GroupsRequest, Json, LabelRequest, RunRequest, SimilarRequest
from my_backend.serving.image_pool import LookAlikes
from my_backend.web.api.answers import Answer, ModelVersion
from my_backend.web.api.lookup import PROJECT_QUERY, find_project
from my_backend.web.endpoint import endpoint
from my_backend.web.middleware.auth import is_known, require_token

RUN_BYTES = 4_000_000  # the ids of 100,000 tasks
SHOWN_GROUPS = 2  # the one to label now, and the next one, whose thumbnails the browser loads meanwhile


class GroupImage(Answer):
    """A task in a group, the SHA-256 of its image, and the probability that the group's proposal is right for it."""

    task: int
    digest: str
    confidence: float | None


class Group(Answer):
    """Images that probably get the same choice, the surest first; `proposal` is null if they look like no other."""

    proposal: str | None
    images: list[GroupImage]


class Groups(ModelVersion):
    """Groups to label next, and how many of the project's images are collected."""

    state: Literal["collecting", "ready", "failed"]
    error: str | None
    tasks: int
    collected: int
    unreadable: int
    labeled: int
    unlabeled: int
    choices: list[str]
    groups: list[Group]


class SimilarImage(Answer):
    """A task, the SHA-256 of its image, the similarity (at most 1), and the task's label if it has one."""

    task: int
    digest: str
    similarity: float
    label: str | None


class SimilarImages(Answer):
    """The tasks whose images look most like a task's, the most alike first."""

    images: list[SimilarImage]


class LeftAlone(Answer):
    """Tasks that a run left alone: deleted ones, those that others have labeled, and (undo) changed annotations."""

    deleted: list[int]
    labeled: list[int]
    changed: list[int]


class LabelingRun(Answer):
    """A labeling run; `done` counts the tasks that the current action has dealt with. Times are seconds since 1970."""

    run: str
    project: str
    action: Action
    seen: Seen
    status: RunStatus
    tasks: int
    done: int
    written: int
    undone: int
    left_alone: LeftAlone
    error: str | None
    request_id: str | None
    created_at: float
    changed_at: float


class LabelingRuns(Answer):
    """The labeling runs of a project, the newest first."""

    runs: list[LabelingRun]


class LabelingEndpoints:
    """No request calls Label Studio: threads carry out the runs and collect the images."""

    def __init__(self, backend: Backend) -> None:
        self._settings, self._projects, self._labeling = backend.settings, backend.projects, backend.labeling
        self._serving = backend.serving
        self._gate, self._pools = backend.token_gate, backend.pools

    @endpoint("POST", "/api/labeling/groups", answers={200: Groups}, errors=(404, 409))
    def groups(self, body: GroupsRequest) -> Json:
        """Groups of look-alikes to label next; the first call starts to collect the project's images."""
        project = find_project(self._projects, body.project)
        found = self._pools.groups(project, body.without, largest=body.most, count=SHOWN_GROUPS)
        return {
            "state": "failed" if found.error else "ready" if found.ready else "collecting",
            "error": found.error or None,
            **found.counts,
            "labeled": len(found.labels),
            "unlabeled": max(0, found.counts["tasks"] - len(found.labels)),
            "choices": list(found.choices),
            "model_version": self._serving.version_name(project.uid),
            "groups": [_described_group(group, found.pool) for group in found.groups if found.pool],
        }

    @endpoint("POST", "/api/labeling/similar", answers={200: SimilarImages}, errors=(404, 409))
    def similar(self, body: SimilarRequest) -> Json:
        """The tasks whose images look most like a task's, the most alike first."""
        project = find_project(self._projects, body.project)
        found = self._pools.most_alike(project, body.task, body.most, unlabeled=body.unlabeled)
        return {
            "images": [
                {"task": task, "digest": digest, "similarity": round(cosine, 4), "label": label}
                for task, digest, cosine, label in found
            ]
        }

    @endpoint("POST", "/api/labeling/runs", answers={202: LabelingRun}, errors=(404, 409), max_body=RUN_BYTES)
    def start(self, body: LabelRequest) -> tuple[Json, int]:
        """Starts to label tasks in Label Studio, in the background; needs the password or a token."""
        require_token(self._settings, body.token)
        project = find_project(self._projects, body.project)
        labels = [Labels(group.label, group.tasks) for group in body.labels]
        run = self._labeling.submit(project, labels, body.token)
        self._pools.note_answers(project.uid, labels)
        return described(run), 202

    @endpoint("GET", "/api/labeling/runs", answers={200: LabelingRuns}, errors=(400, 404), query=PROJECT_QUERY)
    def runs(self, project: str | None) -> Json:
        """The labeling runs of a project, the newest first."""
        uid = self._projects.find(project).uid
        return {"runs": [described(run) for run in self._labeling.store.of_project(uid)]}

    @endpoint("GET", "/api/labeling/runs/<run_id>", answers={200: LabelingRun}, errors=(404,))
    def run(self, run_id: str) -> Json:
        """The state and progress of a labeling run."""
        return described(self._labeling.store.get(run_id))

    @endpoint("POST", "/api/labeling/runs/<run_id>/undo", answers={202: LabelingRun}, errors=(404, 409))
    def undo(self, run_id: str, body: RunRequest) -> tuple[Json, int]:
        """Removes a run's annotations, except those that someone has changed; needs the password or a token."""
        return self._ask(run_id, body.token, "Undoing", self._labeling.undo)

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


def _described_group(group: LookAlikes, pool: ProjectPool) -> Json:
    images = []
    for image, probability in zip(group.images, group.probabilities, strict=True):
        task, digest = pool.shown(image)
        confidence = None if probability is None else round(probability, 4)
        images.append({"task": task, "digest": digest, "confidence": confidence})
    return {"proposal": group.proposal, "images": images}


def described(run: Run) -> Json:
    """A run as the endpoints and the command line show it."""
    return {
        "run": run.id,
        "project": run.project,
        "action": run.action,
        "seen": run.seen,
        "status": run.status,
        "tasks": run.tasks,
        "done": run.done,
        "written": run.written,
        "undone": run.undone,
        "left_alone": {reason: run.left_alone.get(reason, []) for reason in ("deleted", "labeled", "changed")},
        "error": run.error or None,
        "request_id": run.request_id or None,
        "created_at": run.created,
        "changed_at": run.changed,
    }
