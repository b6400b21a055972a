"""A problem and its fix, in the form that the page, `/health` and scripts use."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Problem:
    """A problem that a person can fix; `code` identifies the kind of problem, whatever the wording."""

    code: str
    what: str  # a sentence
    remedy: str = ""  # what to do, in sentences; "" if `what` already says it
    project: str = ""  # the project's uid if the problem concerns one
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}".strip()

    @classmethod
    def tried_again(cls, code: str, what: str, project: str) -> "Problem":
        """Returns a problem that may disappear without any action."""
        hint = "The backend keeps trying; for details, run the doctor (`python -m my_backend doctor`)."
        return cls(code, what, hint, project)

    def record(self) -> dict[str, Any]:
        """The problem as JSON; `message` and `hint` are the current names of `what` and `remedy`."""
        return {**asdict(self), "message": self.what, "hint": self.remedy}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Problem":
        """Reads what `record` returns; raises KeyError or TypeError for anything else."""
        values = {field.name: record[field.name] for field in fields(cls)}
        return cls(**{**values, "details": tuple(values["details"])})
