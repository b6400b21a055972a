"""Collects the images of projects in the background, and finds those to label next.

A project is collected once a person wants to label its images, and is forgotten if nobody asks for an hour. Everything
is in memory: Label Studio has the tasks, and the caches of images and embeddings make collecting them again quick.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from label_studio_format.labeling_config import ImageChoices
from my_backend import context
from my_backend.background import Background
from my_backend.errors import BackendError, Conflict, NotFound, Stopped
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.task_pages import task_pages
from my_backend.labeling.pool.image_map import ImageMap
from my_backend.labeling.pool.project_pool import Group, ProjectPool, QueuedImage, TaskLabels
from my_backend.labeling.runs.records import Labels, Run, RunStore
from my_backend.projects.project import Project
from my_backend.projects.random_order import keep_next
from my_backend.projects.registry import Projects
from my_backend.serving.live_models import MODEL_SECONDS, Serving
from my_backend.serving.model_api import ModelAPI
from my_backend.serving.model_loader import ModelFactory
from safe_http.redaction import said

_Found = TypeVar("_Found")

log = logging.getLogger(__name__)

READ_AT_ONCE = 64  # images of one step
COLLECTED_AT_ONCE = 8  # projects: one whose image hosts don't answer must not hold up the others
LISTED_AGAIN = 60.0  # seconds after which the tasks are listed again while somebody asks
LISTING_SHARE = 0.05  # of the time at most goes into listing again
MOST_MEMORY = 1_500_000_000  # bytes of all pools
RETRY_SECONDS = 10.0  # after an error
FORGOTTEN_SECONDS = 3600.0  # after the last question
SHOWN_SECONDS = 120.0  # that a task stays with the browser tab that shows it; the tab's requests renew that


@dataclass(frozen=True)
class Collected:
    """What is known about a project's images, and how many are collected.

    `labeled` and `counts` (see `ProjectPool.counts`) are those of some tasks only, if some were asked for.

    `error` says why collecting stopped, and what to do; it is tried again as long as someone asks for the images.
    """

    ready: bool  # all images are collected
    error: str
    counts: dict[str, int]
    labeled: int
    tag: ImageChoices
    pool: ProjectPool | None  # None before the first image
    labels: TaskLabels


@dataclass
class _Entry:
    """One project; times are monotonic."""

    asked: float
    busy: bool = False  # a thread takes a step
    work: Iterator[None] | None = None  # what is in progress
    due: float = 0.0
    pool: ProjectPool | None = None
    ready: bool = False
    shown: dict[int, tuple[str, float]] = field(default_factory=dict)  # task → the tab that shows it, and until when
    wants_map: bool = False  # somebody has asked for the map, which isn't arranged yet
    error: str = ""
    # Finished runs whose labels the pool has from a listing, with the time of their last change. Comparing times with
    # that of the listing wouldn't do: another server's clock may differ, and any clock may be set back.
    listed: dict[str, float] = field(default_factory=dict)
    plans: dict[str, list[Labels]] = field(default_factory=dict)  # of runs


class Pools(Background):
    """The pools of all projects; each is filled by one thread at a time."""

    def __init__(
        self,
        projects: Projects,
        connections: Connections,
        serving: Serving,
        new_model: ModelFactory,
        runs: RunStore,
    ) -> None:
        super().__init__("pools")
        self._projects, self._connections, self._serving = projects, connections, serving
        self._new_model, self._runs = new_model, runs
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()
        # Comparing all images keeps a processor busy for up to a second, and arranging a map for some; predictions get
        # the others.
        self._comparing, self._arranging = threading.Lock(), threading.Lock()
        self._collecting = ThreadPoolExecutor(COLLECTED_AT_ONCE, thread_name_prefix="pools")

    def stop(self) -> None:
        super().stop()
        self._collecting.shutdown(wait=False, cancel_futures=True)

    # --- asking -------------------------------------------------------------

    def groups(
        self,
        project: Project,
        without: Sequence[int],
        chosen: Sequence[int] | None = None,
        *,
        largest: int,
        count: int,
        tab: str = "",
    ) -> tuple[Collected, list[Group]]:
        """The groups that a person labels next, without some tasks; collects the project's images from now on.

        If `tab`, a browser tab, is given, tasks that other tabs show are left out as long as there are others.

        `chosen` are tasks that the person has chosen: only these are in groups. Never waits for Label Studio. Raises
        Conflict if the labeling config doesn't offer one choice per image.
        """
        self._check_one_choice(project)
        found = self._collected(project)
        if found.pool is None:
            return found, []
        model = self._model_for(project, found.pool)
        with self._comparing:
            pool = found.pool
            if chosen is not None:
                return found, pool.chosen(model, found.labels, set(without), chosen, largest=largest, count=count)

            def groups(left_out: Collection[int]) -> list[Group]:
                return pool.groups(model, found.labels, left_out, largest=largest, count=count)

            def images(group: Group) -> list[int]:
                return [*group.look_alikes.images, *chain.from_iterable(group.copies)]

            return found, self._not_shown_elsewhere(project, pool, tab, without, groups, images)

    def queue(
        self, project: Project, without: Sequence[int], only: Sequence[int] | None, *, count: int, tab: str = ""
    ) -> tuple[Collected, list[QueuedImage]]:
        """The images that a person labels next, one by one; `only` are the tasks to choose from, in this order.

        Images may get several choices; otherwise like `groups`.
        """
        found = self._collected(project, only)
        if found.pool is None:
            return found, []
        model = self._model_for(project, found.pool)
        with self._comparing:
            pool = found.pool

            def queue(left_out: Collection[int]) -> list[QueuedImage]:
                return pool.queue(model, found.labels, left_out, only=only, count=count)

            def images(one: QueuedImage) -> list[int]:
                return [one.image, *one.copies]

            return found, self._not_shown_elsewhere(project, pool, tab, without, queue, images)

    def _not_shown_elsewhere(
        self,
        project: Project,
        pool: ProjectPool,
        tab: str,
        without: Sequence[int],
        find: Callable[[Collection[int]], list[_Found]],
        images: Callable[[_Found], list[int]],
    ) -> list[_Found]:
        """Calls `find` without these tasks and those that other tabs show; if nothing is left, only without these.

        Otherwise, people who label at the same time would get the same images, and only the first label of each counts.
        """
        if not tab:
            return find(without)
        entry, now = self._asked(project), time.monotonic()
        shown = {task: one for task, one in entry.shown.items() if one[1] > now}
        others = {task for task, (by, _) in shown.items() if by != tab}
        found = find({*without, *others})
        if not found and entry.ready:  # otherwise more will be collected soon
            found = find(without)
        new = {pool.shown(image)[0] for one in found for image in images(one)}
        mine = new | (set(without) - others)
        entry.shown = shown | dict.fromkeys(mine, (tab, now + SHOWN_SECONDS))
        return found

    def map(self, project: Project) -> tuple[Collected, ImageMap]:
        """All images of the project that are collected, in two dimensions; otherwise like `groups`.

        The map is arranged once all of them are collected. Raises Conflict also if the model class has no map.
        """
        self._check_one_choice(project)
        found = self._collected(project)
        if found.pool is None:
            return found, ImageMap([], [], {}, [])
        model = self._model_for(project, found.pool)
        with self._comparing:
            images = found.pool.map(model, found.labels)
        if not images.arranged:
            self._asked(project).wants_map = True
            self._wake()
        return found, images

    def whole(self, project: Project) -> tuple[ProjectPool, TaskLabels] | None:
        """The project's pool with the labels of its tasks; None while images are still being read.

        Raises Conflict like `groups`, or if collecting the images has stopped.
        """
        self._check_one_choice(project)
        entry = self._asked(project)
        if entry.error:
            raise Conflict(entry.error)
        if entry.pool is None or not entry.ready or entry.pool.label_config != project.label_config:
            return None
        return entry.pool, entry.pool.labels(self._runs_since(project, entry))

    def counts(self, project: str) -> dict[str, int]:
        """How many of a project's images are collected, as `ProjectPool.counts`; zeros if nobody has requested them."""
        entry = self._entries.get(project)
        return entry.pool.counts() if entry and entry.pool else {"tasks": 0, "collected": 0, "unreadable": 0}

    def digest(self, project: str, task: int) -> str:
        """The SHA-256 of a task's image; raises NotFound if it isn't collected."""
        pool = entry.pool if (entry := self._entries.get(project)) else None
        image = pool.image_of(task) if pool else None
        if pool is None or image is None:
            raise NotFound(f"the image of task {task} hasn't been read yet, or is unreadable")
        return pool.shown(image)[1]

    def most_alike(
        self, project: Project, task: int, count: int, *, unlabeled: bool
    ) -> list[tuple[int, str, float, str | None]]:
        """Tasks whose images look most like a task's, as task, digest, similarity, and label if there is one.

        `unlabeled` leaves out tasks that have an annotation.

        Raises NotFound if the task's image isn't collected, and Conflict like `queue`.
        """
        self._tag(project)
        entry = self._asked(project)
        image = entry.pool.image_of(task) if entry.pool else None
        if entry.pool is None or image is None:
            raise NotFound(
                f"the image of task {task} hasn't been read yet, or is unreadable: see the project's Groups page"
            )
        labels = entry.pool.labels(self._runs_since(project, entry))
        with self._comparing:
            alike = entry.pool.most_alike(image, labels if unlabeled else (), count)
        return [(*entry.pool.shown(one), cosine, labels.get(entry.pool.shown(one)[0])) for one, cosine in alike]

    def note_labels(self, project: str, labels: Sequence[Labels]) -> None:
        """Notes what a person has labeled, which shows how reliable suggested labels are."""
        entry = self._entries.get(project)
        if entry and entry.pool:
            entry.pool.note_labels(labels)

    def _collected(self, project: Project, only: Sequence[int] | None = None) -> Collected:
        tag = self._tag(project)
        entry = self._asked(project)
        pool = entry.pool
        if pool is None:
            nothing = {"tasks": 0, "collected": 0, "unreadable": 0}
            return Collected(False, entry.error, nothing, 0, tag, None, {})
        labels = pool.labels(self._runs_since(project, entry))
        labeled = len(labels if only is None else labels.keys() & set(only))
        return Collected(entry.ready, entry.error, pool.counts(only), labeled, tag, pool, labels)

    def _tag(self, project: Project) -> ImageChoices:
        config = project.config
        if config.image_choices is None:
            raise Conflict(
                f"there are no images to label here: {config.problem or 'the project has no labeling config yet'}"
            )
        if not config.image_choices.choices:
            raise Conflict(
                "Groups, Queue, Map and Accept offer the choices of the labeling config, but it has none, because each "
                "task has its own choices: label the images in Label Studio"
            )
        return config.image_choices

    def _check_one_choice(self, project: Project) -> None:
        if self._tag(project).multiple:
            raise Conflict(
                "Groups, Map and Accept give each image one choice, but this labeling config allows several: label the "
                "images in Queue"
            )

    def _asked(self, project: Project) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault(project.uid, _Entry(time.monotonic()))
            entry.asked = time.monotonic()
            live = self._serving.loaded(project.uid)
            if entry.pool and not entry.error and not self._is_current(project, entry.pool, live or entry.pool.model):
                entry.due = 0.0  # of a large project, the tasks may not be due for a long time
        self._wake()
        return entry

    def _model_for(self, project: Project, pool: ProjectPool) -> ModelAPI:
        """The live model if it is loaded and knows the pool's images, otherwise the one that opened the pool."""
        live = self._serving.loaded(project.uid)
        return live if live and pool.images.suits(live) else pool.model

    def _runs_since(self, project: Project, entry: _Entry) -> Iterator[tuple[Run, list[Labels]]]:
        """The runs whose labels the last listing may not have, the oldest first."""
        for run in reversed(self._runs.of_project(project.uid)):
            if run.in_vain or entry.listed.get(run.id) == run.changed:
                continue
            if run.id not in entry.plans:
                try:
                    entry.plans[run.id] = self._runs.plan(run)
                except Conflict:  # it is damaged, which the run says when it fails
                    continue
            yield run, entry.plans[run.id]

    # --- the threads --------------------------------------------------------

    def _tick(self) -> float:
        now = time.monotonic()
        with self._lock:
            known = {project.uid: project for project in self._projects.all()}
            for uid, entry in list(self._entries.items()):
                if uid not in known or now - entry.asked > FORGOTTEN_SECONDS:
                    del self._entries[uid]
            entries = [(known[uid], entry) for uid, entry in self._entries.items()]
        for project, entry in entries:
            if self._stopping:
                break
            if not entry.busy and self._is_due(entry):
                entry.busy = True
                self._collecting.submit(self._take_step, project, entry)
        return LISTED_AGAIN

    def _take_step(self, project: Project, entry: _Entry) -> None:
        try:
            self._go_on(project, entry)
        finally:
            entry.busy = False
            self._wake()

    @staticmethod
    def _is_due(entry: _Entry) -> bool:
        """Whether there is something to do; a project is listed again only if someone has asked since."""
        is_listed = entry.due > time.monotonic() or entry.due > entry.asked
        return entry.work is not None or not is_listed or (entry.ready and entry.wants_map)

    def _go_on(self, project: Project, entry: _Entry) -> None:
        """Takes one step. An error of one project doesn't stop the others."""
        with context.working_for(project=project.uid):
            began = time.monotonic()
            if entry.work is None:
                is_first = entry.ready and entry.wants_map
                entry.work = self._arrange(entry) if is_first else self._collect(project, entry)
            try:
                next(entry.work)
                return
            except StopIteration:
                entry.error = ""
            except Stopped:
                pass
            except BackendError as error:
                self._failed(project, entry, str(error))
            except Exception as error:
                log.exception("project %s: can't collect or arrange its images", project.uid)
                self._failed(project, entry, said(error))
            entry.work = None
            if entry.error:
                entry.due = began + RETRY_SECONDS

    def _failed(self, project: Project, entry: _Entry, why: str) -> None:
        if why != entry.error:
            log.warning("project %s: can't collect or arrange its images: %s", project.uid, why)
        entry.error = why

    def _collect(self, project: Project, entry: _Entry) -> Iterator[None]:
        """Lists the tasks and reads the images that aren't in the pool yet, a step at a time."""
        tag, label_studio, model = self._tag(project), self._label_studio(project), self._model(project)
        ended = {run.id: run.changed for run in self._runs.of_project(project.uid) if not run.unfinished}
        if entry.pool is None or not self._is_current(project, entry.pool, model):
            images = model.open_pool()
            if images is None:
                raise Conflict("Groups, Queue and Map need a model class that can compare images, but this one can't")
            entry.pool, entry.ready = ProjectPool(project, tag, model, images), False
            entry.listed = ended  # it gets all labels from this listing
        pool, began, listing = entry.pool, time.monotonic(), 0.0
        pool.begin_listing()
        for page, more in task_pages(label_studio, project.id):
            listing += time.monotonic() - began  # without the time for reading images
            pool.note_tasks(page, more)
            self._check_size(pool)
            # Before the next page, so that only one page of tasks is in memory: their URLs may contain whole images.
            while tasks := pool.next_to_read(READ_AT_ONCE):
                yield
                pool.note_images(tasks, pool.images.add(tasks, self._raise_if_stopping))
            yield
            began = time.monotonic()
        pool.end_listing()
        self._keep_random_order(project, pool)
        entry.listed = ended
        entry.plans = {}
        entry.due = time.monotonic() + max(LISTED_AGAIN, listing / LISTING_SHARE)
        entry.ready = True

    def _arrange(self, entry: _Entry) -> Iterator[None]:
        """Arranges the map in one step."""
        entry.wants_map = False
        with self._arranging:
            if entry.pool and not entry.pool.is_arranged():
                entry.pool.arrange(self._raise_if_stopping)
        yield

    def _keep_random_order(self, project: Project, pool: ProjectPool) -> None:
        """Keeps the tasks that follow in the random order, for the next training run, if the disk takes them."""
        try:
            keep_next(project.folder, pool.first_of_random_order(), pool.labeled())
        except OSError as error:
            if project.folder.exists():  # otherwise the project was deleted
                log.warning("project %s: can't save the random order of its tasks: %s", project.uid, error)

    def _check_size(self, pool: ProjectPool) -> None:
        """Raises Conflict if all projects with groups have too many tasks together."""
        pools = [pool, *(entry.pool for entry in list(self._entries.values()) if entry.pool and entry.pool is not pool)]
        if sum(one.images.memory(one.counts()["tasks"]) for one in pools) > MOST_MEMORY:
            most = MOST_MEMORY // pool.images.memory(1)
            raise Conflict(
                f"this server can group at most {most:,} tasks at a time, including those of all projects whose groups "
                "were open in the last hour: split the project, or try again later"
            )

    @staticmethod
    def _is_current(project: Project, pool: ProjectPool, model: ModelAPI) -> bool:
        return pool.label_config == project.label_config and pool.images.suits(model)

    def _label_studio(self, project: Project) -> LabelStudio:
        return self._connections.needed(self._projects.credentials(project.uid))

    def _model(self, project: Project) -> ModelAPI:
        live = self._serving.live(project.uid, time.monotonic() + MODEL_SECONDS).model
        return live or self._new_model(project, None)
