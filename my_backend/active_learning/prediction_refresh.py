"""Refreshes the predictions stored in Label Studio after each new version, with the lowest priority."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from my_backend import files
from my_backend.active_learning.refresh_run import RefreshRun
from my_backend.background import Background
from my_backend.errors import BackendError
from my_backend.label_studio.connections import Connections
from my_backend.projects.deleted import unless_deleted
from my_backend.projects.labeling_order import ORDER_FILE, LabelingOrder, read_order
from my_backend.projects.project import Project
from my_backend.projects.recent_predictions import Recent, sightings
from my_backend.projects.registry import Projects
from my_backend.projects.versions import UNTRAINED
from my_backend.serving.live_models import MODEL_SECONDS, Serving
from my_backend.settings import Settings

Json = dict[str, Any]

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # how soon a new version is noticed
QUIET_SECONDS = 2.0  # how long a version has to be live before its predictions are stored
ASKED_SECONDS = 120.0  # Label Studio waits for predictions for 100 s, and then stores them one by one
ORDER_SECONDS = 5.0  # how soon an order is noticed that another server has kept
RETRY_SECONDS = 30.0  # after an error of Label Studio; doubles each time
LONGEST_SECONDS = 600.0


class Canceled(Exception):
    """Another version is live, or the process is shutting down."""


@dataclass
class _Turn:
    """One project's state: the version whose predictions are stored, and when its next batch is due (monotonic)."""

    version: str
    due: float
    pause: float = 0.0  # after the last error; 0 once predictions were stored since
    run: RefreshRun | None = None
    asked: dict[int, float] = field(default_factory=dict)  # task → when Label Studio requested it (monotonic)


class PredictionRefresh(Background):
    """Works through the projects in a background thread, a batch at a time; does nothing if the setting is off."""

    def __init__(
        self,
        settings: Settings,
        projects: Projects,
        connections: Connections,
        serving: Serving,
        recent: Recent,
        stored: Callable[[str], None],
    ) -> None:
        """`stored` is called with a project's uid after predictions of its live version were stored."""
        super().__init__("prediction refresh")
        self._settings, self._projects, self._connections = settings, projects, connections
        self._serving, self._recent, self._stored = serving, recent, stored
        self._turns: dict[str, _Turn] = {}
        self._orders: dict[str, LabelingOrder | None] = {}
        self._kept: dict[str, int] = {}  # project → when the order that was read last was kept
        self._orders_due = 0.0  # when to look for other orders (monotonic)
        self._failures: dict[str, str] = {}  # project → why its predictions can't be refreshed
        self._lock = threading.Lock()

    def start(self) -> None:
        if self._settings.renew_predictions:
            super().start()

    def asked(self, project: str, tasks: Iterable[int]) -> None:
        """Call it when Label Studio requests predictions for these tasks: it will store them itself."""
        with self._lock:
            turn = self._turns.get(project)
            if turn is not None and not (turn.run and turn.run.finished):
                turn.asked.update(dict.fromkeys(tasks, time.monotonic()))

    def ranked(
        self, project: str, tasks: Sequence[Json], results: Sequence[Json | list[Any]]
    ) -> list[Json | list[Any]]:
        """Predictions of tasks, whose score is the task's rank if the project's tasks have an order; from memory."""
        order = self._orders.get(project)
        if order is None:
            return list(results)
        return [
            order.scored(task["id"], result) if isinstance(result, dict) else result
            for task, result in zip(tasks, results, strict=True)
        ]

    def imported(self, project: str) -> None:
        """Call it when the project has new tasks."""
        with self._lock:
            if project in self._turns:
                del self._turns[project]

    def failures(self) -> dict[str, str]:
        """Why predictions can't be refreshed, by project; from memory."""
        return dict(self._failures)

    def _tick(self) -> float:
        due = self._take_turns(self._projects.all())
        return min(LOOK_SECONDS, due - time.monotonic())

    def _take_turns(self, projects: Sequence[Project]) -> float:
        """Processes a batch of each project that is due; returns when the next one is due (monotonic)."""
        if time.monotonic() >= self._orders_due:
            self._orders_due = time.monotonic() + ORDER_SECONDS
            for project in projects:
                self._read_order(project)
        turns = [(project, self._turn_of(project)) for project in projects]
        for project, turn in turns:
            if turn.due <= time.monotonic() and not self._stopping:
                self._take(project, turn)
        with self._lock:
            known = {project.uid for project in projects}
            for gone in (self._turns.keys() | self._orders.keys() | self._kept.keys()) - known:
                self._turns.pop(gone, None)
                self._orders.pop(gone, None)
                self._kept.pop(gone, None)
                self._failures.pop(gone, None)
        return min((turn.due for _, turn in turns), default=float("inf"))

    def _read_order(self, project: Project) -> None:
        """Takes over an order that another server has kept: an event about imported tasks reaches only one of them."""
        kept = files.changed_ns(project.folder / ORDER_FILE)
        if kept == self._kept.get(project.uid, 0):
            return
        order = read_order(project.folder)
        if order is None and kept:  # it is damaged
            return
        self._orders[project.uid] = order
        # A file time this recent may miss a later change, so the next call reads again.
        self._kept[project.uid] = kept if time.time_ns() - kept > files.SETTLED_NS else -1

    def _turn_of(self, project: Project) -> _Turn:
        """The project's state for its live version; a new version or an import starts a new one."""
        version = self._serving.version_name(project.uid)
        with self._lock:
            turn = self._turns.get(project.uid)
            if turn is None or turn.version != version:
                due = float("inf") if version == UNTRAINED else time.monotonic() + QUIET_SECONDS
                turn = self._turns[project.uid] = _Turn(version, due, asked=turn.asked if turn else {})
            return turn

    def _take(self, project: Project, turn: _Turn) -> None:
        """Stores a batch, or notes the problem that prevents it."""
        try:
            with unless_deleted(project.folder), files.claimed(project.folder / ".renewal"):
                self._step(project, turn)
        except Canceled:
            return
        except files.InUse:  # another server is storing them
            turn.due = time.monotonic() + QUIET_SECONDS
        except BackendError as error:
            log.info("project %s: can't refresh the stored predictions: %s", project.uid, error)
            self._failures[project.uid] = str(error)
            self._begin_again(turn)
        except Exception:
            log.exception("project %s: can't refresh the stored predictions", project.uid)
            self._begin_again(turn)
        else:
            self._failures.pop(project.uid, None)

    def _step(self, project: Project, turn: _Turn) -> None:
        """Stores a batch, then pauses for as long as that took."""
        label_studio = self._connections.label_studio(self._projects.credentials(project.uid))
        if label_studio is None:
            raise BackendError("Label Studio's URL is not set")
        if turn.run is None:
            predicted = partial(self._predicted, project, turn.version)
            turn.run = RefreshRun(label_studio, project, turn.version, predicted)
        if not turn.run.connected:  # the monitor reports it
            self._begin_again(turn)
            return
        with self._lock:
            long_ago = time.monotonic() - ASKED_SECONDS
            turn.asked = {task: when for task, when in turn.asked.items() if when > long_ago}
        live = self._serving.live(project.uid, time.monotonic() + MODEL_SECONDS)

        def check() -> None:
            if self._stopping or self._serving.version_name(project.uid) != turn.version:
                raise Canceled

        check()
        began = time.monotonic()
        turn.run.plan(live, check)
        self._orders[project.uid] = turn.run.order  # before the first score is stored: requests get the same
        stored = turn.run.step(live, turn.asked, check)
        if stored:
            self._stored(project.uid)
            turn.pause = 0.0
            turn.due = 2 * time.monotonic() - began
        elif not turn.run.finished:
            turn.due = time.monotonic() + QUIET_SECONDS
        if turn.run.finished:
            turn.due = float("inf")
            log.info("project %s: stored %d predictions of %s", project.uid, turn.run.done, turn.version)

    def _predicted(
        self, project: Project, version: str, tasks: list[Json], results: list[Any], why: dict[int, str]
    ) -> None:
        """Has the page show them: Label Studio doesn't request predictions that are stored already."""
        tag = project.config.image_choices
        if tag:
            self._recent.note(project.uid, sightings(tasks, results, why, tag.field, version))

    def _begin_again(self, turn: _Turn) -> None:
        turn.pause = min(max(2 * turn.pause, RETRY_SECONDS), LONGEST_SECONDS)
        turn.run, turn.due = None, time.monotonic() + turn.pause
