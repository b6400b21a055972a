"""Compares the newest images of each project with those that were there before, after imports and new versions.

It opens a small pool of its own, because the pools for labeling know only projects that somebody is labeling here, and
drift matters most if nobody looks. The newest images are in the caches already if Label Studio reported their import,
and the labeled ones if they were learned on this machine.
"""

import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from my_backend import context
from my_backend.background import Background
from my_backend.errors import AnswerTooLarge, BackendError, LabelStudioError, Stopped
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.snapshot import Snapshot
from my_backend.label_studio.task_pages import newest_unlabeled, some_tasks
from my_backend.labeling.drift.comparison import FEWEST, Drift, find_drift
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from my_backend.serving.image_pool import ImagePool, without_copies
from my_backend.serving.live_models import MODEL_SECONDS, Live, Serving

NEWEST, LABELED, OLDER = 200, 1000, 200  # images that are compared, at most
BEFORE = 0.9  # share of the labeled tasks before which an unlabeled task counts as older
STRANGEST = 10  # tasks that are named
FIRST_SECONDS = 120.0  # after a server has seen a project: loading the models comes first
PAUSE_SECONDS = 3600.0  # between two checks because of new versions: there may be one every few seconds
DRIFTED_SECONDS = 600.0  # the same while there is drift, so that people see that their labels help
RETRY_SECONDS = 600.0  # after an error

Json = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DriftedImages:
    """A project's drift, with the strangest of its newest tasks, and the live version when it was found."""

    drift: Drift
    version: str
    tasks: tuple[int, ...]


@dataclass
class _Watched:
    """A project's state as it is and as it was when it was last checked; times are monotonic."""

    project: Project
    tasks: Any  # how many there are
    due: float  # when a check may begin
    checked: tuple[Any, str] | None = None  # number of tasks, and live version
    found: DriftedImages | None = None


class DriftWatch(Background):
    """An observer that notes imports, and the thread that looks at the images."""

    def __init__(self, projects: Projects, connections: Connections, serving: Serving) -> None:
        super().__init__("drift")
        self._projects, self._connections, self._serving = projects, connections, serving
        self._watched: dict[str, _Watched] = {}
        self._lock = threading.Lock()

    def found(self) -> dict[str, DriftedImages]:
        """The projects whose newest images look unlike the labeled ones; from memory."""
        with self._lock:
            return {uid: one.found for uid, one in self._watched.items() if one.found}

    # --- observing ----------------------------------------------------------

    def due(self, project: Project) -> float:
        return math.inf

    def visit(self, project: Project, snapshot: Snapshot | None) -> None:
        """Notes how many tasks the project has."""
        try:
            tasks = snapshot.project().get("task_number") if snapshot else None
        except LabelStudioError:  # the monitor reports it
            return
        now = time.monotonic()
        with self._lock:
            known = self._watched.setdefault(project.uid, _Watched(project, tasks, now + FIRST_SECONDS))
            if known.tasks != tasks and known.checked:
                known.due = now
            known.project, known.tasks = project, tasks
        self._wake()

    def forget(self, uid: str) -> None:
        with self._lock:
            self._watched.pop(uid, None)

    # --- the thread ---------------------------------------------------------

    def _tick(self) -> float:
        with self._lock:
            watched = list(self._watched.values())
        for one in watched:
            if self._stopping:
                break
            state = (one.tasks, self._serving.version_name(one.project.uid))
            if one.due <= time.monotonic() and state != one.checked:
                self._check(one, state)
        waiting = [one.due for one in watched if one.due > time.monotonic()]
        return max(0.0, min(waiting, default=math.inf) - time.monotonic())

    def _check(self, watched: _Watched, state: tuple[Any, str]) -> None:
        """Checks a project; an error leaves what was found before."""
        uid = watched.project.uid
        with context.working_for(project=uid):
            try:
                watched.found = self._drifted(watched.project)
                watched.checked = state
                pause = DRIFTED_SECONDS if watched.found else PAUSE_SECONDS
            except Stopped:
                return
            except AnswerTooLarge as error:  # as it will be again, unless other tasks are the newest ones
                log.info("project %s: can't compare its newest images with the labeled ones: %s", uid, error)
                watched.checked = state
                pause = PAUSE_SECONDS
            except BackendError as error:
                log.info("project %s: can't compare its newest images with the labeled ones: %s", uid, error)
                pause = RETRY_SECONDS
            except Exception:
                log.exception("project %s: can't compare its newest images with the labeled ones", uid)
                pause = RETRY_SECONDS
            watched.due = time.monotonic() + pause

    def _drifted(self, project: Project) -> DriftedImages | None:
        live = self._serving.live(project.uid, time.monotonic() + MODEL_SECONDS)
        if live.model is None or live.is_first_guess or (images := live.model.open_pool()) is None:
            return None
        label_studio = self._connections.needed(self._projects.credentials(project.uid))
        newest = newest_unlabeled(label_studio, project.id, NEWEST, FEWEST)
        if len(newest) < FEWEST:
            return None
        labeled = some_tasks(label_studio, project.id, LABELED, labeled=True)
        if len(labeled) < FEWEST:
            return None
        # Of an import of another kind, people have labeled only some; it must not be compared with the rest of it.
        last = sorted(task["id"] for task in labeled)[int(BEFORE * len(labeled))]
        before = min(last, newest[-1]["id"])
        older = some_tasks(label_studio, project.id, OLDER, labeled=False, before=before)
        return self._compared(live, images, newest, labeled, older)

    def _compared(self, live: Live, images: ImagePool, *parts: Sequence[Json]) -> DriftedImages | None:
        """Compares the newest unlabeled tasks with labeled ones and older unlabeled ones; `images` is empty."""
        tasks = [task for part in parts for task in part]
        # All at once: each image has a part in what the pool compares by.
        digests = images.add(tasks, self._raise_if_stopping)
        shown = [task["id"] for task, digest in zip(tasks, digests, strict=True) if digest is not None]
        image_of = {task: image for image, task in enumerate(shown)}
        newest, labeled, older = ([image_of[task["id"]] for task in part if task["id"] in image_of] for part in parts)
        # A hundred frames of one scene are evidence of one image only.
        compared = [without_copies(images, part) for part in (newest, labeled, older)]
        strange = [images.strangeness(part, labeled) for part in compared]
        drift = find_drift(*strange)
        if drift is None:
            return None
        ranked = sorted(zip(strange[0], compared[0], strict=True), reverse=True)[: min(STRANGEST, drift.strange)]
        return DriftedImages(drift, live.name, tuple(shown[image] for _, image in ranked))
