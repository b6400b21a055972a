"""Annotation events that never came: compares what was learned with what Label Studio has."""

import logging
import threading
from collections.abc import Callable

from my_backend.errors import LabelStudioError
from my_backend.label_studio import find_label_studio
from my_backend.projects import Project, Projects
from my_backend.settings import Settings
from my_backend.training_job import learned_state
from my_backend.versions import UNTRAINED, Versions

log = logging.getLogger(__name__)

# Label Studio sends an event once, waits for one second, and forgets it.
COMPARE_SECONDS = 600.0
STOP_SECONDS = 1.0  # Label Studio may be slow to answer


class Reconciliation:
    """Asks Label Studio at the start and from time to time; calls `train(project)` for what is behind."""

    def __init__(self, settings: Settings, projects: Projects, train: Callable[[str], None]) -> None:
        self._settings, self._projects, self._train = settings, projects, train
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciliation", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Also where it was never started."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for project in self._projects.all():
                try:
                    if not self._stopping.is_set() and self._is_behind(project):
                        self._projects.changes(project.uid).forget_tasks()
                        self._train(project.uid)
                except LabelStudioError as error:
                    log.info("project %s cannot be compared with Label Studio: %s", project.uid, error)
                except Exception:
                    log.exception("project %s cannot be compared with Label Studio", project.uid)
            self._stopping.wait(COMPARE_SECONDS)

    def _is_behind(self, project: Project) -> bool:
        """Whether anything has changed in Label Studio since the live version learned; the job looks closer."""
        folder = self._projects.folder(project.uid)
        if Versions(folder).live_name() == UNTRAINED:
            return False  # the first training is the user's to start, or the events'
        label_studio = find_label_studio(self._settings, self._projects.credentials(project.uid))
        if label_studio is None:
            return False
        return label_studio.watermark(project.id) != learned_state(folder).watermark
