"""When stored predictions are renewed: after each swap, behind everything else, until the next one."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from my_backend import files
from my_backend.active_learning.refresh_run import Run
from my_backend.background import Background
from my_backend.errors import BackendError
from my_backend.label_studio.client import find_label_studio
from my_backend.problems import Trouble
from my_backend.projects.registry import Project, Projects
from my_backend.projects.versions import UNTRAINED
from my_backend.serving.live_models import Serving
from my_backend.settings import Settings

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # how soon a swap is noticed
QUIET_SECONDS = 2.0  # that a version has to be live before it is worth the trouble
LOAD_SECONDS = 60.0
ASKED_SECONDS = 120.0  # Label Studio waits for predictions for 100 s, and then stores them one by one
RETRY_SECONDS = 30.0  # after Label Studio could not be asked; each time twice as long
LONGEST_SECONDS = 600.0


class Cancelled(Exception):
    """Another version is live, or the process is to end."""


@dataclass
class _Turn:
    """A project's: the version whose predictions are stored, and when its next batch is due (monotonic)."""

    version: str
    due: float
    pause: float = 0.0  # after the last error
    run: Run | None = None
    asked: dict[int, float] = field(default_factory=dict)  # tasks that Label Studio asks for, and when (monotonic)


class Renewal(Background):
    """A thread of its own takes a batch of each project in turn; nothing runs where the setting is off."""

    def __init__(self, settings: Settings, projects: Projects, serving: Serving, stored: Callable[[str], None]) -> None:
        """`stored` is told of a project when predictions of its live version have been stored."""
        super().__init__("renewal")
        self._settings, self._projects, self._serving, self._stored = settings, projects, serving, stored
        self._turns: dict[str, _Turn] = {}
        self._troubles: dict[str, Trouble] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        if self._settings.renew_predictions:
            super().start()

    def asked(self, project: str, tasks: Iterable[int]) -> None:
        """Label Studio asks for these tasks' predictions, and will store them itself."""
        with self._lock:
            turn = self._turns.get(project)
            if turn is not None and not (turn.run and turn.run.finished):
                turn.asked.update(dict.fromkeys(tasks, time.monotonic()))

    def imported(self, project: str) -> None:
        """There are new tasks."""
        with self._lock:
            if project in self._turns:
                del self._turns[project]

    def troubles(self) -> list[Trouble]:
        """What keeps predictions from being renewed; from memory."""
        return list(self._troubles.values())

    def _look(self) -> float:
        due = self._take_turns(self._projects.all())
        return min(LOOK_SECONDS, due - time.monotonic())

    def _take_turns(self, projects: Sequence[Project]) -> float:
        """A batch of each project that is due; returns when the next one is."""
        turns = [(project, self._turn_of(project)) for project in projects]
        for project, turn in turns:
            if turn.due <= time.monotonic() and not self._stopping:
                self._take(project, turn)
        with self._lock:
            for gone in self._turns.keys() - {project.uid for project in projects}:
                del self._turns[gone]
                self._troubles.pop(gone, None)
        return min((turn.due for _, turn in turns), default=float("inf"))

    def _turn_of(self, project: Project) -> _Turn:
        """For the live version: a swap, like an import, begins another one."""
        version = self._serving.version_name(project.uid)
        with self._lock:
            turn = self._turns.get(project.uid)
            if turn is None or turn.version != version:
                due = float("inf") if version == UNTRAINED else time.monotonic() + QUIET_SECONDS
                turn = self._turns[project.uid] = _Turn(version, due, asked=turn.asked if turn else {})
            return turn

    def _take(self, project: Project, turn: _Turn) -> None:
        """A batch, or what keeps it from being stored."""
        try:
            with files.claimed(self._projects.folder(project.uid) / ".renewal"):
                self._step(project, turn)
        except Cancelled:
            return
        except files.InUse:  # another server is at it
            turn.due = time.monotonic() + QUIET_SECONDS
        except BackendError as error:
            log.info("project %s: stored predictions could not be renewed: %s", project.uid, error)
            self._troubles[project.uid] = Trouble.tried_again(
                "renewal", f"Stored predictions cannot be renewed in Label Studio: {error}.", project.uid
            )
            self._begin_again(turn)
        except Exception:
            log.exception("project %s: stored predictions could not be renewed", project.uid)
            self._begin_again(turn)
        else:
            self._troubles.pop(project.uid, None)

    def _step(self, project: Project, turn: _Turn) -> None:
        """A batch, and then a rest as long as that took."""
        label_studio = find_label_studio(self._settings, self._projects.credentials(project.uid))
        if label_studio is None:
            raise BackendError("it is not known where Label Studio is")
        if turn.run is None:
            turn.run = Run(label_studio, project, self._projects.folder(project.uid), turn.version)
        if not turn.run.connected:  # the checkup says it
            self._begin_again(turn)
            return
        with self._lock:
            long_ago = time.monotonic() - ASKED_SECONDS
            turn.asked = {task: when for task, when in turn.asked.items() if when > long_ago}
        live = self._serving.live(project.uid, time.monotonic() + LOAD_SECONDS)

        def check() -> None:
            if self._stopping or self._serving.version_name(project.uid) != turn.version:
                raise Cancelled

        check()
        began = time.monotonic()
        if turn.run.step(live, turn.asked, check):
            self._stored(project.uid)
            turn.due = 2 * time.monotonic() - began
        elif not turn.run.finished:
            turn.due = time.monotonic() + QUIET_SECONDS
        if turn.run.finished:
            turn.due = float("inf")
            log.info("project %s: stored %d predictions of %s", project.uid, turn.run.done, turn.version)

    def _begin_again(self, turn: _Turn) -> None:
        turn.pause = min(max(2 * turn.pause, RETRY_SECONDS), LONGEST_SECONDS)
        turn.run, turn.due = None, time.monotonic() + turn.pause
