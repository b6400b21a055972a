"""The endpoints of jobs: their state, and how to cancel them."""

from my_backend import context
from my_backend.backend import Backend
from my_backend.jobs.record import EMBED, Job, Kind, Status
from my_backend.projects.embeddings import Embeddings
from my_backend.projects.sent_annotations import SentAnnotations
from my_backend.web.api.responses import Answer, ModelVersion
from my_backend.web.bodies import JobRequest, Json
from my_backend.web.endpoint import endpoint
from my_backend.web.lookup import PROJECT_QUERY, find_project


class StartedJob(Answer):
    """The job that was started."""

    job: str
    """The job's id."""

    job_id: str
    """The same as `job`."""

    job_status: Status
    """The job's status."""


class JobRecord(Answer):
    """A training or embedding job."""

    job: str
    """The job's id."""

    job_status: Status
    """The job's status."""

    kind: Kind
    """`head` for a quick training of the last layer, `full` for everything that TRAIN_MODE requests, `embed` for
    embeddings that all hosts share."""

    cause: str
    """Why the job was started."""

    request_id: str | None
    """The id of the HTTP request that started it."""

    progress: Json
    """The job's progress, as the model class reports it: for example `phase`, `epoch`, `loss`, `seconds_left`, and
    `done`, the completed share (0 to 1)."""

    error: str | None
    """Why it failed; null if it didn't."""

    result: Json | None
    """The job's results, for example the names of its `versions`; null if there are none."""

    created_at: float
    """When it was submitted, in seconds since 1970."""

    started_at: float | None
    """When it was started, in seconds since 1970."""

    ended_at: float | None
    """When it finished, failed or was canceled, in seconds since 1970."""


class Training(ModelVersion):
    """The running and queued jobs of a project."""

    is_training: bool
    """Whether the project has a running or queued job."""

    job: str | None
    """The id of the first of these jobs."""

    jobs: list[JobRecord]
    """All of these jobs."""


class JobEndpoints:
    """The state of jobs comes from their records, wherever they run."""

    def __init__(self, backend: Backend) -> None:
        self._projects, self._serving = backend.projects, backend.serving
        self._queue, self._job_store = backend.queue, backend.job_store

    @endpoint("POST", "/job_status", answers={200: JobRecord}, errors=(404,))
    def job_status(self, body: JobRequest) -> Json:
        """The state and progress of a job."""
        return described(self._job_store.get(body.job))

    @endpoint("POST", "/api/jobs/<job_id>/cancel", answers={200: JobRecord}, errors=(404,))
    def cancel_job(self, job_id: str) -> Json:
        """Cancels a job; a running one stops at its next step."""
        waited = self._job_store.get(job_id).status == "queued"
        job = self._queue.cancel(job_id)
        if waited and job.kind == "full" and job.status == "canceled":  # a job that has started forgets them itself
            SentAnnotations(self._projects.folder(job.project)).forget_all()
        if waited and job.kind == EMBED:
            Embeddings(self._projects.folder(job.project)).stop()
        context.now_for(project=job.project, job=job.id)
        return described(job)

    @endpoint("GET", "/is_training", answers={200: Training}, errors=(400, 404), query=PROJECT_QUERY)
    def is_training(self, project: str | None) -> Json:
        """Whether the project has a running or queued job."""
        uid = find_project(self._projects, project).uid
        jobs = [job for job in self._job_store.of_project(uid) if job.unfinished]
        return {
            "is_training": bool(jobs),
            "job": jobs[0].id if jobs else None,
            "jobs": [described(job) for job in jobs],
            "model_version": self._serving.version_name(uid),
        }


def started(job: Job) -> tuple[Json, int]:
    """The answer of an endpoint that has started a job."""
    context.now_for(job=job.id)
    return {"job": job.id, "job_id": job.id, "job_status": job.status}, 201


def described(job: Job) -> Json:
    """The fields of `JobRecord`."""
    return {
        "job": job.id,
        "job_status": job.status,
        "kind": job.kind,
        "cause": job.cause,
        "request_id": job.request_id or None,
        "progress": job.progress,
        "error": job.error or None,
        "result": job.result or None,
        "created_at": job.created,
        "started_at": job.started,
        "ended_at": job.ended,
    }
