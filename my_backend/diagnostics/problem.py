"""A problem and its fix, in the form that the page, `/health` and scripts use."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from my_backend.label_studio.client import LabelStudio

# All codes of problems, in the order in which to fix them: causes come before the problems that may follow from them.
Code = Literal[
    "settings",
    "folders",
    "disk",
    "disk-space",
    "damaged",
    "cache-on-network",
    "server",
    "model",
    "redis",
    "no-worker",
    "foreign-job",
    "worker-folder",
    "label-studio-unknown",
    "label-studio",
    "label-studio-old",
    "open-proxy",
    "no-token",
    "token",
    "token-short",
    "token-rights",
    "no-project",
    "address-blocked",
    "not-connected",
    "disconnected",
    "several-models",
    "labeling-config",
    "webhook-missing",
    "webhook-credentials",
    "webhook-payload",
    "events-without-password",
    "image",
    "images",
    "version-missing",
    "choices-unknown",
    "predictions-pinned",
    "scores-elsewhere",
    "scores-blank",
    "title",
    "renewal",
    "labeling",
    "accepted-wrong",
    "images-drifted",
    "refused",
    "trains-on-submission",
    "webhook-twice",
    "webhook-orphaned",
    "notify",
    "published-hook",
    "jobs-wait",
    "backlog",
    "gpu",
    "clock",
    "token-ends",
]
CODES: tuple[Code, ...] = get_args(Code)


class Action(Protocol):
    """A change in Label Studio that users can undo there."""

    def perform(self, label_studio: LabelStudio) -> None:
        """Makes the change; raises LabelStudioError."""


@dataclass(frozen=True)
class Fix:
    """A change that solves a problem; `offer` says what it would do, for example "add the webhook …"."""

    offer: str
    action: Action


@dataclass(frozen=True)
class Problem:
    """A problem that a person can fix; `code` identifies the kind of problem, whatever the wording."""

    code: Code
    message: str  # a sentence
    hint: str = ""  # what to do, in sentences; "" if `message` already says it
    project: str = ""  # the project's uid if the problem concerns one
    details: tuple[str, ...] = ()
    fixes: tuple[Fix, ...] = field(default=(), compare=False, repr=False)  # all of them are needed

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def record(self) -> dict[str, Any]:
        """The problem as JSON; `what` and `remedy` are the former names of `message` and `hint`."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "project": self.project,
            "details": self.details,
            "what": self.message,
            "remedy": self.hint,
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Problem":
        """Reads what `record` returns; raises KeyError or TypeError for anything else."""
        details = tuple(record["details"])
        return cls(record["code"], record["message"], record["hint"], record["project"], details)
