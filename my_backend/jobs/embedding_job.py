"""The work of an embedding job: ranges of a project's tasks, as many as it can take before others get a turn."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from my_backend import files
from my_backend.errors import BackendError, BadRequest, NotFound, Stopped
from my_backend.jobs.run import CANCELED, RunningJob
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.task_pages import newest_task, next_task, tasks_between
from my_backend.projects.embeddings import Embeddings, Range, Wanted, first_of, last_of, range_of
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from my_backend.projects.versions import UNTRAINED
from my_backend.serving.model_api import ModelAPI
from my_backend.serving.model_loader import ModelFactory

log = logging.getLogger(__name__)

TURN_SECONDS = 300.0  # after which the worker takes a training run that waits; loading a network again takes a second

Json = dict[str, Any]


class EmbeddingJob:
    """Embeds those ranges of a project's tasks that no other job embeds or has embedded.

    As long as there is more to do, one more job waits: the next idle worker takes it, and submits another one. So all
    idle workers take part, and none needs to know of the others. A range that a killed worker leaves is taken by the
    next job that comes to it.
    """

    def __init__(
        self,
        projects: Projects,
        connections: Connections,
        new_model: ModelFactory,
        submit: Callable[[str], object],
    ) -> None:
        """`submit(project)` submits a job like this one, unless one waits already."""
        self._projects, self._connections, self._new_model = projects, connections, new_model
        self._submit = submit

    def __call__(self, running: RunningJob) -> Json:
        """How many `ranges` were embedded, with how many `tasks` and readable `images`; raises BackendError."""
        project = self._projects.get(running.job.project)
        embeddings = Embeddings(project.folder)
        try:
            return self._work(running, project, embeddings)
        except Stopped as stopped:
            if str(stopped) == CANCELED:  # nobody wants to cancel each worker's job
                with suppress(NotFound):
                    embeddings.stop()
            raise
        except OSError as error:
            if error.errno in files.DISK_ERRORS:
                raise BackendError(f"Can't write embeddings to MODEL_DIR: {error.strerror}") from error
            raise

    def _work(self, running: RunningJob, project: Project, embeddings: Embeddings) -> Json:
        if embeddings.wanted() is None:  # it was stopped while this job waited
            return asdict(_Done())
        label_studio = self._connections.needed(self._projects.credentials(project.uid))
        version = project.versions.live()
        model = self._new_model(project, version)
        space = model.embedding_space()
        if not space:
            embeddings.stop()
            raise BadRequest("This model class has no embeddings to share: it has no method `embed`")
        newest, tasks = newest_task(label_studio, project.id)
        wanted = embeddings.begin(version.name if version else UNTRAINED, space, tasks)
        if wanted is None:
            return asdict(_Done())
        ranges = _Ranges(running, project, label_studio, model, embeddings, wanted, newest)
        until = time.monotonic() + TURN_SECONDS
        for number in ranges.left():
            now = embeddings.wanted()
            if now is None or now.space != space:
                return asdict(ranges.done)
            if ranges.done.ranges and time.monotonic() > until:
                self._submit(project.uid)
                return asdict(ranges.done)
            with suppress(files.InUse), embeddings.claimed(space, number):
                if not running.job.annotations_read:
                    running.annotations_were_read()  # from now on, `submit` doesn't return this job
                    self._submit(project.uid)
                ranges.embed(number)
        # Each worker may have come to a range while another one had it. The last one to look finds that none is left.
        if next(ranges.left(), None) is None and embeddings.note_complete(wanted):
            log.info("project %s: the embeddings of all %d tasks are in MODEL_DIR", project.uid, tasks)
        return asdict(ranges.done)


@dataclass
class _Done:
    """What one job has embedded."""

    ranges: int = 0
    images: int = 0
    tasks: int = 0


@dataclass
class _Ranges:
    """The ranges of a project's tasks up to the newest one."""

    running: RunningJob
    project: Project
    label_studio: LabelStudio
    model: ModelAPI
    embeddings: Embeddings
    wanted: Wanted
    newest: int
    done: _Done = field(default_factory=_Done)

    def left(self) -> Iterator[int]:
        """The ranges with tasks that have no file yet, or that have got tasks since; raises LabelStudioError."""
        number, listed = 0, self.embeddings.ranges(self.wanted.space)
        while first_of(number) <= self.newest:
            if not self._is_done(listed.get(number)):  # others may have done it since, and those that follow
                listed = self.embeddings.ranges(self.wanted.space)
            known = listed.get(number)
            if self._is_done(known):
                number += 1
                continue
            self.running.check()
            # If only some images couldn't be read, all tasks of the range count; otherwise, those since the last time.
            is_whole = known is not None and known.images == known.tasks
            after = known.through if known and is_whole else first_of(number) - 1
            task = next_task(self.label_studio, self.project.id, after)
            if task is None:
                return
            if task <= last_of(number):
                yield number
                number += 1
            else:
                number = range_of(task)

    def _is_done(self, known: Range | None) -> bool:
        return known is not None and known.is_done(self.newest, self.wanted.since)

    def embed(self, number: int) -> None:
        """Writes the file of a range, unless another job has just done it."""
        known = self.embeddings.ranges(self.wanted.space)
        if self._is_done(known.get(number)):
            return
        before = sum(one.tasks for one in known.values() if one.number != number)
        through, tasks = min(last_of(number), self.newest), 0

        def pages() -> Iterator[list[Json]]:
            nonlocal tasks
            for page in tasks_between(self.label_studio, self.project.id, first_of(number), through):
                yield page
                tasks += len(page)

        def check() -> None:
            if self.embeddings.wanted() is None:  # another worker's job was canceled
                raise Stopped(CANCELED)
            done = before + tasks
            self.running.progress(
                {
                    "phase": "embedding",
                    "epoch": len(known) + 1,  # a job whose process dies may go on as long as there are more files
                    "image": done,
                    "images": self.wanted.tasks,
                    "done": min(1.0, done / max(1, self.wanted.tasks)),
                }
            )

        check()
        written = self.embeddings.new_file(self.wanted.space)
        try:
            images = self.model.embed(pages(), written, check)
            self.embeddings.add(written, number, through, images, tasks)
        finally:
            written.unlink(missing_ok=True)
        self.done = _Done(self.done.ranges + 1, self.done.images + images, self.done.tasks + tasks)
