"""What the models of the endpoints' answers share; tests check every answer against its model."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """The body of an answer: these fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Error(Answer):
    """What failed, why, and what to do."""

    error: str
    request_id: str


class Asked(Answer):
    """The request was accepted and continues in the background."""

    status: Literal["asked"]


class ModelVersion(Answer):
    """The version that makes the predictions."""

    model_version: str
