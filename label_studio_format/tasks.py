"""Tasks and annotations as Label Studio sends them, as models whose validation errors name the bad field."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Json = dict[str, Any]

# Each item takes about 1 kB of memory here, however short its JSON is. Validation stops at the first invalid item: one
# error per item would take more memory than the items themselves.
MOST_ITEMS = 100_000
Item = TypeVar("Item")
Items = Annotated[list[Item], Field(max_length=MOST_ITEMS, fail_fast=True)]


class TaskData(BaseModel):
    """A task."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    id: int | None = None
    """The task's id in Label Studio; null for a task that isn't stored there."""

    data: Json
    """The task's data by the names that the labeling config uses, for example the image's URL."""


class Annotation(BaseModel):
    """An annotation."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    result: Items[Json] | None = None
    """The annotation's results; each belongs to one tag of the labeling config."""


class AnnotatedTask(TaskData):
    """A task with its annotations."""

    annotations: Items[Annotation] | None = None
    """The task's annotations."""

    completions: Items[Annotation] | None = None
    """The former name of `annotations`."""
