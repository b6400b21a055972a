"""Follows how projects are set up in Label Studio, and shares its answers among the parts that need them."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from my_backend.background import STOP_SECONDS, Background
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # how soon a visit that is due begins
REGULAR_SECONDS = 600.0  # between two regular visits: people may change anything in Label Studio at any time
BACKLOG_SECONDS = 2.0  # of regular visits in a row; then those that can't wait have their turn
MOST_THREADS = 16


class Observer(Protocol):
    """A part that has to know how projects are set up in Label Studio."""

    def due(self, project: Project) -> float:
        """When to visit the project if that can't wait for the next regular visit (monotonic); from memory."""

    def visit(self, project: Project, snapshot: Snapshot | None) -> None:
        """Checks the project; the snapshot is None if its Label Studio's URL is unknown.

        If it changes something in Label Studio, it makes the snapshot expire, because other observers use it next.
        Errors are logged.
        """

    def forget(self, uid: str) -> None:
        """Forgets a project that was deleted."""


@dataclass
class _Followed:
    """A project's Label Studio ("" if its URL is unknown), and when the next regular visit is due (monotonic)."""

    url: str
    regular: float = float("-inf")


@dataclass(frozen=True)
class _Visit:
    """Observers that visit a project together."""

    project: Project
    followed: _Followed
    observers: Sequence[Observer]
    regular: bool
    urgent: bool  # an observer can't wait


class Follower(Background):
    """Visits each project every REGULAR_SECONDS with all observers, and earlier with those that can't wait.

    Each Label Studio has its own thread while it is asked, so that a slow one delays only its own projects.
    """

    def __init__(self, projects: Projects, connections: Connections, observers: Sequence[Observer]) -> None:
        """The observers visit in the given order: those that only report last."""
        super().__init__("follower")
        self._projects, self._connections, self._observers = projects, connections, observers
        self._followed: dict[str, _Followed] = {}
        self._threads: dict[str, threading.Thread] = {}  # by the URL of the Label Studio that is being asked

    def stop(self) -> None:
        until = time.monotonic() + STOP_SECONDS
        super().stop()
        for thread in list(self._threads.values()):
            thread.join(max(0.0, until - time.monotonic()))

    def _tick(self) -> float:
        due: dict[str, list[_Visit]] = defaultdict(list)
        projects = self._projects.all()
        self._forget_all_but({project.uid for project in projects})
        for project in projects:
            if visit := self._due(project):
                due[visit.followed.url].append(visit)
        self._threads = {url: thread for url, thread in self._threads.items() if thread.is_alive()}
        for url, visits in due.items():
            if url not in self._threads and len(self._threads) < MOST_THREADS:
                thread = threading.Thread(target=self._make_all, args=(visits,), name="label studio", daemon=True)
                self._threads[url] = thread
                thread.start()
        return LOOK_SECONDS

    def _forget_all_but(self, known: set[str]) -> None:
        for gone in self._followed.keys() - known:
            del self._followed[gone]
            self._forget(gone)

    def _forget(self, uid: str) -> None:
        for observer in self._observers:
            observer.forget(uid)

    def _due(self, project: Project) -> _Visit | None:
        followed = self._followed.get(project.uid)
        if followed is None:
            followed = self._followed[project.uid] = _Followed(_url_of(self._client(project)))
        now = time.monotonic()
        urgent = [observer for observer in self._observers if observer.due(project) <= now]
        regular = followed.regular <= now
        observers = self._observers if regular else urgent
        return _Visit(project, followed, observers, regular, bool(urgent)) if observers else None

    def _make_all(self, visits: Sequence[_Visit]) -> None:
        """Makes visits to one Label Studio; if there are too many regular ones, some wait for the next time."""
        for visit in visits:
            if visit.urgent:
                self._make(visit)
        until = time.monotonic() + BACKLOG_SECONDS
        for visit in sorted((one for one in visits if not one.urgent), key=lambda one: one.followed.regular):
            self._make(visit)
            if time.monotonic() >= until:
                break

    def _make(self, visit: _Visit) -> None:
        if self._stopping:
            return
        project = visit.project
        if visit.regular:
            visit.followed.regular = time.monotonic() + REGULAR_SECONDS
        label_studio = self._client(project)
        visit.followed.url = _url_of(label_studio)
        snapshot = Snapshot(label_studio, project.id) if label_studio else None
        for observer in visit.observers:
            if self._stopping:
                return
            try:
                observer.visit(project, snapshot)
            except Exception:
                log.exception("project %s: %s failed", project.uid, type(observer).__name__)
        if project.uid not in self._followed:  # it was deleted meanwhile
            self._forget(project.uid)

    def _client(self, project: Project) -> LabelStudio | None:
        return self._connections.label_studio(self._projects.credentials(project.uid))


def _url_of(label_studio: LabelStudio | None) -> str:
    return label_studio.url if label_studio else ""
