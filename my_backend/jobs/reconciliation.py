"""Finds lost annotation events by comparing what was learned with what Label Studio has."""

import logging
import math
from collections.abc import Callable
from contextlib import suppress

from my_backend import files
from my_backend.errors import LabelStudioError, NotFound
from my_backend.jobs.learned import learned_state, noting
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects.project import Project

log = logging.getLogger(__name__)


class Reconciliation:
    """An observer that calls `train(project)` for outdated projects.

    Label Studio sends an event once, waits one second, and never retries.
    """

    def __init__(self, train: Callable[[str], None]) -> None:
        self._train = train

    def due(self, project: Project) -> float:
        """Regular visits are enough."""
        return math.inf

    def visit(self, project: Project, snapshot: Snapshot | None) -> None:
        """Compares the project with Label Studio."""
        try:
            if snapshot is not None and self._is_behind(project, snapshot):
                project.annotation_log.forget_tasks()
                self._train(project.uid)
        except LabelStudioError as error:
            log.info("can't compare project %s with Label Studio: %s", project.uid, error)

    def forget(self, uid: str) -> None:
        """There is nothing to forget."""

    def _is_behind(self, project: Project, snapshot: Snapshot) -> bool:
        """Whether Label Studio has changed since the live version was trained; the job checks in detail."""
        # Users or events start the first training run.
        if not project.versions.has_learned() or snapshot.watermark() == learned_state(project.folder).watermark:
            return False
        # A job that is just publishing a version holds the lock until it has noted what the version has learned.
        # The next visit compares again; waiting here would delay the visits to all projects.
        with suppress(NotFound, files.InUse), noting(project.folder, wait=False):
            return snapshot.watermark() != learned_state(project.folder).watermark
        return False
