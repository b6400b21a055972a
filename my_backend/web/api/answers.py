"""The models of the endpoints' answers, for OpenAPI; tests check every answer against them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from my_backend.jobs.record import Kind, Status
from my_backend.labeling.runs import Action, RunStatus

Json = dict[str, Any]


class Answer(BaseModel):
    """The body of an answer: these fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Error(Answer):
    """What failed, why, and what to do."""

    error: str
    request_id: str


class Health(Answer):
    """The server is up; `problems` says what is wrong."""

    status: Literal["UP"]
    version: str
    model_class: str
    model: Json  # the model's network, weights and device; empty while it is loading
    ready: bool
    projects: int
    problems: list[str]


class ProblemRecord(Answer):
    """A problem that a person can fix; problems of the same kind have the same `code`.

    `what` and `remedy` are the former names of `message` and `hint`.
    """

    code: str
    message: str
    hint: str
    project: str
    details: list[str]
    what: str
    remedy: str


class Problems(Answer):
    """All known problems."""

    troubles: list[ProblemRecord]


class Asked(Answer):
    """The request was accepted and continues in the background."""

    status: Literal["asked"]


class Readiness(Answer):
    """Whether predictions work for every project that has a version."""

    ready: bool


class ModelVersion(Answer):
    """The version that makes the predictions."""

    model_version: str


class Prediction(BaseModel):
    """A prediction in Label Studio's format."""

    model_config = ConfigDict(extra="allow", frozen=True)

    result: Annotated[list[Json], Field(min_length=1)]
    score: float | None = None
    model_version: str


class Predictions(ModelVersion):
    """A prediction for each task, in order; `[]` for a task that can't be predicted."""

    results: list[Prediction | Annotated[list[Any], Field(max_length=0)]]


class ImagePrediction(ModelVersion):
    """The prediction for one image; a list of choices if the labeling config allows several."""

    prediction: str | list[str] | None
    confidence: float | None
    scores: dict[str, float | None]


class EventTaken(Answer):
    """The event was received."""

    status: Literal["ok"]
    action: str


class StartedJob(Answer):
    """The job that was started; `job` and `job_id` are the same."""

    job: str
    job_id: str
    job_status: Status


class JobRecord(Answer):
    """A training job; times are seconds since 1970."""

    job: str
    job_status: Status
    kind: Kind
    cause: str
    request_id: str | None
    progress: Json
    error: str | None
    result: Json | None
    created_at: float
    started_at: float | None
    ended_at: float | None


class Training(ModelVersion):
    """The running and queued jobs of a project."""

    is_training: bool
    job: str | None
    jobs: list[JobRecord]


class VersionRecord(Answer):
    """A version, with the details that its model reported."""

    version: str
    created_at: float
    cause: str
    held_back: str | None
    grew_from: str | None
    figures: Any
    labels: Any
    sources: Any
    annotations: Any
    unknown_choices: Any
    summary: Any
    warning: Any
    made_by: dict[str, str]


class VersionList(Answer):
    """The versions of a project, the newest first."""

    versions: list[str]
    live: str
    details: list[VersionRecord]


class LiveVersion(Answer):
    """The version that is now live."""

    live: str
    project: str


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


class Validity(Answer):
    """Whether the backend can learn from a labeling config, and why not."""

    valid: bool
    message: str
    choices: list[str]


class Deleted(Answer):
    """The project that was deleted."""

    deleted: str
