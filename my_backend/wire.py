"""Label Studio's JSON and XML ⇄ dataclasses; pure."""

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Json = dict[str, Any]

# --- labeling config --------------------------------------------------------


@dataclass(frozen=True)
class ImageChoices:
    """The `Choices` tag that labels an `Image` tag, and the tasks' field that holds the image's URL."""

    from_name: str
    to_name: str
    field: str
    choices: tuple[str, ...]  # as annotations hold them: the alias where there is one


@dataclass(frozen=True)
class LabelConfig:
    """What a labeling config asks for: one choice for an image, or the reason why there is nothing to learn."""

    image_choices: ImageChoices | None
    problem: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        return self.image_choices.choices if self.image_choices else ()


@lru_cache(maxsize=256)
def parse_label_config(xml: str) -> LabelConfig:
    """Never raises: a config that cannot be used says why in `problem`."""
    if not xml.strip():
        return LabelConfig(None, "The project has no labeling config yet: add an Image and a Choices tag.")
    try:
        root = fromstring(xml)
    except (ParseError, DefusedXmlException, ValueError) as error:
        return LabelConfig(None, f"The labeling config is no valid XML: {error}.")
    images = {tag.get("name", ""): tag for tag in root.iter("Image")}
    fields = {name: tag.get("value", "").removeprefix("$") for name, tag in images.items()}
    if not any(name and field for name, field in fields.items()):
        return LabelConfig(None, 'The labeling config has no <Image name="…" value="$…"> to classify.')
    tags = [tag for tag in root.iter("Choices") if tag.get("toName") in fields]
    if not tags:
        return LabelConfig(None, "The labeling config has no <Choices> whose toName is an Image.")
    problems = []
    for tag in tags:
        if problem := _why_unusable(tag):
            problems.append(f'<Choices name="{tag.get("name", "")}">: {problem}.')
            continue
        to_name = tag.get("toName", "")
        return LabelConfig(ImageChoices(tag.get("name", ""), to_name, fields[to_name], _choices(tag)))
    return LabelConfig(None, " ".join(problems))


def _why_unusable(tag: Element) -> str:
    if not tag.get("name"):
        return "it has no name"
    if tag.get("choice", "single") == "multiple":
        return 'several choices for an image (choice="multiple") cannot be learned yet; use choice="single"'
    if tag.get("perRegion", "").lower() == "true" or tag.get("perItem", "").lower() == "true":
        return "it labels regions or items (perRegion, perItem), not the image"
    if not _choices(tag):
        return "it has no <Choice>"
    return ""


def _choices(tag: Element) -> tuple[str, ...]:
    names = (choice.get("alias") or choice.get("value") or "" for choice in tag.iter("Choice"))
    return tuple(dict.fromkeys(name for name in names if name))


# --- projects ---------------------------------------------------------------

_UID = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")


def _check_uid(value: str) -> str:
    if not _UID.fullmatch(value):
        raise ValueError("a project is named like 7.1795181751: its id, a dot, and the second it was created")
    return value


def project_uid(project: Json) -> str:
    """The name under which `/setup` and `/predict` know the project that a webhook describes.

    Raises ValueError where `id` or `created_at` is missing.
    """
    try:
        created = datetime.fromisoformat(project["created_at"])
        return _check_uid(f"{int(project['id'])}.{int(created.timestamp())}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError("project: `id` and `created_at` are needed to know which project this is") from error


# The name becomes a folder's name, hence the check. None and "" come from callers that know just one project.
ProjectUid = Annotated[str, BeforeValidator(lambda value: str(value)), AfterValidator(_check_uid)]
OptionalProject = Annotated[
    ProjectUid | None, BeforeValidator(lambda value: None if value in ("", None) else str(value))
]

Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]

# --- requests ---------------------------------------------------------------


class Request(BaseModel):
    """A request body; fields that are not named here are Label Studio's business."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class SetupRequest(Request):
    """Label Studio connects, or looks whether the backend is still there."""

    project: ProjectUid
    label_config: Text = Field("", alias="schema")
    hostname: Text = ""
    access_token: Text = Field("", repr=False)


class TaskData(Request):
    """A task: its id and its data, by the labeling config's fields."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: int | None = None
    data: Json


class PredictRequest(Request):
    """Tasks to predict."""

    tasks: list[TaskData]
    project: OptionalProject = None
    label_config: str | None = None


class WebhookRequest(Request):
    """An event of Label Studio, or the button "Start training"."""

    action: str
    project: Json | None = None
    annotation: Json | list[Json] | None = None
    annotations: list[Json] | None = None
    tasks: list[Json] = []

    @property
    def changed(self) -> list[Json]:
        """The annotations that the event is about."""
        found = self.annotation if self.annotation is not None else self.annotations
        return [found] if isinstance(found, dict) else found or []


class TrainRequest(Request):
    """Training by hand; `annotations` are annotated tasks, as older Label Studios sent them."""

    project: OptionalProject = None
    label_config: str | None = None
    annotations: list[TaskData] | None = None


class JobRequest(Request):
    """Asks for a job."""

    job: str


class ProjectRequest(Request):
    """Asks about a project, or about the only one."""

    project: OptionalProject = None


class ActivateRequest(ProjectRequest):
    """Makes a version live."""

    version: str


class DuplicateRequest(Request):
    """Copies a project's live version to another project."""

    project_src: ProjectUid
    project_dst: ProjectUid


class ValidateRequest(Request):
    """A labeling config that is about to be saved."""

    config: str


# --- predictions ------------------------------------------------------------


def prediction(tag: ImageChoices, choice: str, score: float) -> Json:
    """One choice as Label Studio stores it; `score` from 0 to 1."""
    region = {
        "from_name": tag.from_name,
        "to_name": tag.to_name,
        "type": "choices",
        "value": {"choices": [choice]},
        "score": score,
    }
    return {"result": [region], "score": score}
