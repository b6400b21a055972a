"""Job records on disk."""

import contextlib
import os
import shutil
import time
from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from my_backend import files
from my_backend.counters.on_disk import Tally
from my_backend.errors import Conflict, NotFound, TakenOver
from my_backend.jobs.record import EMBED, KINDS, Job, Kind, is_job_id, stamp_of
from my_backend.projects.deleted import unless_deleted, was_deleted
from my_backend.projects.registry import PROJECT_FILE
from my_backend.settings import Settings

JOBS_FOLDER = "jobs"  # in a project's folder
WORK_FOLDER = "work"
KEPT_JOBS = 50  # records of ended jobs, per project and kind
REMEMBERED_JOBS = 100_000

_JOB = TypeAdapter(Job)


class JobStore:
    """Job records on disk, one JSON file each; they outlive every process.

    Lists have only training runs, unless other kinds are asked for.
    """

    def __init__(self, projects_folder: Path) -> None:
        self._folder = projects_folder
        self.tally = Tally(projects_folder)
        self._ended: set[str] = set()  # files of ended jobs, which don't change; there are many

    def folder(self, project: str) -> Path:
        """The folder with the project's records; it changes whenever one of them does."""
        return self._folder / project / JOBS_FOLDER

    def save(self, job: Job, *, sync: files.Sync = "all") -> None:
        files.write_json(self._path(job.project, job.id), asdict(job), sync=sync, make_folder=True)

    def add(self, job: Job) -> None:
        """Saves a new job; raises NotFound if its project was deleted meanwhile, since the job would bring it back."""
        if self._is_deleted(job.project):
            raise was_deleted(job.project)
        with unless_deleted(self._folder / job.project):
            self.save(job)

    def update(self, job: Job, *, sync: files.Sync = "all") -> None:
        """Like `save`, but doesn't bring back a project that was deleted meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            files.write_json(self._path(job.project, job.id), asdict(job), sync=sync)

    def keep(self, job: Job, *, sync: files.Sync = "all") -> None:
        """Like `update`, for the process that runs the job; raises TakenOver if another process has taken it over."""
        self.check_runner(job)
        self.update(job, sync=sync)

    def check_runner(self, job: Job) -> None:
        """Raises TakenOver if another process now runs the job, for example after file locks were lost."""
        record = files.read_record(self._path(job.project, job.id), _JOB)
        if record and record.runner != job.runner:
            raise TakenOver("another process has taken over the job")

    def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        found = list(self._folder.glob(f"*/jobs/{job_id}.json")) if is_job_id(job_id) else []
        job = files.read_record(found[0], _JOB) if found else None
        if job is None:
            raise NotFound(f"there is no job {job_id}")
        return job

    def of_project(self, project: str) -> list[Job]:
        """The project's jobs, from the oldest to the newest."""
        return self._read(self._files(project, KINDS))

    def newest(self, project: str, count: int, kinds: Container[Kind] = KINDS) -> list[Job]:
        """The newest jobs, newest first; the only others that it reads are of the same second.

        Jobs from before the clock was set back are older than all others.
        """
        latest = stamp_of(time.time() + files.AHEAD_SECONDS)

        def place(path: Path) -> tuple[bool, str]:
            return _second(path) <= latest, _second(path)

        paths = sorted(self._files(project, kinds), key=place, reverse=True)
        last = min(map(place, paths[:count]), default=(False, ""))
        jobs = self._read(path for path in paths if place(path) >= last)
        jobs.sort(key=lambda job: not files.was_set_back_since(job.created))
        return jobs[::-1][:count]

    def all(self) -> list[Job]:
        return self._read(self._files("*", KINDS))

    def unfinished(self, project: str = "*", kinds: Container[Kind] = KINDS) -> list[Job]:
        """The unfinished jobs of one project or of all, oldest first; fast however many jobs have ended."""
        jobs = self._read(path for path in self._files(project, kinds) if path.name not in self._ended)
        if len(self._ended) > REMEMBERED_JOBS:
            self._ended.clear()
        self._ended.update(f"{job.id}.json" for job in jobs if not job.unfinished)
        return [job for job in jobs if job.unfinished]

    def _files(self, project: str, kinds: Container[str]) -> Iterator[Path]:
        """The records of one project or of all; the kind is the beginning of their names."""
        found = self._folder.glob(f"{project}/jobs/*.json")
        return (path for path in found if path.name.partition("-")[0] in kinds)

    def _read(self, paths: Iterable[Path]) -> list[Job]:
        jobs = (files.read_record(path, _JOB) for path in paths)
        return sorted((job for job in jobs if job), key=lambda job: (job.created, job.id))

    def changing(self) -> contextlib.AbstractContextManager[None]:
        """A lock, shared by all processes, to hold while deciding from the records what to do with jobs."""
        return files.locked(self._folder / ".jobs")

    @contextlib.contextmanager
    def claimed(self, job: Job) -> Iterator[None]:
        """Holds a claim while a process runs a job: only one training run per project and kind runs at a time.

        Entering it raises InUse if another process holds it, and NotFound if the project was deleted.
        """
        with contextlib.ExitStack() as held:
            with unless_deleted(self._folder / job.project):
                self._work_folder(job)
                held.enter_context(files.claimed(self._claim(job)))
            yield

    def _claim(self, job: Job) -> Path:
        """The file to lock while the job runs."""
        return self._folder / job.project / WORK_FOLDER / f".{job.id if job.kind == EMBED else job.kind}"

    def _work_folder(self, job: Job) -> Path:
        """The folder for the files of all runs of the project's jobs, after creating it if it is missing."""
        folder = self._folder / job.project / WORK_FOLDER
        folder.mkdir(exist_ok=True)
        return folder

    def workdir(self, job: Job) -> Path:
        """The folder for this run's files, which outlive the process."""
        return self._folder / job.project / WORK_FOLDER / f"{job.id}.{job.runner}"

    def make_workdir(self, job: Job) -> Path:
        """Like `workdir`, but creates the folder; raises NotFound if the project was deleted."""
        with unless_deleted(self._folder / job.project):
            self._work_folder(job)
            self.workdir(job).mkdir(exist_ok=True)
        return self.workdir(job)

    def take_over(self, job: Job, last: str) -> None:
        """Moves the files of the `last` runner to this run, so that training continues from their checkpoint.

        If an earlier run is still going unnoticed, it no longer finds its folder, so its files can't mix with these. If
        it has created its folder again, that is removed.
        """
        mine = self.workdir(job)
        for left in sorted(self._workdirs(job), key=lambda left: left.name != f"{job.id}.{last}"):
            if mine.exists():
                shutil.rmtree(left, ignore_errors=True)
                continue
            with contextlib.suppress(FileNotFoundError):
                os.replace(left, mine)

    def _workdirs(self, job: Job) -> list[Path]:
        """The folders of all runs of a job; those of older releases have only the job's id in their name."""
        return list(self.workdir(job).parent.glob(f"{job.id}*"))

    def request_cancel(self, job: Job) -> None:
        """Asks a running job, in any process, to end at its next step."""
        with contextlib.suppress(FileNotFoundError):  # the project was deleted, which also ends the job
            files.write(self._cancel_marker(job), "")

    def cancel_requested(self, job: Job) -> bool:
        """Whether the job was canceled, or deleted with its project."""
        return self._cancel_marker(job).exists() or not self.has(job)

    def will_read(self, job: Job) -> bool:
        """Whether an unfinished job will still read annotations, so that later ones need no other job."""
        return not self.cancel_requested(job) and (job.status == "queued" or not job.annotations_read)

    def has(self, job: Job) -> bool:
        return self._path(job.project, job.id).exists()

    def _cancel_marker(self, job: Job) -> Path:
        return self._path(job.project, job.id).with_suffix(".cancel")

    def clear(self, job: Job) -> None:
        """Removes the files that only an unfinished job needs."""
        for left in self._workdirs(job):
            shutil.rmtree(left, ignore_errors=True)
        self._cancel_marker(job).unlink(missing_ok=True)
        if job.kind == EMBED:  # its claim is its own; nobody takes the job again after its end
            self._claim(job).unlink(missing_ok=True)

    def remove_traces_if_deleted(self, job: Job) -> None:
        """Removes the folders that a model class created again for its files after the project was deleted.

        Only empty folders are removed, because the project may just have been connected again.
        """
        with contextlib.suppress(OSError):
            if self._is_deleted(job.project):
                work = self.workdir(job).parent
                work.rmdir()
                work.parent.rmdir()

    def _is_deleted(self, project: str) -> bool:
        """Whether a project that had a job was deleted; raises OSError if its folder can't be read.

        A missing record isn't enough: a project with a lost `project.json` still has its versions, and records of jobs
        are thinned out. A model class that writes after the deletion brings back neither `project.json` nor the jobs'
        folder.
        """
        try:
            names = {path.name for path in (self._folder / project).iterdir()}
        except FileNotFoundError:
            return True
        return PROJECT_FILE not in names and JOBS_FOLDER not in names

    def thin_out(self, project: str) -> None:
        """Removes the records of all but the newest ended jobs of each kind: there are far more corrections.

        Jobs from before the clock was set back are older than all others.
        """
        for kind in (*KINDS, EMBED):
            finished = [job for job in self._read(self._files(project, (kind,))) if not job.unfinished]
            finished.sort(key=lambda job: not files.was_set_back_since(job.created))
            for job in finished[:-KEPT_JOBS]:
                self._path(project, job.id).unlink(missing_ok=True)
                self._cancel_marker(job).unlink(missing_ok=True)  # it may have been canceled just as it ended

    def _path(self, project: str, job_id: str) -> Path:
        return self.folder(project) / f"{job_id}.json"


@contextlib.contextmanager
def claimed_model_dir(settings: Settings) -> Iterator[None]:
    """Claims MODEL_DIR while a server or worker runs; raises Conflict.

    With Redis, any number of processes can share a MODEL_DIR. A server without Redis resumes all unfinished jobs,
    including those that run in workers, so it must be alone.
    """
    folder, shared = settings.model_dir, bool(settings.redis)
    try:
        files.create_folder(folder, parents=True)
        with files.claimed(folder / ".server", shared=shared):
            yield
    except files.InUse:
        who = "a server without REDIS_URL" if shared else "another server or worker"
        raise Conflict(f"{who} is using MODEL_DIR={folder}: stop it, or set another MODEL_DIR") from None


def _second(path: Path) -> str:
    """The second of a job's creation, which follows the kind in the file name."""
    return path.name.partition("-")[2].partition("-")[0]
