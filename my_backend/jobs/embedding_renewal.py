"""Keeps the shared embeddings of projects complete: after imports, after a new network, and after errors."""

import logging
import math
from typing import Any

from my_backend.errors import LabelStudioError, NotFound
from my_backend.jobs.queue import JobQueue
from my_backend.jobs.record import EMBED
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects.embeddings import Embeddings, Wanted
from my_backend.projects.project import Project

log = logging.getLogger(__name__)


class EmbeddingRenewal:
    """An observer that submits an embedding job for projects whose shared embeddings are wanted but not complete."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def due(self, project: Project) -> float:
        """Regular visits are enough: until then, each host embeds what it needs."""
        return math.inf

    def visit(self, project: Project, snapshot: Snapshot | None) -> None:
        """Compares the stored embeddings with the live version and the number of tasks."""
        embeddings = Embeddings(project.folder)
        wanted = embeddings.wanted()
        try:
            if wanted is None or snapshot is None:
                return
            if cause := _cause(project, embeddings, wanted, snapshot.project().get("task_number")):
                self._queue.submit(project.uid, EMBED, cause)
        except LabelStudioError:  # the monitor reports it
            return
        except NotFound:
            log.info("project %s was deleted", project.uid)

    def forget(self, uid: str) -> None:
        """There is nothing to forget."""


def _cause(project: Project, embeddings: Embeddings, wanted: Wanted, tasks: Any) -> str:
    """Why a job should look at the project's tasks; "" if it needn't."""
    if not wanted.complete:
        return "embeddings are missing"
    if wanted.version != project.versions.live_name():
        return "another version is live"  # usually with the same network, and nothing is left to do
    if wanted.tasks != tasks:
        return "tasks were imported or deleted"
    if embeddings.totals(wanted.space).tasks < wanted.embedded:
        return "a damaged file was removed"
    return ""
