"""How Label Studio sees this backend: asked in the background, so that no request waits for it."""

import logging
import time
from dataclasses import dataclass, replace

from my_backend.active_learning.scores import examine_scores
from my_backend.background import Background
from my_backend.errors import LabelStudioError, TokenRefused
from my_backend.label_studio.client import HOW_TO_MAKE_A_TOKEN, LabelStudio, find_label_studio
from my_backend.label_studio.connection import examine_connection
from my_backend.problems import Trouble
from my_backend.projects.registry import Project, Projects
from my_backend.settings import Settings

log = logging.getLogger(__name__)

WELL_SECONDS = 600.0  # between two looks at a project that had no trouble
TROUBLED_SECONDS = 20.0  # where there is some; each time twice as long as before
LOOK_SECONDS = 1.0  # how soon a new project is looked at
WHERE_IT_IS = (
    "Look whether it runs, and set LABEL_STUDIO_URL to its address as seen from here, with the sub-path if it has one; "
    "in a container localhost is the container itself."
)


@dataclass(frozen=True)
class Finding:
    """What the last look at a project in Label Studio has found."""

    connected: bool | None  # None where Label Studio could not be asked
    troubles: tuple[Trouble, ...]
    pause: float  # seconds until the next look
    next_look: float  # monotonic
    url: str = ""  # of Label Studio, where one is known


class Checkup(Background):
    """Asks Label Studio about each project: whether it is there, the backend connected, and its events sent."""

    def __init__(self, settings: Settings, projects: Projects) -> None:
        super().__init__("checkup")
        self._settings, self._projects = settings, projects
        self._found: dict[str, Finding] = {}
        self._presses = 0

    def finding(self, project: str) -> Finding | None:
        """None before the first look."""
        return self._found.get(project)

    @property
    def asking(self) -> bool:
        """Whether a project is still to be asked about since `look_again`."""
        return any(finding.next_look == 0.0 for finding in list(self._found.values()))

    @property
    def url(self) -> str:
        """Where a Label Studio is, as far as is known."""
        return next((finding.url for finding in list(self._found.values()) if finding.url), "")

    @property
    def reads_all(self) -> bool:
        """Whether Label Studio could be asked about every project, and there is one."""
        found = list(self._found.values())
        return bool(found) and all(finding.connected is not None for finding in found)

    def troubles(self) -> list[Trouble]:
        """Of all projects, from memory."""
        return [trouble for finding in list(self._found.values()) for trouble in finding.troubles]

    def look_again(self) -> None:
        """Asks about all projects soon, and returns at once."""
        self._presses += 1  # what is just being asked may be answered with what was before
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
            label_studio = find_label_studio(self._settings, self._projects.credentials(project.uid))
            if label_studio is None:
                troubles = [no_address(project)]
            else:
                url = label_studio.url
                connected, troubles = self._ask(label_studio, project)
        except LabelStudioError as error:
            troubles = [not_asked(error, project.uid)]
        except Exception:
            log.exception("project %s could not be looked up in Label Studio", project.uid)
            troubles = []
        pause = min(WELL_SECONDS, max(TROUBLED_SECONDS, 2 * before)) if troubles else WELL_SECONDS
        return Finding(connected, tuple(troubles), pause if troubles else 0.0, time.monotonic() + pause, url)

    def _ask(self, label_studio: LabelStudio, project: Project) -> tuple[bool, list[Trouble]]:
        found = examine_connection(label_studio, project, self._settings.basic_auth)
        title = found.project.get("title")
        if isinstance(title, str):  # /setup does not tell it
            self._projects.update(project.uid, title=title)
        troubles = list(found.troubles)
        if not self._settings.title_is_version:  # else the title's keeper tells
            folder = self._projects.folder(project.uid)
            troubles += examine_scores(self._settings, label_studio, project, folder, found).troubles
        return found.connected, troubles


def no_address(project: Project) -> Trouble:
    """Neither the settings nor `/setup` have named a Label Studio."""
    what = "It is not known where Label Studio is, so that its annotations cannot be read."
    return Trouble("label-studio-unknown", what, f"Set LABEL_STUDIO_URL, and {HOW_TO_MAKE_A_TOKEN}.", project.uid)


def not_asked(error: LabelStudioError, project: str = "") -> Trouble:
    """What is to be done where Label Studio does not answer as it should, or refuses the token."""
    # The message's second half is the remedy, for those who see nothing else.
    what, _, remedy = str(error).partition("; ")
    if isinstance(error, TokenRefused):
        return Trouble("token", f"{what}.", f"{remedy[:1].upper()}{remedy[1:]}.", project)
    return Trouble("label-studio", f"{what}.", WHERE_IT_IS, project)
