"""The endpoints that share a project's embeddings among all hosts, as `python -m my_backend embed` does."""

from my_backend.backend import Backend
from my_backend.projects.project import Project
from my_backend.web.api.jobs import JobRecord, StartedJob, described, started
from my_backend.web.api.responses import Answer
from my_backend.web.bodies import Json, ProjectRequest
from my_backend.web.endpoint import endpoint
from my_backend.web.lookup import PROJECT_QUERY, find_project


class SharedEmbeddings(Answer):
    """How far workers are with the embeddings that all hosts share."""

    project: str
    """The project's uid."""

    wanted: bool
    """Whether workers embed the images of all tasks, and those of tasks that are imported later."""

    complete: bool
    """Whether all tasks were embedded when a worker last looked."""

    tasks: int
    """The number of the project's tasks when a worker last counted them; 0 before."""

    embedded: int
    """The number of tasks in finished ranges; more than `tasks` if some were deleted afterwards."""

    unreadable: int
    """How many of the embedded tasks have no embedding because their image can't be read."""

    ranges: int
    """The number of finished ranges of task IDs; each is a file in MODEL_DIR."""

    error: str | None
    """Why the last job failed; null if it didn't, or if all tasks are complete."""

    jobs: list[JobRecord]
    """The running and queued jobs; each worker that is embedding runs one job."""


class EmbeddingEndpoints:
    """All answers come from records in MODEL_DIR. Like training, this needs no more than access to the port."""

    def __init__(self, backend: Backend) -> None:
        self._projects, self._sharing = backend.projects, backend.embedding_sharing

    @endpoint("GET", "/api/embeddings", answers={200: SharedEmbeddings}, errors=(400, 404), query=PROJECT_QUERY)
    def state(self, project: str | None) -> Json:
        """How many tasks have an embedding that all hosts share, and which jobs are embedding more."""
        return self._state(find_project(self._projects, project))

    @endpoint("POST", "/api/embeddings/start", answers={201: StartedJob}, errors=(404, 409))
    def start(self, body: ProjectRequest) -> tuple[Json, int]:
        """Starts embedding a project's images for all hosts; if already started, tries unreadable images again."""
        return started(self._sharing.start(find_project(self._projects, body.project)))

    @endpoint("POST", "/api/embeddings/stop", answers={200: SharedEmbeddings}, errors=(404,))
    def stop(self, body: ProjectRequest) -> Json:
        """Ends the jobs that embed a project's images; stored embeddings stay in use."""
        project = find_project(self._projects, body.project)
        self._sharing.stop(project)
        return self._state(project)

    def _state(self, project: Project) -> Json:
        state = self._sharing.state(project)
        return {"project": project.uid, **state.facts(), "jobs": [described(job) for job in state.jobs]}
