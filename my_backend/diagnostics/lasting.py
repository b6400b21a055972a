"""Problems that have lasted for a while, as notifications."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from my_backend.diagnostics.problem import Problem
from my_backend.errors import NotFound
from my_backend.notifications.notice import Notice
from my_backend.projects.registry import Projects

LASTING_SECONDS = 120.0  # a restart of Redis or Label Studio takes less, and nobody has to do anything
OWN_CODE = "notify"  # can't be told this way


class LastingProblems:
    """The problems that someone has to fix because they don't go away by themselves."""

    def __init__(self, projects: Projects, problems: Callable[[], list[Problem]]) -> None:
        self._projects, self._problems = projects, problems
        self._since: dict[tuple[str, str], float] = {}  # code and project → when it was first seen (monotonic)

    def __call__(self) -> Iterator[Notice]:
        now = time.monotonic()
        problems = {(one.code, one.project): one for one in self._problems() if one.code != OWN_CODE}
        self._since = {key: self._since.get(key, now) for key in problems}
        for key, problem in problems.items():
            if now - self._since[key] >= LASTING_SECONDS:
                yield self._notice(problem)

    def _notice(self, problem: Problem) -> Notice:
        title, path = "", "/"
        if problem.project:
            with suppress(NotFound):
                title = self._projects.get(problem.project).title
            path = f"/projects/{problem.project}"
        return Notice(
            f"problem {problem.code} {problem.project}".strip(),
            "problem",
            f"Action needed: {problem}",
            time.time(),
            problem.project,
            title,
            path,
            {"code": problem.code},
        )
