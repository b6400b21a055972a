"""When annotation events become jobs: after so many, or some seconds after the last."""

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from label_studio_format.events import Change
from my_backend import context
from my_backend.background import Background
from my_backend.projects.registry import Projects

log = logging.getLogger(__name__)

QUIET_SECONDS = 30.0
RETRY_SECONDS = 30.0  # after the disk has refused something
REMEMBERED_EVENTS = 10_000


class Retraining(Background):
    """Counts changed annotations; calls `train(project)` when there are enough, or no more come."""

    def __init__(self, projects: Projects, after: int, train: Callable[[str], None]) -> None:
        super().__init__("retraining", patience=math.inf)
        self._projects, self._after, self._train = projects, after, train
        # project → when it is trained if nothing more comes (monotonic), and the ids of the event that came last
        self._due: dict[str, tuple[float, Mapping[str, str]]] = {}
        self._seen: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._missed: set[str] = set()  # projects of which an event could not be kept, as when the disk was full
        self._lock = threading.Lock()

    def start(self) -> None:
        """Also takes up changes that were counted before a restart."""
        for project in self._projects.all():
            if self._after and self._projects.changes(project.uid).unlearned():
                self._wait_for_quiet(project.uid)
        super().start()

    def changed(self, project: str, action: str, changes: Sequence[Change]) -> None:
        """Annotations were made, changed or deleted.

        One that has been seen does not count again: a webhook that Label Studio left behind sends everything twice.
        """
        fresh = [change for change in changes if self._is_new((project, action, *_identity(change)))]
        if not fresh:
            return
        try:
            unlearned = self._projects.changes(project).add(fresh)
        except OSError:
            # Whoever sends it again must be heard. Label Studio doesn't, so a training will ask it for everything.
            with self._lock:
                for change in fresh:
                    self._seen.pop((project, action, *_identity(change)), None)
                self._missed.add(project)
            self._wait_for_quiet(project)
            raise
        if not self._after:
            return
        # In any case: a job that is just reading the annotations may miss this one.
        self._wait_for_quiet(project)
        if unlearned >= self._after:
            self._train(project)

    def _is_new(self, event: tuple[str, ...]) -> bool:
        with self._lock:
            known = event in self._seen
            self._seen[event] = None
            self._seen.move_to_end(event)
            if len(self._seen) > REMEMBERED_EVENTS:
                self._seen.popitem(last=False)
            return not known

    def _wait_for_quiet(self, project: str) -> None:
        self._wait(project, QUIET_SECONDS)

    def _wait(self, project: str, seconds: float) -> None:
        with self._lock:
            self._due[project] = (time.monotonic() + seconds, context.ids())
        self._wake()

    def _look(self) -> float:
        with self._lock:
            now = time.monotonic()
            ready = {project: ids for project, (due, ids) in self._due.items() if due <= now}
            for project in ready:
                del self._due[project]
            next_due = min((due for due, _ in self._due.values()), default=math.inf)
        for project, ids in ready.items():
            with context.working_for(**ids):
                self._train_what_is_left(project)
        return next_due - time.monotonic()

    def _train_what_is_left(self, project: str) -> None:
        try:
            if project in self._missed:
                self._make_good(project)
            if self._after and self._projects.changes(project).unlearned():
                self._train(project)
        except OSError as error:
            log.warning("project %s: training could not be started, retrying: %s", project, error)
            self._wait(project, RETRY_SECONDS)
        except Exception:
            log.exception("project %s: training could not be started", project)

    def _make_good(self, project: str) -> None:
        if project in {known.uid for known in self._projects.all()}:
            self._projects.changes(project).doubt()
            log.info("project %s: the next training reads all annotations, as an event could not be kept", project)
        self._missed.discard(project)


def _identity(change: Change) -> tuple[str, str]:
    return str(change.annotation.get("id")), str(change.annotation.get("updated_at"))
