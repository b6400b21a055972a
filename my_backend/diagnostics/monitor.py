"""Checks how Label Studio sees this backend, so that no request has to wait for it."""

import math
import threading
import time
from dataclasses import dataclass, replace

from my_backend.active_learning.scores import read_scores
from my_backend.diagnostics.problem import Problem
from my_backend.diagnostics.rules.connection import connection_problems
from my_backend.diagnostics.rules.label_studio import unknown_url, unreachable
from my_backend.diagnostics.rules.scores import score_problems
from my_backend.errors import LabelStudioError
from my_backend.label_studio.project_connection import read_connection
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from my_backend.settings import Settings
from safe_http.session import url_without_secrets

PROBLEM_SECONDS = 20.0  # between two checks of a project with problems; doubles each time
LONGEST_SECONDS = 600.0


@dataclass(frozen=True)
class Finding:
    """What the last check of a project in Label Studio found."""

    connected: bool | None  # None if Label Studio couldn't be asked
    problems: tuple[Problem, ...]
    pause: float = 0.0  # seconds until the next check, if there are problems
    due: float = math.inf  # when to check if that can't wait for the next regular visit (monotonic)
    url: str = ""  # of Label Studio, if known, without secrets


class Monitor:
    """An observer that checks each project: does it exist, is the backend connected, are events sent?"""

    def __init__(self, settings: Settings, projects: Projects) -> None:
        self._settings, self._projects = settings, projects
        self._found: dict[str, Finding] = {}
        self._presses = 0
        self._lock = threading.Lock()

    def finding(self, project: str) -> Finding | None:
        """The project's last check; None before the first one."""
        return self._found.get(project)

    @property
    def asking(self) -> bool:
        """Whether any project is still unchecked since `look_again`."""
        return any(finding.due == 0.0 for finding in list(self._found.values()))

    @property
    def url(self) -> str:
        """The URL of a Label Studio; "" if none is known."""
        return next((finding.url for finding in list(self._found.values()) if finding.url), "")

    @property
    def reads_all(self) -> bool:
        """Whether there is a project, and Label Studio could be asked about each one."""
        found = list(self._found.values())
        return bool(found) and all(finding.connected is not None for finding in found)

    def problems(self) -> list[Problem]:
        """The problems of all projects, from memory."""
        return [problem for finding in list(self._found.values()) for problem in finding.problems]

    def look_again(self) -> None:
        """Has all projects checked again soon; returns immediately."""
        with self._lock:
            self._presses += 1  # a check that is already running may still see the old state
            self._found = {uid: replace(one, pause=0.0, due=0.0) for uid, one in self._found.items()}

    def due(self, project: Project) -> float:
        """Soon if there are problems."""
        known = self._found.get(project.uid)
        return known.due if known else math.inf

    def visit(self, project: Project, snapshot: Snapshot | None) -> None:
        """Checks the project."""
        presses, known = self._presses, self._found.get(project.uid)
        found = Finding(None, ())
        try:
            found = self._check(project, snapshot)
        finally:
            if found.problems:
                pause = min(LONGEST_SECONDS, max(PROBLEM_SECONDS, 2 * known.pause if known else 0.0))
                found = replace(found, pause=pause, due=time.monotonic() + pause)
            with self._lock:
                self._found[project.uid] = found if presses == self._presses else replace(found, due=0.0)

    def forget(self, uid: str) -> None:
        with self._lock:
            self._found.pop(uid, None)

    def _check(self, project: Project, snapshot: Snapshot | None) -> Finding:
        if snapshot is None:
            return Finding(None, (unknown_url(project.uid),))
        url = url_without_secrets(snapshot.label_studio.url)
        try:
            connected, problems = self._ask(snapshot, project)
        except LabelStudioError as error:
            return Finding(None, (unreachable(error, project.uid),), url=url)
        return Finding(connected, tuple(problems), url=url)

    def _ask(self, snapshot: Snapshot, project: Project) -> tuple[bool, list[Problem]]:
        basic_auth = self._settings.basic_auth
        found = read_connection(snapshot, basic_auth)
        title = found.project.get("title")
        if isinstance(title, str):  # /setup doesn't send it
            self._projects.update(project.uid, title=title)
        problems = connection_problems(project, found, basic_auth)
        if not self._settings.title_is_version:  # otherwise the title sync reports them
            problems += score_problems(project, read_scores(self._settings, snapshot, project.folder))
        return found.connected, problems
