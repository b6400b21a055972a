"""The interface of queues: jobs run in this process or in workers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from my_backend.jobs.record import Job, Kind

QueueState = Literal["ready", "starting", "unreachable", "failed", "replica", "no worker", "refused a job"]


@dataclass(frozen=True)
class QueueStatus:
    """Whether queued jobs can run.

    `starting`: the server has just started, and workers may not have yet. `unreachable`: Redis doesn't answer
    properly, and `why` is its error. `failed`: the job records couldn't be compared with Redis, because of `why`.
    `replica`: Redis is read-only, so no worker can register. `no worker`: none takes jobs of some kind. `refused a
    job`: jobs run, but within the last hour a worker refused one that isn't ours.
    """

    state: QueueState = "ready"
    workers: Mapping[Kind, int] = field(default_factory=dict)  # how many take jobs of each kind; empty if unknown
    why: str = ""


class JobQueue(Protocol):
    """A queue that runs jobs in this process or in workers."""

    def submit(self, project: str, kind: Kind, cause: str) -> Job:
        """A job that will learn all current annotations: a new one, or one that hasn't read them yet.

        For each project and kind, at most one job runs and one waits. Raises NotFound if the project was deleted.
        """

    def cancel(self, job_id: str) -> Job:
        """Cancels a waiting or running job; raises NotFound."""

    def status(self) -> QueueStatus:
        """Whether jobs can run at the moment, from memory."""

    def start(self) -> None:
        """Starts to run jobs, first those that an earlier process left unfinished."""

    def stop(self) -> None:
        """Stops the threads; unfinished jobs continue later."""


def submit_correction(queue: JobQueue, project: str) -> Job:
    """Submits a quick training run because annotations changed."""
    return queue.submit(project, "head", "annotations changed")
