"""Bodies of requests, as models whose validation errors name the invalid field; no side effects."""

from itertools import zip_longest
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from label_studio_format.events import Change
from label_studio_format.pasted_values import check_token, trimmed
from label_studio_format.tasks import AnnotatedTask, Items, TaskData
from my_backend.labeling.auto_accept.guarantee import Percent
from my_backend.projects.uid import UID_SCHEMA, ProjectUid

Json = dict[str, Any]

# --- parts of bodies --------------------------------------------------------

# Callers that know only one project send None or "".
OptionalProject = Annotated[
    ProjectUid | None,
    BeforeValidator(lambda value: None if value == "" else value),
    WithJsonSchema({"anyOf": [*UID_SCHEMA["anyOf"], {"type": "null"}, {"const": ""}]}),
]

Text = Annotated[
    str,
    BeforeValidator(lambda value: "" if value is None else value),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]}),
]


def _read_token(value: str) -> str:
    token = trimmed(value)
    check_token(token)
    return token


Token = Annotated[
    Text,
    AfterValidator(_read_token),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]}),  # no pattern: what is around it is removed first
]


def _check_own_token(value: str) -> str:
    # Anyone can send one, and it is hidden in all texts: a short one would hide words, a long one costs memory.
    if value and not 20 <= len(value) <= 2000:
        raise ValueError("isn't a Label Studio token: it must have 20 to 2,000 characters")
    return value


OwnToken = Annotated[Token, AfterValidator(_check_own_token)]

Label = Annotated[
    list[str],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]

# The fields of an event's project that matter; the rest is ignored.
_DESCRIBED: Json = {
    "anyOf": [
        {"type": "null"},
        {"type": "object", "not": {"required": ["id"]}},
        {
            "type": "object",
            "properties": {
                "id": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 10**18 - 1}, {"type": "string"}]},
                "created_at": {"type": "string"},
            },
            "required": ["id", "created_at"],
        },
    ]
}

# --- bodies -----------------------------------------------------------------


class Request(BaseModel):
    """A request body; other fields that Label Studio sends are ignored. OpenAPI shows the docstrings of the fields."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class SetupRequest(Request):
    """Sent when Label Studio connects, or checks whether the backend is still there."""

    project: ProjectUid
    """The project's uid, or only its id in Label Studio."""

    label_config: Text = Field("", alias="schema")
    """The project's labeling config as XML; empty if it hasn't changed."""

    hostname: Text = Field("", max_length=2_000)
    """The URL at which the backend reaches Label Studio."""

    access_token: Token = Field("", repr=False, max_length=20_000)
    """The Label Studio token with which the backend reads tasks and images."""


class PredictRequest(Request):
    """Tasks to predict."""

    tasks: Items[TaskData]
    """The tasks to predict, at most 100,000."""

    project: OptionalProject = None
    """The project's uid, or only its id in Label Studio; optional if there is only one project."""

    label_config: str | None = None
    """The project's current labeling config as XML; by default the last one that was sent."""


class WebhookRequest(Request):
    """An event from Label Studio, or a press of its "Start training" button."""

    action: str
    """The event's name, for example `ANNOTATION_CREATED` or `START_TRAINING`."""

    project: Annotated[Json | None, WithJsonSchema(_DESCRIBED)] = None
    """The project as Label Studio describes it; by default the one that the query names, or the only one."""

    annotation: Json | Items[Json] | None = None
    """The annotation that was created, changed or deleted, or a list of them."""

    annotations: Items[Json] | None = None
    """The annotations of an event that is about several annotations."""

    task: Json | Items[Json] | None = None
    """The task of the annotation, or a list with the task of each annotation."""

    tasks: Items[Json] = []
    """The tasks that were imported or deleted."""

    @property
    def changes(self) -> list[Change]:
        """The annotations that the event is about."""
        found = _as_list(self.annotation if self.annotation is not None else self.annotations)
        tasks = _as_list(self.task)
        deleted = self.action == "ANNOTATIONS_DELETED"
        return [Change(one, task, deleted) for one, task in zip_longest(found, tasks[: len(found)])]


def _as_list(value: Json | list[Json] | None) -> list[Json]:
    return [value] if isinstance(value, dict) else value or []


class TrainRequest(Request):
    """Starts a training run."""

    project: OptionalProject = None
    """The project's uid, or only its id in Label Studio; optional if there is only one project."""

    label_config: str | None = None
    """The project's current labeling config as XML; by default the last one that was sent."""

    annotations: Annotated[Items[AnnotatedTask], Field(min_length=1)] | None = None
    """Annotated tasks to train on, as older versions of Label Studio send them; by default they are read from Label
    Studio."""


class JobRequest(Request):
    """Names a job."""

    job: str
    """The job's id."""


class ProjectRequest(Request):
    """Names a project."""

    project: OptionalProject = None
    """The project's uid, or only its id in Label Studio; optional if there is only one project."""


class DeleteRequest(Request):
    """Names the project to delete."""

    project: ProjectUid
    """The project's uid, or only its id in Label Studio; required here, because an empty body must not delete the only
    project."""

    token: OwnToken = Field("", repr=False)
    """The caller's own Label Studio token; needed without a password if the caller is on another machine."""


TaskId = Annotated[int, Field(ge=1, lt=2**63)]


class GroupsRequest(ProjectRequest):
    """Asks for groups of look-alikes."""

    tasks: Items[TaskId] | None = None
    """Tasks that a person has chosen: only these are put into groups. By default all tasks, with those groups first in
    which one action labels the most tasks."""

    without: Items[TaskId] = Field(default_factory=list)
    """Tasks to leave out."""

    most: int = Field(60, ge=1, le=200)
    """The largest number of images in a group."""

    page: Text = Field("", max_length=200)
    """A random text that you choose for the page on which a person labels. What is sent to one page isn't sent to other
    pages for two minutes, unless nothing else is left."""


class QueueRequest(ProjectRequest):
    """Asks for images to label one by one."""

    tasks: Items[TaskId] | None = None
    """The tasks to choose from, in this order. By default all tasks, with the most informative images first."""

    without: Items[TaskId] = Field(default_factory=list)
    """Tasks to leave out."""

    most: int = Field(5, ge=1, le=50)
    """The largest number of images to return."""

    page: Text = Field("", max_length=200)
    """A random text that you choose for the page on which a person labels. What is sent to one page isn't sent to other
    pages for two minutes, unless nothing else is left."""


class SimilarRequest(ProjectRequest):
    """Asks for the tasks whose images look most like a task's."""

    task: TaskId
    """The task whose image the others are compared with."""

    unlabeled: bool = False
    """Whether to leave out tasks that have an annotation."""

    most: int = Field(60, ge=1, le=200)
    """The largest number of tasks to return."""


class LabeledTasks(Request):
    """Tasks that get the same label."""

    label: Label
    """The choice, or a list of choices if the labeling config allows several; an empty list if none is right."""

    tasks: Annotated[Items[TaskId], Field(min_length=1)]
    """The tasks that get this label."""


class RunRequest(Request):
    """Names the person who will own the annotations."""

    token: OwnToken = Field("", repr=False)
    """The Label Studio token of the person who will own the annotations; by default the backend's own token. It isn't
    stored."""


class UndoRequest(RunRequest):
    """Undoes a run, or a part of it."""

    tasks: Annotated[Items[TaskId], Field(min_length=1)] | None = None
    """The tasks to undo, by default all of the run; an empty list is refused, because it would mean all of them."""


class LabelRequest(ProjectRequest, RunRequest):
    """Labels tasks."""

    kind: Literal["group", "single"] = "group"
    """How a person saw the images: `group`, together with others, or `single`, each one alone."""

    labels: Annotated[Items[LabeledTasks], Field(min_length=1)]
    """The labels and the tasks that get them."""

    idempotency_key: Text = Field("", max_length=200)
    """A random text that you choose for the run. If the answer is lost, send the same request again: if the project has
    a run with this key, no other one is started, and the answer is about that run."""


class AcceptRequest(RunRequest):
    """Names the project whose predictions are to be accepted, or whose accepted labels are to be undone."""

    project: ProjectUid
    """The project's uid, or only its id in Label Studio; required even if there is only one project, because many
    labels are at stake."""


class UndoAcceptedRequest(AcceptRequest):
    """Undoes the newest plan."""

    plan: str = ""
    """The id of the plan to undo; if it isn't the newest one, nothing is undone."""


class PlanRequest(AcceptRequest):
    """Asks for a plan to accept predictions."""

    percent: Percent
    """The largest percentage of the accepted labels that may be wrong."""

    replace: bool = False
    """Whether to discard a plan whose sample people are labeling."""


class AutomaticRequest(AcceptRequest):
    """Turns automatic acceptance on or off."""

    on: bool
    """Whether labels are accepted as soon as a plan allows it."""


class CheckRequest(AcceptRequest):
    """What a person sees in the image of an accepted task."""

    task: TaskId
    """The accepted task."""

    label: Annotated[str, Field(max_length=10_000)]
    """The choice that a person sees in the image; empty if none fits."""


class VersionRequest(ProjectRequest):
    """Names a version."""

    version: str
    """The version's name, for example `v7-20261120T132501`."""


class PinRequest(VersionRequest):
    """Pins or unpins a version."""

    pinned: bool = True
    """Whether the version is kept even when many newer ones exist."""


class ImageRequest(ProjectRequest):
    """One image: an upload in the field `image`, or a URL."""

    url: str | None = None
    """The image's URL, instead of an upload; it may be a `data:` URL."""


class CorrectionRequest(ImageRequest):
    """One image and its correct label."""

    label: Label
    """The correct choice, or a list of choices if the labeling config allows several."""


class RemoveCorrectionRequest(Request):
    """Names the project of the correction to remove."""

    project: ProjectUid
    """The project's uid, or only its id in Label Studio; required even if there is only one project."""


class DuplicateRequest(Request):
    """Copies a project's live version to another project."""

    project_src: ProjectUid
    """The uid or id of the project whose live version is copied."""

    project_dst: ProjectUid
    """The uid or id of the project that gets it."""


class ValidateRequest(Request):
    """A labeling config to check before it is saved."""

    config: str
    """The labeling config as XML."""
