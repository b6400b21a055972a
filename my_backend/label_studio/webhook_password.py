"""Adds the password to this backend's webhook: Label Studio doesn't send one with annotation events."""

import base64
import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from my_backend.errors import LabelStudioError
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from my_backend.settings import Settings

Json = dict[str, Any]

log = logging.getLogger(__name__)

# Label Studio adds the webhook just after calling /setup, and keeps it when the backend is removed.
RETRY_SECONDS = (1.0, 3.0, 10.0, 30.0)
TELL_SECONDS = 60.0


@dataclass
class _Search:
    """A project's search for its webhook."""

    host: str  # this backend's host and port, as Label Studio calls it
    due: float  # (monotonic)
    tries: int = 0


class WebhookPassword:
    """An observer that sets the header of each project's webhook; does nothing if no password is required."""

    def __init__(self, settings: Settings, projects: Projects) -> None:
        self._settings, self._projects = settings, projects
        self._searches: dict[str, _Search] = {}
        self._known: set[str] = set()  # projects whose events have the password
        self._told = float("-inf")  # when a refused event was last logged (monotonic)
        self._lock = threading.Lock()

    def called(self, project: str, host: str) -> None:
        """Call it when Label Studio has called this backend for the project, as `host` or `host:port`."""
        with self._lock:
            search = self._searches.get(project)
            if search is None or search.host != host:
                self._searches[project] = _Search(host, time.monotonic())

    def heard(self, project: str) -> None:
        """Call it when an annotation event arrived with the password, wherever that came from."""
        if self._settings.basic_auth:
            with self._lock:
                self._known.add(project)

    def refused(self) -> None:
        """Call it when an event arrived without any password; logs that at most once a minute."""
        now = time.monotonic()
        with self._lock:
            if now < self._told + TELL_SECONDS:
                return
            self._told = now
        log.warning(
            "refused an event at /webhook because it had no password: connect the backend as "
            "http://user:password@host:9090, or see /problems"
        )

    def unheard(self) -> list[str]:
        """The projects whose events, as far as known, come without the password; from memory."""
        if not self._settings.basic_auth:
            return []
        with self._lock:
            return [project.uid for project in self._projects.all() if project.uid not in self._known]

    def due(self, project: Project) -> float:
        """Some seconds after Label Studio has called from a new place."""
        search = self._searches.get(project.uid)
        return search.due if search and self._settings.basic_auth else math.inf

    def visit(self, project: Project, snapshot: Snapshot | None) -> None:
        """Adds the password if it is missing."""
        search = self._searches.get(project.uid)
        if search is None or self._settings.basic_auth is None:
            return
        pause = RETRY_SECONDS[search.tries] if search.tries < len(RETRY_SECONDS) else math.inf
        search.tries, search.due = search.tries + 1, time.monotonic() + pause
        try:
            found = snapshot is not None and self._set(snapshot, project, search.host, *self._settings.basic_auth)
        except LabelStudioError as error:
            log.info("project %s: can't add the password to the webhook: %s", project.uid, error)
            return
        if found:
            search.due = math.inf
            with self._lock:
                self._known.add(project.uid)

    def forget(self, uid: str) -> None:
        with self._lock:
            self._searches.pop(uid, None)
            self._known.discard(uid)

    def _set(self, snapshot: Snapshot, project: Project, host: str, user: str, password: str) -> bool:
        """Whether the project's webhook has the password now; raises LabelStudioError."""
        header = password_header(user, password)
        own = _own_webhooks(snapshot, host, user)
        for webhook in own:
            headers = webhook.get("headers") or {}
            if headers.get("Authorization") != header:
                snapshot.label_studio.change_webhook(webhook["id"], headers={**headers, "Authorization": header})
                snapshot.expire()
                log.info("project %s: added the password to the webhook", project.uid)
        return bool(own)


def password_header(user: str, password: str) -> str:
    """The value of the Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _own_webhooks(snapshot: Snapshot, host: str, user: str) -> list[Json]:
    """The project's webhooks that lead to this backend: same user, and the host that Label Studio called."""
    own = {
        str(backend.get("url")).rstrip("/") + "/webhook"
        for backend in snapshot.backends()
        if backend.get("basic_auth_user") == user and urlsplit(str(backend.get("url"))).netloc.lower() == host.lower()
    }
    return [webhook for webhook in snapshot.webhooks() if webhook.get("url") in own]
