"""What the page shows of a project: its connection, live version, and jobs."""

from dataclasses import dataclass

from my_backend.backend import Backend
from my_backend.errors import NotFound
from my_backend.projects.project import Project
from my_backend.projects.versions import UNTRAINED
from my_backend.web.pages.training import TrainingView, training_view
from my_backend.web.pages.versions import VersionView, read_version

SHOWN_JOBS = 10


@dataclass(frozen=True)
class Connection:
    """The state of the connection to Label Studio, in words and as a color."""

    words: str
    state: str  # good, bad or unknown


@dataclass(frozen=True)
class ProjectView:
    """What the page shows of a project; jobs are sorted from the newest to the oldest."""

    uid: str
    id: int
    title: str
    connection: Connection
    live_name: str
    live: VersionView | None
    unlearned: int
    running: list[TrainingView]
    waiting: list[TrainingView]
    ended: list[TrainingView]

    @property
    def busy(self) -> bool:
        return bool(self.running or self.waiting)

    @property
    def outcome(self) -> str:
        """How the newest job ended; `training` if there are unfinished ones, and "" if there are none at all."""
        return "training" if self.busy else self.ended[0].job.status if self.ended else ""

    @property
    def failed(self) -> TrainingView | None:
        """The newest job if it failed."""
        return self.ended[0] if self.ended and self.ended[0].job.status == "failed" else None

    @property
    def most(self) -> int:
        """The number of labels of the most frequent class."""
        return max(self.live.labels.values(), default=0) if self.live else 0


def project_view(backend: Backend, project: Project, shown_jobs: int = SHOWN_JOBS) -> ProjectView:
    """The project's view; reads a few small files and makes no requests."""
    unfinished = backend.job_store.unfinished(project.uid)
    newest = backend.job_store.newest(project.uid, shown_jobs + len(unfinished))
    live_name = backend.serving.version_name(project.uid)
    views = [training_view(job) for job in newest]
    return ProjectView(
        uid=project.uid,
        id=project.id,
        title=project.title or f"Project {project.id}",
        connection=_connection(backend, project),
        live_name=live_name,
        live=_live(backend, project, live_name),
        unlearned=project.annotation_log.unlearned(),
        running=[training_view(job) for job in unfinished if job.status == "started"],
        waiting=[training_view(job) for job in unfinished if job.status == "queued"],
        ended=[view for view in views if not view.job.unfinished][:shown_jobs],
    )


def unreadable_view(project: Project) -> ProjectView:
    """What the page shows of a project whose `project_view` fails: the project exists, but can't be shown."""
    return ProjectView(
        uid=project.uid,
        id=project.id,
        title=project.title or f"Project {project.id}",
        connection=Connection("can't be shown; the log says why", "bad"),
        live_name=UNTRAINED,
        live=None,
        unlearned=0,
        running=[],
        waiting=[],
        ended=[],
    )


def _live(backend: Backend, project: Project, name: str) -> VersionView | None:
    if name == UNTRAINED:
        return None
    try:
        return read_version(project.folder, name)
    except NotFound:  # the version was removed a moment ago
        return None


def _connection(backend: Backend, project: Project) -> Connection:
    finding = backend.monitor.finding(project.uid)
    if finding is None:
        return Connection("not checked yet", "unknown")
    if finding.connected is None:
        return Connection("no access to Label Studio", "bad")
    return Connection("connected", "good") if finding.connected else Connection("not connected", "bad")
