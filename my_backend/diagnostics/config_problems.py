"""Problems with the labeling configs of all projects, each config parsed once: a large one takes most of a second."""

import threading
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from my_backend.diagnostics.problem import Problem
from my_backend.diagnostics.rules.labeling_config import labeling_config_problems
from my_backend.projects.project import Project

MOST_TO_PARSE = 500_000  # characters of new configs per call, which take about 0.2 s


class ConfigProblems:
    """Remembers the problems of each project as long as the project is known as it is."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Project, list[Problem]] = WeakKeyDictionary()
        self._parsing = threading.Lock()

    def of(self, projects: Iterable[Project]) -> list[Problem]:
        """The known problems; if there are many new configs, later calls know more.

        At least one new config is parsed, unless another thread is doing that.
        """
        projects = list(projects)
        if self._parsing.acquire(blocking=False):
            try:
                self._parse_some([project for project in projects if project not in self._known])
            finally:
                self._parsing.release()
        return [problem for project in projects for problem in self._known.get(project, ())]

    def _parse_some(self, new: Iterable[Project]) -> None:
        parsed = 0
        for project in new:
            parsed += len(project.label_config)
            if parsed > MOST_TO_PARSE and parsed > len(project.label_config):
                return
            self._known[project] = labeling_config_problems(project.uid, project.config)
