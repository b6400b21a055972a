"""The result of one of the doctor's checks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from my_backend.diagnostics.problem import Fix, Problem
from my_backend.label_studio.client import LabelStudio

Json = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    said: str = ""  # what the check found if nothing is wrong
    problems: tuple[Problem, ...] = ()
    label_studio: LabelStudio | None = field(default=None, repr=False)  # in which the problems can be fixed

    def record(self) -> Json:
        """The check as JSON, for programs."""
        problems = [problem.record() for problem in self.problems]
        return {"check": self.name, "said": "" if problems else self.said, "troubles": problems}

    def fixes(self) -> Iterator[tuple[Problem, Fix, LabelStudio]]:
        """The fixes that can be applied, with their problems and the Label Studio that they change."""
        if self.label_studio is not None:
            yield from ((problem, fix, self.label_studio) for problem in self.problems for fix in problem.fixes)
