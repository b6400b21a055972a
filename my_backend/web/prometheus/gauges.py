"""The state of jobs, versions, projects and this server for Prometheus, without any requests to other services."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version as package_version

from prometheus_client.core import GaugeMetricFamily

from my_backend import files
from my_backend.backend import Backend
from my_backend.errors import NotFound
from my_backend.jobs.record import KINDS, UNFINISHED, Job
from my_backend.projects.annotation_log import COUNT_FILE
from my_backend.projects.embeddings import WANTED_FILE, Embeddings
from my_backend.projects.project import Project
from my_backend.projects.version_metrics import Figures, read_figures, read_labels
from my_backend.projects.versions import UNTRAINED, Versions
from my_backend.storage import read_disks

# Each one adds time series to Prometheus' memory.
MAX_PROJECTS = 200
MAX_CLASSES = 50  # of a project, the most frequent
OTHER_CLASSES = "(others)"
FORECAST_LABELS = (100, 200)  # the same for each version: other numbers would start new series


def newest(projects: Sequence[Project]) -> list[Project]:
    """The projects that get their own metrics."""
    return sorted(projects, key=lambda project: project.id, reverse=True)[:MAX_PROJECTS]


class Gauges:
    """Collects gauges from memory, and from files that `unchanged` rereads only if they have changed."""

    def __init__(self, backend: Backend, unchanged: files.Unchanged) -> None:
        self._backend, self._unchanged = backend, unchanged
        self._version = package_version("image-classifier-backend")

    def collect(self) -> Iterator[GaugeMetricFamily]:
        projects = self._backend.projects.all()
        yield from self._server(len(projects))
        yield from self._jobs(projects)
        yield from self._versions(newest(projects))
        yield from self._unlearned(newest(projects))
        yield from self._shared_embeddings(newest(projects))

    def _server(self, projects: int) -> Iterator[GaugeMetricFamily]:
        settings = self._backend.settings
        about = _gauge("ml_backend_info", "The running version.", "version", "model_class")
        about.add_metric([self._version, settings.model_class], 1)
        problems = _gauge(
            "ml_backend_troubles", "Current problems, by their code in docs/reference/troubleshooting.md.", "code"
        )
        for code, count in Counter(problem.code for problem in self._backend.summary.problems()).items():
            problems.add_metric([code], count)
        free = _gauge("ml_backend_disk_free_bytes", "Free disk space, by the setting that names the folder.", "folder")
        for disk in read_disks(settings):
            for name in disk.settings:
                free.add_metric([name], disk.free)
        ready = _gauge("ml_backend_ready", "Whether every live version has been loaded or has failed to load.")
        ready.add_metric([], self._backend.serving.ready)
        connected = _gauge("ml_backend_projects", "Connected projects.")
        connected.add_metric([], projects)
        yield from (about, problems, free, ready, connected)

    def _jobs(self, projects: Sequence[Project]) -> Iterator[GaugeMetricFamily]:
        jobs = [job for project in projects for job in self._unfinished(project)]
        number = _gauge("ml_backend_jobs", "Queued and running (started) jobs.", "kind", "status")
        age = _gauge("ml_backend_queue_age_seconds", "How long the oldest queued job has been waiting.", "kind")
        workers = _gauge("ml_backend_workers", "Workers listening for jobs of a kind, as far as known.", "kind")
        queue = self._backend.queue.status()
        for kind in KINDS:
            for status in UNFINISHED:
                number.add_metric([kind, status], sum((job.kind, job.status) == (kind, status) for job in jobs))
            since = [job.created for job in jobs if (job.kind, job.status) == (kind, "queued")]
            age.add_metric([kind], max(0.0, time.time() - min(since)) if since else 0)
            workers.add_metric([kind], queue.workers.get(kind, 0))
        yield from (number, age, workers)
        if self._backend.settings.redis:
            redis = _gauge("ml_backend_redis_up", "Whether Redis responds.")
            redis.add_metric([], bool(queue.workers) and queue.state != "unreachable")
            yield redis

    def _unfinished(self, project: Project) -> list[Job]:
        return self._unchanged(project.folder / "jobs", lambda: self._backend.job_store.unfinished(project.uid))

    def _versions(self, projects: Sequence[Project]) -> Iterator[GaugeMetricFamily]:
        """Metrics of the live versions. There is no accuracy if the model class doesn't report one."""
        number = _gauge("ml_backend_live_version", "The live version's number: 7 for v7-20261120T132501.", "project")
        created = _gauge(
            "ml_backend_live_version_created_timestamp_seconds", "When the live version was created.", "project"
        )
        failed = _gauge("ml_backend_live_version_failed", "Whether loading the live version failed.", "project")
        accuracy = _gauge(
            "ml_backend_live_accuracy_ratio",
            "Accuracy on images not used for training, and how it was measured.",
            "project",
            "measure",
        )
        judged = _gauge("ml_backend_live_judged_images", "Number of images behind the accuracy.", "project")
        since = _gauge(
            "ml_backend_live_labels_since_evaluation",
            "Labels that the live version has learned since its accuracy was measured.",
            "project",
        )
        forecast = _gauge(
            "ml_backend_live_forecast_accuracy_ratio",
            "Accuracy expected with more labels than the live version has, and the bounds of its 90% interval.",
            "project",
            "more_labels",
            "estimate",
        )
        labels = _gauge("ml_backend_live_labels", "Labels that the live version was trained on.", "project", "class")
        for project in projects:
            live = self._live(project.uid)
            number.add_metric([project.uid], live.number)
            failed.add_metric([project.uid], bool(self._backend.serving.problem(project.uid)))
            if live.number:
                created.add_metric([project.uid], live.created)
            if live.figures.accuracy is not None:
                accuracy.add_metric([project.uid, live.figures.measure], live.figures.accuracy)
                since.add_metric([project.uid], live.figures.labels_since or 0)
            if live.figures.images is not None:
                judged.add_metric([project.uid], live.figures.images)
            for one in live.figures.forecast.expected if live.figures.forecast else ():
                if one.more in FORECAST_LABELS:
                    for estimate, value in (("expected", one.accuracy), ("low", one.low), ("high", one.high)):
                        forecast.add_metric([project.uid, str(one.more), estimate], value)
            for name, count in live.labels.items():
                labels.add_metric([project.uid, name], count)
        yield from (number, created, failed, accuracy, judged, since, forecast, labels)

    def _live(self, uid: str) -> "_Live":
        name = self._backend.serving.version_name(uid)
        if name == UNTRAINED:
            return _Live()
        folder = self._backend.projects.folder(uid)
        return self._unchanged(folder / "versions" / name, lambda: _read_live(Versions(folder), name))

    def _unlearned(self, projects: Sequence[Project]) -> Iterator[GaugeMetricFamily]:
        waiting = _gauge(
            "ml_backend_unlearned_annotations",
            "New or changed annotations that the live version wasn't trained on.",
            "project",
        )
        for project in projects:
            unlearned = self._unchanged(project.folder / COUNT_FILE, project.annotation_log.unlearned)
            waiting.add_metric([project.uid], unlearned)
        yield waiting

    def _shared_embeddings(self, projects: Sequence[Project]) -> Iterator[GaugeMetricFamily]:
        """How far workers are, in projects whose embeddings all hosts share. Costs others one look at a file's time."""
        tasks = _gauge("ml_backend_shared_embeddings_tasks", "Tasks, as a worker last counted them.", "project")
        done = _gauge("ml_backend_shared_embeddings_done_tasks", "Tasks that workers have finished.", "project")
        unreadable = _gauge(
            "ml_backend_shared_embeddings_unreadable_images",
            "Finished tasks without an embedding, because their image can't be read.",
            "project",
        )
        complete = _gauge(
            "ml_backend_shared_embeddings_complete",
            "Whether all tasks were finished when a worker last looked.",
            "project",
        )
        for project in projects:
            embeddings = Embeddings(project.folder)
            wanted = self._unchanged(project.folder / WANTED_FILE, embeddings.wanted)
            if wanted is None:
                continue
            totals = self._unchanged(embeddings.folder(wanted.space), partial(embeddings.totals, wanted.space))
            tasks.add_metric([project.uid], wanted.tasks)
            done.add_metric([project.uid], totals.tasks)
            unreadable.add_metric([project.uid], totals.tasks - totals.images)
            complete.add_metric([project.uid], wanted.complete)
        yield from (tasks, done, unreadable, complete)


@dataclass(frozen=True)
class _Live:
    """What a version's record says about it; the number is 0 before the first version."""

    number: int = 0
    created: float = 0.0
    figures: Figures = field(default_factory=Figures)
    labels: dict[str, int] = field(default_factory=dict)


def _read_live(versions: Versions, name: str) -> _Live:
    try:
        version = versions.get(name)
    except NotFound:  # removed just now
        return _Live()
    output = version.train_output
    return _Live(
        version.number, version.created, read_figures(output.get("figures")), _most(read_labels(output.get("labels")))
    )


def _most(labels: dict[str, int]) -> dict[str, int]:
    """If there are many classes, the most frequent ones and the sum of the others."""
    if len(labels) <= MAX_CLASSES:
        return labels
    most = sorted(labels.items(), key=lambda item: (-item[1], item[0]))
    return {**dict(most[:MAX_CLASSES]), OTHER_CLASSES: sum(count for _, count in most[MAX_CLASSES:])}


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, labels=labels)
