"""Keeps the model's title in Label Studio equal to the live version, or restores the user's title."""

import logging
import math
import threading
import time
from dataclasses import dataclass, replace

from my_backend.active_learning.title import Title, TitleStatus
from my_backend.errors import LabelStudioError
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects.project import Project
from my_backend.projects.versions import UNTRAINED
from my_backend.serving.live_models import Serving
from my_backend.settings import Settings

log = logging.getLogger(__name__)

SOON_SECONDS = 1.0  # Label Studio stores predictions just after receiving them
LONGEST_SECONDS = 60.0  # the longest pause between two visits while something is missing; pauses double


@dataclass
class _Watch:
    """What is known about a project's title."""

    version: str  # that was live at the last visit
    due: float = math.inf  # when to visit if that can't wait for the next regular visit (monotonic)
    visited: float = -math.inf
    pause: float = SOON_SECONDS  # until the next visit
    in_order: bool = False


class TitleSync:
    """An observer that changes the title in Label Studio.

    It asks nothing if the setting is off and there is no title to restore.
    """

    def __init__(self, settings: Settings, serving: Serving) -> None:
        self._settings, self._serving = settings, serving
        self._watched: dict[str, _Watch] = {}
        self._statuses: dict[str, TitleStatus] = {}
        self._lock = threading.Lock()

    def predicted(self, project: str) -> None:
        """Call it when Label Studio has received predictions: they will be stored there soon."""
        if not self._settings.title_is_version:
            return
        with self._lock:
            watch = self._watched.get(project)
            if watch and not watch.in_order:
                watch.due = min(watch.due, max(time.monotonic() + SOON_SECONDS, watch.visited + watch.pause))

    def statuses(self) -> dict[str, TitleStatus]:
        """The last known status of each project's title; from memory."""
        return dict(self._statuses)

    def due(self, project: Project) -> float:
        """Soon after another version went live, since storing its predictions may take long, and after errors."""
        return self._watch(project.uid).due

    def visit(self, project: Project, snapshot: Snapshot | None) -> None:
        """Changes the title if it has to, or restores the user's."""
        watch = self._watch(project.uid)
        with self._lock:
            watch.visited, watch.due = time.monotonic(), math.inf
        if snapshot is None:  # the monitor reports it
            return
        status = None
        try:
            title = Title(snapshot, project.folder)
            if self._settings.title_is_version:
                status = self._keep(title, project, watch)
            else:
                self._give_back(title, project, watch)
        except LabelStudioError as error:
            status = TitleStatus("failed", error=str(error))
            log.info("project %s: can't change the model's title in Label Studio: %s", project.uid, error)
            self._visit_again(watch)
        except Exception:
            self._visit_again(watch)
            raise
        if status is None:
            self._statuses.pop(project.uid, None)
        else:
            self._statuses[project.uid] = status

    def forget(self, uid: str) -> None:
        with self._lock:
            self._watched.pop(uid, None)
        self._statuses.pop(uid, None)

    def _watch(self, uid: str) -> _Watch:
        version = self._serving.version_name(uid) if self._settings.title_is_version else ""
        with self._lock:
            watch = self._watched.setdefault(uid, _Watch(version))
            if watch.version != version:
                due = max(time.monotonic(), watch.visited + SOON_SECONDS)  # new versions may come every second
                watch = self._watched[uid] = _Watch(version, due, watch.visited)
            return watch

    def _visit_again(self, watch: _Watch) -> None:
        with self._lock:
            watch.pause = min(2 * watch.pause, LONGEST_SECONDS)
            watch.due = watch.visited + watch.pause

    def _keep(self, title: Title, project: Project, watch: _Watch) -> TitleStatus | None:
        version = watch.version
        if version == UNTRAINED:
            return None
        status = title.look(version, renewing=self._settings.renew_predictions)
        with self._lock:
            watch.in_order = status.state == "in sync"
        if status.state == "out of sync":
            title.put(status, version, kept=True)
            log.info("project %s: changed the model's title in Label Studio to %s", project.uid, version)
            status = replace(status, state="in sync")
            # Label Studio may be asking the backend for its version right now. It stores the answer together with
            # the title that it read before, so a change may be lost: it has to be seen once.
            watch.pause = SOON_SECONDS
        if not watch.in_order and watch.pause < LONGEST_SECONDS:
            self._visit_again(watch)
        return status

    def _give_back(self, title: Title, project: Project, watch: _Watch) -> None:
        """Once after the start: another server may still have the setting on."""
        noted = title.remembered()
        if not watch.in_order and noted and noted.kept and (given := title.give_back()):
            log.info("project %s: restored the model's title %r in Label Studio", project.uid, given)
        watch.in_order = True
