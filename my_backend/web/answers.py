"""What the endpoints answer, as their description shows it; tests hold every answer to it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from my_backend.jobs.job import Kind, Status

Json = dict[str, Any]


class Answer(BaseModel):
    """An answer's body: these fields, and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Error(Answer):
    """What is wrong, and what to do."""

    error: str
    request_id: str


class Health(Answer):
    """That the process lives, and what is amiss."""

    status: Literal["UP"]
    version: str
    model_class: str
    model: Json  # what it says it computes with: network, weights, device; empty while it loads
    ready: bool
    projects: int
    problems: list[str]


class TroubleRecord(Answer):
    """Something that a person can mend; `code` is the same for the same kind of trouble."""

    code: str
    what: str
    remedy: str
    project: str
    details: list[str]


class Troubles(Answer):
    """All that is known to be wrong."""

    troubles: list[TroubleRecord]


class Asked(Answer):
    """What was asked for happens in the background."""

    status: Literal["asked"]


class Readiness(Answer):
    """Whether every project that has a version can be predicted."""

    ready: bool


class ModelVersion(Answer):
    """The version with which predictions are made."""

    model_version: str


class Prediction(BaseModel):
    """A prediction as Label Studio stores it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    result: Annotated[list[Json], Field(min_length=1)]
    score: float | None = None
    model_version: str


class Predictions(ModelVersion):
    """One for each task, in order; `[]` for a task that cannot be predicted."""

    results: list[Prediction | Annotated[list[Any], Field(max_length=0)]]


class ImagePrediction(ModelVersion):
    """What one image shows; a list of choices where the labeling config asks for several."""

    prediction: str | list[str] | None
    confidence: float | None
    scores: dict[str, float | None]


class EventTaken(Answer):
    """The event was noted."""

    status: Literal["ok"]
    action: str


class StartedJob(Answer):
    """The job that will learn what is known now; both names are the same job's."""

    job: str
    job_id: str
    job_status: Status


class JobRecord(Answer):
    """A job; times are seconds since 1970."""

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
    """The jobs of a project that run or wait."""

    is_training: bool
    job: str | None
    jobs: list[JobRecord]


class VersionRecord(Answer):
    """A version, and what its model says of it."""

    version: str
    created_at: float
    cause: str
    held_back: str | None
    grew_from: str | None
    figures: Any
    labels: Any
    annotations: Any
    unknown_choices: Any
    summary: Any
    warning: Any
    made_by: dict[str, str]


class VersionList(Answer):
    """The newest first."""

    versions: list[str]
    live: str
    details: list[VersionRecord]


class LiveVersion(Answer):
    """The version that is live now."""

    live: str
    project: str


class Validity(Answer):
    """Whether a labeling config has something to learn, or why not."""

    valid: bool
    message: str
    choices: list[str]


class Deleted(Answer):
    """The project that is gone."""

    deleted: str
