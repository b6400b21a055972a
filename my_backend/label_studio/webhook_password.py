"""Adds the password to this backend's webhook: Label Studio doesn't send one with annotation events."""

import base64
import logging
import math
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from my_backend.background import Background
from my_backend.errors import LabelStudioError
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects.registry import Projects
from my_backend.settings import Settings

Json = dict[str, Any]

log = logging.getLogger(__name__)

# Label Studio adds the webhook just after calling /setup, and keeps it when the backend is removed.
RETRY_SECONDS = (1.0, 3.0, 10.0, 30.0)
AGAIN_SECONDS = 600.0
TELL_SECONDS = 60.0


class WebhookPassword(Background):
    """Sets the header of each project's webhook in a background thread; does nothing if no password is required."""

    def __init__(self, settings: Settings, projects: Projects, connections: Connections) -> None:
        super().__init__("webhook password")
        self._settings, self._projects, self._connections = settings, projects, connections
        self._hosts: dict[str, str] = {}  # project → this backend's host and port, as Label Studio calls it
        self._tries: dict[str, int] = {}
        self._due: dict[str, float] = {}  # project → when to check next (monotonic)
        self._known: set[str] = set()  # projects whose events have the password
        self._told = float("-inf")  # when a refused event was last logged (monotonic)
        self._lock = threading.Lock()

    def start(self) -> None:
        if self._settings.basic_auth:
            super().start()

    def called(self, project: str, host: str) -> None:
        """Call it when Label Studio has called this backend for the project, as `host` or `host:port`."""
        with self._lock:
            if self._hosts.get(project) != host:
                self._hosts[project], self._tries[project] = host, 0
                self._due[project] = time.monotonic()
        self._wake()

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
        """Returns the projects whose events, as far as known, come without the password; from memory."""
        if not self._settings.basic_auth:
            return []
        with self._lock:
            return [project.uid for project in self._projects.all() if project.uid not in self._known]

    def _look(self) -> float:
        with self._lock:
            now = time.monotonic()
            ready = [project for project, due in self._due.items() if due <= now]
        for project in ready:
            self._look_at(project)
        with self._lock:
            return min(self._due.values(), default=math.inf) - time.monotonic()

    def _look_at(self, uid: str) -> None:
        with self._lock:
            host, tries = self._hosts[uid], self._tries[uid]
        try:
            found = self._set(uid, host)
        except LabelStudioError as error:
            found = False
            log.info("project %s: can't add the password to the webhook: %s", uid, error)
        except Exception:
            found = False
            log.exception("project %s: can't add the password to the webhook", uid)
        with self._lock:
            pause = AGAIN_SECONDS if found or tries >= len(RETRY_SECONDS) else RETRY_SECONDS[tries]
            self._tries[uid], self._due[uid] = tries + 1, time.monotonic() + pause
            if found:
                self._known.add(uid)

    def _set(self, uid: str, host: str) -> bool:
        """Whether the project's webhook has the password now; raises LabelStudioError."""
        label_studio = self._connections.label_studio(self._projects.credentials(uid))
        if label_studio is None or self._settings.basic_auth is None:
            return False
        user, header = self._settings.basic_auth[0], password_header(*self._settings.basic_auth)
        own = _own_webhooks(Snapshot(label_studio, int(uid.partition(".")[0])), host, user)
        for webhook in own:
            headers = webhook.get("headers") or {}
            if headers.get("Authorization") != header:
                label_studio.change_webhook(webhook["id"], headers={**headers, "Authorization": header})
                log.info("project %s: added the password to the webhook", uid)
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
