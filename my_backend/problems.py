"""What is wrong and what to do: the one form of it for the page, `/health` and programs."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Trouble:
    """Something that a person can mend; `code` is the same for the same kind of trouble, whatever its words."""

    code: str
    what: str  # a sentence
    remedy: str = ""  # what to do, a sentence; "" where `what` says it already
    project: str = ""  # its uid, where it concerns one
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}".strip()

    @classmethod
    def tried_again(cls, code: str, what: str, project: str) -> "Trouble":
        """What may pass by itself."""
        return cls(code, what, "It is tried again; the doctor (`python -m my_backend doctor`) says more.", project)

    def record(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)
