"""Keeps the model's title in Label Studio equal to the live version, or restores the user's title."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from my_backend.active_learning.title import Title, TitleStatus, remembered_title
from my_backend.background import Background
from my_backend.errors import LabelStudioError
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects.registry import Project, Projects
from my_backend.projects.versions import UNTRAINED
from my_backend.serving.live_models import Serving
from my_backend.settings import Settings

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # how soon a new live version is noticed
SOON_SECONDS = 1.0  # Label Studio stores predictions just after receiving them
LONGEST_SECONDS = 60.0  # the longest pause between two checks while something is missing; pauses double
AGAIN_SECONDS = 600.0  # a user may rename the model at any time


@dataclass
class _Watch:
    """What is known about a project's title."""

    version: str = ""  # that was live at the last check
    due: float = 0.0  # when to check (monotonic)
    looked: float = 0.0
    pause: float = SOON_SECONDS  # until the next check
    in_order: bool = False


class TitleSync(Background):
    """Works in a background thread; does nothing if the setting is off and there is no title to restore."""

    def __init__(self, settings: Settings, projects: Projects, connections: Connections, serving: Serving) -> None:
        super().__init__("title sync")
        self._settings, self._projects, self._connections = settings, projects, connections
        self._serving = serving
        self._watched: dict[str, _Watch] = {}
        self._statuses: dict[str, TitleStatus] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        if self._settings.title_is_version or self._to_give_back():
            super().start()

    def predicted(self, project: str) -> None:
        """Call it when Label Studio has received predictions: they will be stored there soon."""
        if not self._settings.title_is_version:
            return
        with self._lock:
            watch = self._watched.get(project)
            if watch and not watch.in_order:
                watch.due = min(watch.due, max(time.monotonic() + SOON_SECONDS, watch.looked + watch.pause))

    def statuses(self) -> dict[str, TitleStatus]:
        """The last known status of each project's title; from memory."""
        return dict(self._statuses)

    def _look(self) -> float | None:
        projects = self._projects.all() if self._settings.title_is_version else self._to_give_back()
        self._look_at(projects)
        return LOOK_SECONDS if projects or self._settings.title_is_version else None

    def _look_at(self, projects: Sequence[Project]) -> None:
        for project in projects:
            if not self._stopping and self._is_due(project):
                self._try(project)
        for gone in self._watched.keys() - {project.uid for project in projects}:
            with self._lock:
                del self._watched[gone]
            self._statuses.pop(gone, None)

    def _to_give_back(self) -> list[Project]:
        folders = [(project, self._projects.folder(project.uid)) for project in self._projects.all()]
        return [project for project, folder in folders if (noted := remembered_title(folder)) and noted.kept]

    def _is_due(self, project: Project) -> bool:
        """Whether to check now; always if another version went live: storing its predictions may take long."""
        version = self._serving.version_name(project.uid)
        with self._lock:
            watch = self._watched.setdefault(project.uid, _Watch())
            now = time.monotonic()
            if watch.version != version:
                due = max(now, watch.looked + SOON_SECONDS)  # new versions may come every second
                watch = self._watched[project.uid] = _Watch(version, due, watch.looked)
            if watch.due > now:
                return False
            watch.looked, watch.due = now, now + AGAIN_SECONDS
            return True

    def _try(self, project: Project) -> None:
        label_studio = self._connections.label_studio(self._projects.credentials(project.uid))
        if label_studio is None:  # the monitor reports it
            return
        status = None
        try:
            title = Title(Snapshot(label_studio, project.id), self._projects.folder(project.uid))
            if self._settings.title_is_version:
                status = self._keep(title, project)
            else:
                self._give_back(title, project)
        except LabelStudioError as error:
            status = TitleStatus("failed", error=str(error))
            log.info("project %s: can't change the model's title in Label Studio: %s", project.uid, error)
            self._look_again(project)
        except Exception:
            log.exception("project %s: can't change the model's title in Label Studio", project.uid)
            self._look_again(project)
        if status is None:
            self._statuses.pop(project.uid, None)
        else:
            self._statuses[project.uid] = status

    def _look_again(self, project: Project) -> None:
        with self._lock:
            watch = self._watched[project.uid]
            watch.pause = min(2 * watch.pause, LONGEST_SECONDS)
            watch.due = watch.looked + watch.pause

    def _keep(self, title: Title, project: Project) -> TitleStatus | None:
        version = self._watched[project.uid].version
        if version == UNTRAINED:
            return None
        status = title.look(version, renewing=self._settings.renew_predictions)
        if status.state == "out of sync":
            title.put(status, version, kept=True)
            log.info("project %s: changed the model's title in Label Studio to %s", project.uid, version)
            status = replace(status, state="in sync")
        with self._lock:
            watch = self._watched[project.uid]
            watch.in_order = status.state == "in sync"
        if not watch.in_order and watch.pause < LONGEST_SECONDS:
            self._look_again(project)
        return status

    def _give_back(self, title: Title, project: Project) -> None:
        if given := title.give_back():
            log.info("project %s: restored the model's title %r in Label Studio", project.uid, given)
