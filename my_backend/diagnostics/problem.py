"""A problem and its fix, in the form that the page, `/health` and scripts use."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Action(Protocol):
    """A change in Label Studio that users can undo there."""

    def perform(self, label_studio: Any) -> None:
        """Makes the change; raises LabelStudioError."""


@dataclass(frozen=True)
class Fix:
    """A change that solves a problem; `offer` says what it would do, for example "add the webhook …"."""

    offer: str
    action: Action


@dataclass(frozen=True)
class Problem:
    """A problem that a person can fix; `code` identifies the kind of problem, whatever the wording."""

    code: str
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
