"""Starts and stops sharing a project's embeddings among all hosts: for the command line, the endpoints and the page."""

from dataclasses import dataclass
from typing import Any

from my_backend.errors import Conflict
from my_backend.jobs.queue import JobQueue
from my_backend.jobs.record import EMBED, Job
from my_backend.jobs.store import JobStore
from my_backend.projects.embeddings import Embeddings
from my_backend.projects.project import Project


@dataclass(frozen=True)
class Sharing:
    """How far workers are with a project's embeddings; counts are 0 until the first worker has looked."""

    wanted: bool
    complete: bool
    tasks: int  # of the project, as a worker last counted them
    embedded: int  # tasks in finished ranges; more than `tasks` if some were deleted afterwards
    unreadable: int  # of these, tasks whose image has no embedding
    ranges: int  # finished ones; nobody knows how many there will be, because IDs of other projects lie between
    error: str  # of the last job, if it failed; "" once all tasks are complete
    jobs: list[Job]  # running and queued ones

    @property
    def running(self) -> int:
        """The number of workers that are embedding."""
        return sum(job.status == "started" for job in self.jobs)

    def facts(self) -> dict[str, Any]:
        """The state without the jobs, as the endpoint and the command line show it."""
        return {
            "wanted": self.wanted,
            "complete": self.complete,
            "tasks": self.tasks,
            "embedded": self.embedded,
            "unreadable": self.unreadable,
            "ranges": self.ranges,
            "error": self.error or None,
        }


class EmbeddingSharing:
    """Writes only records in MODEL_DIR, which servers and workers follow."""

    def __init__(self, store: JobStore, queue: JobQueue | None) -> None:
        """`queue` is the workers' queue; None without Redis, because there are no workers then."""
        self._store, self._queue = store, queue

    def start(self, project: Project) -> Job:
        """Lets workers embed the images of all tasks; if that was started before, unreadable ones are tried again.

        Returns a new job, or one that waits already. Raises Conflict if there is no Redis, and NotFound if the project
        was deleted.
        """
        if self._queue is None:
            raise Conflict(
                "Can't share embeddings: neither REDIS_URL nor REDIS_HOST is set, so there are no workers. Without "
                "Redis, there is only one server, and its CACHE_DIR already has the embeddings. To use several hosts, "
                "set REDIS_URL and start workers"
            )
        Embeddings(project.folder).want()
        return self._queue.submit(project.uid, EMBED, "requested")

    def stop(self, project: Project) -> None:
        """Ends the jobs; stored embeddings stay in use. Raises NotFound if the project was deleted."""
        Embeddings(project.folder).stop()
        if self._queue is not None:
            for job in self._store.unfinished(project.uid, (EMBED,)):
                self._queue.cancel(job.id)

    def state(self, project: Project) -> Sharing:
        """Reads a few small files and lists one folder, however many tasks there are."""
        embeddings = Embeddings(project.folder)
        wanted = embeddings.wanted()
        complete = wanted is not None and wanted.complete
        totals = embeddings.totals(wanted.space if wanted else "")
        jobs = self._store.unfinished(project.uid, (EMBED,))
        newest = self._store.newest(project.uid, len(jobs) + 1, (EMBED,))
        last = next((job for job in newest if not job.unfinished), None)
        return Sharing(
            wanted=wanted is not None,
            complete=complete,
            tasks=wanted.tasks if wanted else 0,
            embedded=totals.tasks,
            unreadable=totals.tasks - totals.images,
            ranges=totals.ranges,
            error=last.error if last and last.status == "failed" and not complete else "",
            jobs=jobs,
        )
