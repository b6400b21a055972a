"""How Label Studio sees this backend: asked in the background, so that no request waits for it."""

import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from my_backend.errors import LabelStudioError
from my_backend.label_studio import HOW_TO_MAKE_A_TOKEN, LabelStudio, find_label_studio
from my_backend.projects import Project, Projects
from my_backend.settings import Settings
from my_backend.troubles import Trouble

log = logging.getLogger(__name__)

WELL_SECONDS = 600.0  # between two looks at a project that had no trouble
TROUBLED_SECONDS = 20.0  # where there is some; each time twice as long as before
LOOK_SECONDS = 1.0  # how soon a new project is looked at
STOP_SECONDS = 1.0  # Label Studio may be slow to answer

Json = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """What the last look at a project in Label Studio has found."""

    connected: bool | None  # None where Label Studio could not be asked
    troubles: tuple[Trouble, ...]
    pause: float  # seconds until the next look
    next_look: float  # monotonic


class Checkup:
    """Asks Label Studio about each project: whether it is there, the backend connected, and its events sent."""

    def __init__(self, settings: Settings, projects: Projects) -> None:
        self._settings, self._projects = settings, projects
        self._found: dict[str, Finding] = {}
        self._wanted = threading.Event()
        self._presses = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="checkup", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def finding(self, project: str) -> Finding | None:
        """None before the first look."""
        return self._found.get(project)

    def troubles(self) -> list[Trouble]:
        """Of all projects, from memory."""
        return [trouble for finding in list(self._found.values()) for trouble in finding.troubles]

    def look_again(self) -> None:
        """Asks about all projects soon, and returns at once."""
        self._presses += 1  # what is just being asked may be answered with what was before
        self._found = {uid: replace(one, pause=0.0, next_look=0.0) for uid, one in list(self._found.items())}
        self._wanted.set()

    def _run(self) -> None:
        while not self._stopping:
            projects = self._projects.all()
            for project in projects:
                known = self._found.get(project.uid)
                if not self._stopping and (known is None or known.next_look < time.monotonic()):
                    presses = self._presses
                    found = self._look(project, known.pause if known else 0.0)
                    self._found[project.uid] = found if presses == self._presses else replace(found, next_look=0.0)
            for gone in self._found.keys() - {project.uid for project in projects}:
                del self._found[gone]
            self._wanted.wait(LOOK_SECONDS)
            self._wanted.clear()

    def _look(self, project: Project, before: float) -> Finding:
        connected: bool | None = None
        try:
            label_studio = find_label_studio(self._settings, self._projects.credentials(project.uid))
            if label_studio is None:
                troubles = [_no_address(project)]
            else:
                connected, troubles = self._ask(label_studio, project)
        except LabelStudioError as error:
            troubles = [Trouble("label-studio", f"Label Studio could not be asked: {error}.", project=project.uid)]
        except Exception:
            log.exception("project %s could not be looked up in Label Studio", project.uid)
            troubles = []
        pause = min(WELL_SECONDS, max(TROUBLED_SECONDS, 2 * before)) if troubles else WELL_SECONDS
        return Finding(connected, tuple(troubles), pause if troubles else 0.0, time.monotonic() + pause)

    def _ask(self, label_studio: LabelStudio, project: Project) -> tuple[bool, list[Trouble]]:
        title = label_studio.project(project.id).get("title")
        if isinstance(title, str):  # /setup does not tell it
            self._projects.remember(project.uid, title=title)
        backends = label_studio.backends(project.id)
        if not backends:
            return False, [
                Trouble(
                    "not-connected",
                    "Label Studio has no model connected to this project.",
                    "Connect this backend: Settings → Model → Connect Model.",
                    project.uid,
                )
            ]
        # Label Studio has just called each of them to know its state.
        if not any(backend.get("state") in ("CO", "TR", "PR") for backend in backends):
            return False, [_disconnected(project, backends[0])]
        urls = [str(backend.get("url") or "").rstrip("/") + "/webhook" for backend in backends]
        hooks = [
            hook for hook in label_studio.webhooks(project.id) if hook.get("is_active") and hook.get("url") in urls
        ]
        return True, self._trouble_with_events(project, hooks, urls[0])

    def _trouble_with_events(self, project: Project, hooks: list[Json], url: str) -> list[Trouble]:
        where = "In the project's Settings → Webhooks"
        if not any(_sends_annotations(hook) for hook in hooks):
            what = "Label Studio does not tell this backend of annotations: there is no active webhook for them."
            remedy = f"{where}, add one for all actions with the URL {_without_password(url)}, or reconnect the model."
            return [Trouble("webhook-missing", what, remedy, project.uid)]
        if self._settings.basic_auth and not any(map(_has_credentials, hooks)):
            what = "Label Studio's events are refused, since its webhook carries no password."
            remedy = (
                f"{where}, give it a header Authorization with the value “Basic …”, or connect the model anew with "
            )
            return [
                Trouble("webhook-credentials", what, remedy + "a URL like http://user:password@host:9090.", project.uid)
            ]
        return []


def _no_address(project: Project) -> Trouble:
    what = "It is not known where Label Studio is, so that its annotations cannot be read."
    return Trouble("label-studio-unknown", what, f"Set LABEL_STUDIO_URL, and {HOW_TO_MAKE_A_TOKEN}.", project.uid)


def _disconnected(project: Project, backend: Json) -> Trouble:
    said = str(backend.get("error_message") or backend.get("readable_state") or "disconnected").strip()
    what = f"Label Studio does not reach this backend: {said[:400].rstrip('.')}."
    remedy = (
        "In the project's Settings → Model, look at the URL and the password, and whether Label Studio may call it."
    )
    return Trouble("disconnected", what, remedy, project.uid)


def _sends_annotations(hook: Json) -> bool:
    return bool(hook.get("send_for_all_actions")) or "ANNOTATION_CREATED" in (hook.get("actions") or [])


def _has_credentials(hook: Json) -> bool:
    headers = hook.get("headers") or {}
    return "@" in urlsplit(str(hook.get("url"))).netloc or "authorization" in map(str.lower, headers)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
