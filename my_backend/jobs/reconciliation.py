"""Finds lost annotation events by comparing what was learned with what Label Studio has."""

import logging
from collections.abc import Callable

from my_backend.background import Background
from my_backend.errors import LabelStudioError
from my_backend.jobs.training_job import learned_state
from my_backend.label_studio.connections import Connections
from my_backend.projects.registry import Project, Projects
from my_backend.projects.versions import UNTRAINED, Versions

log = logging.getLogger(__name__)

# Label Studio sends an event once, waits one second, and never retries.
COMPARE_SECONDS = 600.0


class Reconciliation(Background):
    """Asks Label Studio at the start and every COMPARE_SECONDS; calls `train(project)` for outdated projects."""

    def __init__(self, projects: Projects, connections: Connections, train: Callable[[str], None]) -> None:
        super().__init__("reconciliation")
        self._projects, self._connections, self._train = projects, connections, train

    def _look(self) -> float:
        for project in self._projects.all():
            try:
                if not self._stopping and self._is_behind(project):
                    self._projects.changes(project.uid).forget_tasks()
                    self._train(project.uid)
            except LabelStudioError as error:
                log.info("can't compare project %s with Label Studio: %s", project.uid, error)
            except Exception:
                log.exception("can't compare project %s with Label Studio", project.uid)
        return COMPARE_SECONDS

    def _is_behind(self, project: Project) -> bool:
        """Returns whether Label Studio has changed since the live version was trained; the job checks in detail."""
        folder = self._projects.folder(project.uid)
        if Versions(folder).live_name() == UNTRAINED:
            return False  # users or events start the first training
        label_studio = self._connections.label_studio(self._projects.credentials(project.uid))
        if label_studio is None:
            return False
        return label_studio.watermark(project.id) != learned_state(folder).watermark
