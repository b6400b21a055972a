"""Checks in the background how Label Studio sees this backend, so that no request has to wait for it."""

import logging
import time
from dataclasses import dataclass, replace

from my_backend.active_learning.scores import read_scores
from my_backend.background import Background
from my_backend.diagnostics.problem import Problem
from my_backend.diagnostics.rules.connection import connection_problems
from my_backend.diagnostics.rules.label_studio import unknown_url, unreachable
from my_backend.diagnostics.rules.scores import score_problems
from my_backend.errors import LabelStudioError
from my_backend.label_studio.connection import read_connection
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects.registry import Project, Projects
from my_backend.settings import Settings

log = logging.getLogger(__name__)

WELL_SECONDS = 600.0  # between two checks of a project without problems
PROBLEM_SECONDS = 20.0  # of one with problems; doubles each time
LOOK_SECONDS = 1.0  # how soon a new project is checked


@dataclass(frozen=True)
class Finding:
    """What the last check of a project in Label Studio found."""

    connected: bool | None  # None if Label Studio couldn't be asked
    problems: tuple[Problem, ...]
    pause: float  # seconds until the next check
    next_look: float  # monotonic
    url: str = ""  # of Label Studio, if known


class Monitor(Background):
    """Asks Label Studio about each project: does it exist, is the backend connected, are events sent?"""

    def __init__(self, settings: Settings, projects: Projects, connections: Connections) -> None:
        super().__init__("monitor")
        self._settings, self._projects, self._connections = settings, projects, connections
        self._found: dict[str, Finding] = {}
        self._presses = 0

    def finding(self, project: str) -> Finding | None:
        """The project's last check; None before the first one."""
        return self._found.get(project)

    @property
    def asking(self) -> bool:
        """Whether any project is still unchecked since `look_again`."""
        return any(finding.next_look == 0.0 for finding in list(self._found.values()))

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
        self._presses += 1  # a check that is already running may still see the old state
        self._found = {uid: replace(one, pause=0.0, next_look=0.0) for uid, one in list(self._found.items())}
        self._wake()

    def _look(self) -> float:
        projects = self._projects.all()
        for project in projects:
            known = self._found.get(project.uid)
            if not self._stopping and (known is None or known.next_look < time.monotonic()):
                presses = self._presses
                found = self._look_at(project, known.pause if known else 0.0)
                self._found[project.uid] = found if presses == self._presses else replace(found, next_look=0.0)
        for gone in self._found.keys() - {project.uid for project in projects}:
            del self._found[gone]
        return LOOK_SECONDS

    def _look_at(self, project: Project, before: float) -> Finding:
        connected: bool | None = None
        url = ""
        try:
            label_studio = self._connections.label_studio(self._projects.credentials(project.uid))
            if label_studio is None:
                problems = [unknown_url(project.uid)]
            else:
                url = label_studio.url
                connected, problems = self._ask(Snapshot(label_studio, project.id), project)
        except LabelStudioError as error:
            problems = [unreachable(error, project.uid)]
        except Exception:
            log.exception("can't check project %s in Label Studio", project.uid)
            problems = []
        pause = min(WELL_SECONDS, max(PROBLEM_SECONDS, 2 * before)) if problems else WELL_SECONDS
        return Finding(connected, tuple(problems), pause if problems else 0.0, time.monotonic() + pause, url)

    def _ask(self, snapshot: Snapshot, project: Project) -> tuple[bool, list[Problem]]:
        basic_auth = self._settings.basic_auth
        found = read_connection(snapshot, basic_auth)
        title = found.project.get("title")
        if isinstance(title, str):  # /setup doesn't send it
            self._projects.update(project.uid, title=title)
        problems = connection_problems(project, found, basic_auth)
        if not self._settings.title_is_version:  # otherwise the title sync reports them
            folder = self._projects.folder(project.uid)
            scores = read_scores(self._settings, snapshot, folder)
            problems += score_problems(project, folder, scores)
        return found.connected, problems
