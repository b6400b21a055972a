"""Turns annotation events into jobs: after a number of them, or some seconds after the last one."""

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

from label_studio_format.events import Change
from my_backend import context
from my_backend.background import Background
from my_backend.errors import NotFound
from my_backend.projects.registry import Projects

log = logging.getLogger(__name__)

QUIET_SECONDS = 30.0
PACE_SECONDS = 60.0  # from one training run to the next, while a person labels images one by one on the page
RETRY_SECONDS = 30.0  # after a disk error
REMEMBERED_EVENTS = 10_000


class Retraining(Background):
    """Counts changed annotations; calls `train(project)` when there are enough, or when no more come."""

    def __init__(
        self,
        projects: Projects,
        after: int,
        train: Callable[[str], None],
        is_writing: Callable[[str], bool] = lambda project: False,
    ) -> None:
        """`is_writing` tells whether a labeling run is writing to a project: then one training run follows its end."""
        super().__init__("retraining", patience=math.inf)
        self._projects, self._after, self._train, self._is_writing = projects, after, train, is_writing
        # project → when to train it if nothing more comes (monotonic), and the ids of the last event
        self._due: dict[str, tuple[float, Mapping[str, str]]] = {}
        self._trained: dict[str, float] = {}  # project → when it was trained last (monotonic)
        self._one_by_one: dict[str, float] = {}  # project → when the last run of images labeled one by one ended
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._missed: set[str] = set()  # projects with an event that couldn't be kept, say on a full disk
        self._lock = threading.Lock()

    def start(self) -> None:
        """Starts the thread; also handles changes counted before a restart."""
        for project in self._projects.all():
            if self._after and project.annotation_log.unlearned():
                self._wait_for_quiet(project.uid)
        super().start()

    def changed(self, project: str, action: str, changes: Sequence[Change]) -> None:
        """Handles annotations that were created, changed or deleted.

        Repeated events don't count: if Label Studio keeps an old webhook, it sends everything twice.
        """
        fresh = [change for change in changes if self._is_new(_event(project, action, change))]
        if not fresh:
            return
        try:
            unlearned = self._projects.annotation_log(project).add(fresh)
        except OSError:
            # If the event is sent again, it must count. Label Studio doesn't resend it, so training reads everything.
            with self._lock:
                for change in fresh:
                    self._seen.pop(_event(project, action, change), None)
                self._missed.add(project)
            self._wait_for_quiet(project)
            raise
        if not self._after:
            return
        # Always wait: a job that is reading the annotations right now may miss this one.
        self._wait_for_quiet(project)
        if unlearned >= self._after and not self._is_writing(project) and not self._rest(project):
            self._start(project)

    def run_ended(self, project: str, *, one_by_one: bool = False) -> None:
        """Trains what a labeling run has changed, without waiting for more events.

        Runs of images that a person labels one by one end every few seconds: they cause a training run once a minute.
        """
        if one_by_one:
            _note(self._one_by_one, project)
        self._wait(project, self._rest(project))

    def _rest(self, project: str) -> float:
        """Seconds in which the project must not be trained."""
        now = time.monotonic()
        if now - self._one_by_one.get(project, -math.inf) > PACE_SECONDS:
            return 0.0
        return max(0.0, self._trained.get(project, -math.inf) + PACE_SECONDS - now)

    def _start(self, project: str) -> None:
        _note(self._trained, project)
        self._train(project)

    def _is_new(self, event: bytes) -> bool:
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

    def _tick(self) -> float:
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
            if self._is_writing(project):
                self._wait_for_quiet(project)
                return
            if rest := self._rest(project):
                self._wait(project, rest)
                return
            if project in self._missed:
                self._make_good(project)
            if self._after and self._projects.annotation_log(project).unlearned():
                self._start(project)
        except NotFound:
            pass  # the project was deleted meanwhile
        except OSError as error:
            log.warning("project %s: can't start training, retrying: %s", project, error)
            self._wait(project, RETRY_SECONDS)
        except Exception:
            log.exception("project %s: can't start training", project)

    def _make_good(self, project: str) -> None:
        if project in {known.uid for known in self._projects.all()}:
            self._projects.annotation_log(project).doubt()
            log.info(
                "project %s: the next training run will read all annotations because an event couldn't be saved",
                project,
            )
        self._missed.discard(project)


def _note(times: dict[str, float], project: str) -> None:
    """Notes that it is the project's turn now; forgets times that no longer matter, perhaps of deleted projects."""
    now = time.monotonic()
    for gone in [uid for uid, at in list(times.items()) if now - at > PACE_SECONDS]:
        times.pop(gone, None)
    times[project] = now


def _event(project: str, action: str, change: Change) -> bytes:
    """What tells events apart: always as long, whatever was sent."""
    told = (project, action, change.annotation.get("id"), change.annotation.get("updated_at"))
    return sha256("\0".join(map(str, told)).encode(errors="replace")).digest()
