"""Notifications about training runs that have finished or failed."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from my_backend.errors import NotFound
from my_backend.files import Unchanged
from my_backend.jobs.record import Job
from my_backend.jobs.store import JobStore
from my_backend.notifications.notice import Json, Notice
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from my_backend.projects.version_metrics import Figures, accuracy_words, read_figures
from my_backend.projects.versions import Version

WATCHED_JOBS = 10  # the newest of each project, of each kind


class Trainings:
    """The finished and failed training runs of all projects, as notifications.

    Corrections are trained every few seconds while people label, so there is no notification of
    the resulting versions. If they fail, one notification says so, until they have worked for an hour.
    """

    def __init__(self, projects: Projects, store: JobStore) -> None:
        self._projects, self._store = projects, store
        self._unchanged = Unchanged()

    def __call__(self) -> Iterator[Notice]:
        with self._unchanged:
            for project in self._projects.all():
                yield from self._unchanged(self._store.folder(project.uid), partial(self._of, project))

    def _of(self, project: Project) -> list[Notice]:
        trainings = self._store.newest(project.uid, WATCHED_JOBS, ("full",))[::-1]
        newest = self._store.newest(project.uid, WATCHED_JOBS, ("head",))
        corrections = [job for job in newest if not job.unfinished][:1]
        return [notice for job in [*trainings, *corrections] for notice in self._about(project, job)]

    def _about(self, project: Project, job: Job) -> Iterator[Notice]:
        ended = job.ended or job.created
        if job.status == "failed":
            is_correction = job.kind == "head"
            message = f"{'Training on corrections' if is_correction else 'Training'} failed: {job.error}"
            key = f"{project.uid} corrections fail" if is_correction else f"{job.id} failed"
            path = f"/projects/{project.uid}"
            yield Notice(key, "training-failed", message, ended, project.uid, project.title, path, {"job": job.id})
        elif job.status == "finished" and job.kind == "full":
            published = list(self._published(project, job))
            live = [version for version in published if not version.held_back][-1:]
            held_back = [version for version in published[-1:] if version.held_back]
            for version in live:
                message = f"{version.name} is trained and live.{_measured(version)}"
                yield _of_version(project, job, version, message, ended)
            for version in held_back:
                message = f"{version.name} is trained, but held back: {version.held_back.rstrip('.')}."
                yield _of_version(project, job, version, f"{message}{_measured(version)}", ended)

    def _published(self, project: Project, job: Job) -> Iterator[Version]:
        for name in job.result.get("versions") or []:
            with suppress(NotFound):  # removed meanwhile
                yield project.versions.get(str(name))


def _of_version(project: Project, job: Job, version: Version, message: str, ended: float) -> Notice:
    return Notice(
        f"{version.name} of {project.uid}",
        "version-held-back" if version.held_back else "version-live",
        message,
        ended,
        project.uid,
        project.title,
        f"/projects/{project.uid}/versions/{version.name}",
        {"version": version.name, "job": job.id, **_accuracy(_figures(version))},
    )


def _figures(version: Version) -> Figures:
    return read_figures(version.train_output.get("figures"))


def _measured(version: Version) -> str:
    words = accuracy_words(_figures(version))
    return f" Accuracy: {words}." if words else ""


def _accuracy(figures: Figures) -> Json:
    found = {name: getattr(figures, name) for name in ("accuracy", "accuracy_low", "accuracy_high")}
    return {name: value for name, value in found.items() if value is not None}
