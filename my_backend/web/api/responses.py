"""What the models of the endpoints' responses share; tests check every response against its model."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """The body of an answer: these fields and no others. OpenAPI shows the docstrings of the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Error(Answer):
    """What failed, why, and what to do."""

    error: str
    """A sentence that says what failed, why, and what to do."""

    request_id: str
    """The id that the request's lines in the log have."""


class Asked(Answer):
    """The request was accepted and continues in the background."""

    status: Literal["asked"]
    """Always `asked`."""


class ModelVersion(Answer):
    """The version that makes the predictions."""

    model_version: str
    """The name of the live version; `untrained` if there is none."""
