"""Lets callers without the password do what their own Label Studio token allows, once Label Studio has confirmed it."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from my_backend.background import Background
from my_backend.errors import BackendError, Unavailable
from my_backend.label_studio.connections import Connections
from my_backend.labeling.runs.project_tasks import ProjectTasks
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from safe_http.redaction import redact, said

log = logging.getLogger(__name__)

MOST_WAITING = 100  # anyone can ask
SHOWN_SECONDS = 600.0  # then a refusal is no longer shown: anyone can cause one


@dataclass(frozen=True)
class _Asked:
    """An action that the owner of a token requested."""

    project: Project
    token: str
    what: str
    do: Callable[[], object]


@dataclass(frozen=True)
class Refusal:
    """The requested action, for example "Deleting the project", and why it was refused."""

    what: str
    error: str
    at: float = 0.0  # monotonic


class TokenGate(Background):
    """Checks tokens in a thread, so that no request waits for Label Studio."""

    def __init__(self, projects: Projects, connections: Connections) -> None:
        super().__init__("token-gate")
        self._projects, self._connections = projects, connections
        self._waiting: list[_Asked] = []  # the oldest first; each stays here until its action is done or refused
        self._refused: dict[str, Refusal] = {}

    def ask(self, project: Project, token: str, what: str, do: Callable[[], object]) -> None:
        """Calls `do` in the background if the token's owner may change the project; raises Unavailable.

        `what` names the action in messages, for example "Deleting the project".
        """
        if len(self._waiting) >= MOST_WAITING:
            raise Unavailable("too many requests are waiting for their tokens to be checked: try again later")
        redact.know([token])
        self._waiting.append(_Asked(project, token, what, do))
        self._wake()

    def is_waiting(self, token: str) -> bool:
        """Whether an action that was requested with this token is neither done nor refused."""
        return any(asked.token == token for asked in list(self._waiting))

    def refusals(self) -> dict[str, Refusal]:
        """The last refusal for each project's uid, unless it was long ago; from memory."""
        known, oldest = {project.uid for project in self._projects.all()}, time.monotonic() - SHOWN_SECONDS
        return {uid: one for uid, one in list(self._refused.items()) if uid in known and one.at > oldest}

    def _tick(self) -> float:
        while self._waiting and not self._stopping:
            self._decide(self._waiting[0])
            del self._waiting[0]
        return math.inf

    def _decide(self, asked: _Asked) -> None:
        uid = asked.project.uid
        try:
            self._check(asked)
            asked.do()
        except BackendError as error:
            log.warning("project %s: %s was refused: %s", uid, asked.what, error)
            self._refused[uid] = Refusal(asked.what, str(error), time.monotonic())
        except Exception as error:
            log.exception("project %s: %s failed", uid, asked.what)
            self._refused[uid] = Refusal(asked.what, said(error), time.monotonic())
        else:
            log.info("project %s: %s, requested by someone who may change the project in Label Studio", uid, asked.what)
            self._refused.pop(uid, None)
        finally:
            redact.forget([asked.token])

    def _check(self, asked: _Asked) -> None:
        """Raises BackendError unless the token's owner may change the project."""
        label_studio = self._connections.as_person(asked.token, self._projects.credentials(asked.project.uid))
        if label_studio is None:
            raise BackendError("Label Studio's URL is unknown, so the token can't be checked: set LABEL_STUDIO_URL")
        ProjectTasks(label_studio, asked.project.id, "").check_rights()
