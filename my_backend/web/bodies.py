"""Bodies of requests as models whose validation errors name the bad field; pure."""

from itertools import zip_longest
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from label_studio_format.events import Change
from label_studio_format.pasted_values import check_token, trimmed
from label_studio_format.tasks import AnnotatedTask, Items, TaskData
from my_backend.labeling.auto_accept import Percent
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
    """A request body; other fields that Label Studio sends are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class SetupRequest(Request):
    """Sent when Label Studio connects, or checks whether the backend is still there."""

    project: ProjectUid
    label_config: Text = Field("", alias="schema")
    hostname: Text = Field("", max_length=2_000)
    access_token: Token = Field("", repr=False, max_length=20_000)


class PredictRequest(Request):
    """Tasks to predict."""

    tasks: Items[TaskData]
    project: OptionalProject = None
    label_config: str | None = None


class WebhookRequest(Request):
    """An event from Label Studio, or a press of its "Start training" button."""

    action: str
    project: Annotated[Json | None, WithJsonSchema(_DESCRIBED)] = None
    annotation: Json | Items[Json] | None = None
    annotations: Items[Json] | None = None
    task: Json | Items[Json] | None = None
    tasks: Items[Json] = []

    @property
    def changes(self) -> list[Change]:
        """Returns the annotations that the event is about."""
        found = _as_list(self.annotation if self.annotation is not None else self.annotations)
        tasks = _as_list(self.task)
        deleted = self.action == "ANNOTATIONS_DELETED"
        return [Change(one, task, deleted) for one, task in zip_longest(found, tasks[: len(found)])]


def _as_list(value: Json | list[Json] | None) -> list[Json]:
    return [value] if isinstance(value, dict) else value or []


class TrainRequest(Request):
    """Starts a training; `annotations` are annotated tasks, as older versions of Label Studio send them."""

    project: OptionalProject = None
    label_config: str | None = None
    annotations: Annotated[Items[AnnotatedTask], Field(min_length=1)] | None = None


class JobRequest(Request):
    """Names a job."""

    job: str


class ProjectRequest(Request):
    """Names a project; if none is named, there must be only one."""

    project: OptionalProject = None


class DeleteRequest(Request):
    """Names the project to delete: here an empty body doesn't mean the only project.

    `token` is the caller's own Label Studio token, for backends without a password.
    """

    project: ProjectUid
    token: OwnToken = Field("", repr=False)


TaskId = Annotated[int, Field(ge=1, lt=2**63)]


class GroupsRequest(ProjectRequest):
    """Asks for groups of look-alikes: without some tasks, and with at most so many images each.

    `tasks` are tasks that a person has chosen: only these are in groups. By default, all tasks; then the groups that
    give the most labels per action come first.
    """

    tasks: Items[TaskId] | None = None
    without: Items[TaskId] = Field(default_factory=list)
    most: int = Field(60, ge=1, le=200)


class QueueRequest(ProjectRequest):
    """Asks for images to label one by one, at most `most`: without some tasks.

    `tasks` are the tasks to choose from, in this order. By default, all tasks; those that help most come first.
    """

    tasks: Items[TaskId] | None = None
    without: Items[TaskId] = Field(default_factory=list)
    most: int = Field(5, ge=1, le=50)


class SimilarRequest(ProjectRequest):
    """Asks for the tasks whose images look most like a task's; `unlabeled` leaves out annotated ones."""

    task: TaskId
    unlabeled: bool = False
    most: int = Field(60, ge=1, le=200)


class LabeledTasks(Request):
    """Tasks that get the same label, or labels if the labeling config allows several."""

    label: Label
    tasks: Annotated[Items[TaskId], Field(min_length=1)]


class RunRequest(Request):
    """Names whose annotations they are: the owner of `token`, by default of the backend's token. It isn't stored."""

    token: OwnToken = Field("", repr=False)


class UndoRequest(RunRequest):
    """Undoes a run: all of it, or some of its tasks. An empty list is refused, since it would mean all of them."""

    tasks: Annotated[Items[TaskId], Field(min_length=1)] | None = None


class LabelRequest(ProjectRequest, RunRequest):
    """Labels tasks; `kind` says how a person saw the images: in a group with others, or each one alone (`single`)."""

    kind: Literal["group", "single"] = "group"
    labels: Annotated[Items[LabeledTasks], Field(min_length=1)]


class AcceptRequest(RunRequest):
    """Names the project whose answers are to be accepted, or whose accepted labels are to be undone.

    `project` is required even if there is only one, because many labels are at stake.
    """

    project: ProjectUid


class UndoAcceptedRequest(AcceptRequest):
    """Undoes the newest plan; if `plan` is given, only if that is the newest one."""

    plan: str = ""


class PlanRequest(AcceptRequest):
    """Asks for a plan to accept answers, of which at most `percent` percent are wrong.

    `replace` gives up a plan whose sample people are labeling.
    """

    percent: Percent
    replace: bool = False


class AutomaticRequest(AcceptRequest):
    """Switches on or off that labels are accepted as soon as a plan allows it."""

    on: bool


class CheckRequest(AcceptRequest):
    """What a person sees in the image of an accepted task; "" if none of the choices fits."""

    task: TaskId
    label: Annotated[str, Field(max_length=10_000)]


class VersionRequest(ProjectRequest):
    """Names a version."""

    version: str


class PinRequest(VersionRequest):
    """Pins a version, so that it is kept however many newer ones there are; or unpins it."""

    pinned: bool = True


class ImageRequest(ProjectRequest):
    """One image: an upload in the field `image`, or a URL."""

    url: str | None = None


class CorrectionRequest(ImageRequest):
    """One image and its correct label, or labels if the labeling config allows several."""

    label: Label


class RemoveCorrectionRequest(Request):
    """Names the project of the correction to remove: here, too, an empty body doesn't mean the only one."""

    project: ProjectUid


class DuplicateRequest(Request):
    """Copies a project's live version to another project."""

    project_src: ProjectUid
    project_dst: ProjectUid


class ValidateRequest(Request):
    """A labeling config to check before it is saved."""

    config: str
