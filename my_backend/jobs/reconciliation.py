"""Annotation events that never came: compares what was learned with what Label Studio has."""

import logging
from collections.abc import Callable

from my_backend.background import Background
from my_backend.errors import LabelStudioError
from my_backend.jobs.training_job import learned_state
from my_backend.label_studio.client import find_label_studio
from my_backend.projects.registry import Project, Projects
from my_backend.projects.versions import UNTRAINED, Versions
from my_backend.settings import Settings

log = logging.getLogger(__name__)

# Label Studio sends an event once, waits for one second, and forgets it.
COMPARE_SECONDS = 600.0


class Reconciliation(Background):
    """Asks Label Studio at the start and from time to time; calls `train(project)` for what is behind."""

    def __init__(self, settings: Settings, projects: Projects, train: Callable[[str], None]) -> None:
        super().__init__("reconciliation")
        self._settings, self._projects, self._train = settings, projects, train

    def _look(self) -> float:
        for project in self._projects.all():
            try:
                if not self._stopping and self._is_behind(project):
                    self._projects.changes(project.uid).forget_tasks()
                    self._train(project.uid)
            except LabelStudioError as error:
                log.info("project %s cannot be compared with Label Studio: %s", project.uid, error)
            except Exception:
                log.exception("project %s cannot be compared with Label Studio", project.uid)
        return COMPARE_SECONDS

    def _is_behind(self, project: Project) -> bool:
        """Whether anything has changed in Label Studio since the live version learned; the job looks closer."""
        folder = self._projects.folder(project.uid)
        if Versions(folder).live_name() == UNTRAINED:
            return False  # the first training is the user's to start, or the events'
        label_studio = find_label_studio(self._settings, self._projects.credentials(project.uid))
        if label_studio is None:
            return False
        return label_studio.watermark(project.id) != learned_state(folder).watermark
