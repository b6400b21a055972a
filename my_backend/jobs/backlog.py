"""Starts a training run if the newest version lacks something stored that no job is going to learn."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from my_backend import files
from my_backend.background import Background
from my_backend.files import Damaged, Unchanged
from my_backend.jobs.learned import LEARNED_FILE, learned_state
from my_backend.jobs.record import Job, Kind
from my_backend.jobs.store import JobStore
from my_backend.label_studio.media import Media
from my_backend.projects.corrections import Corrections, corrections_folder
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from my_backend.projects.sent_annotations import SentAnnotations
from my_backend.projects.versions import Versions

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 600.0, 21_600.0  # seconds from one training run to the next for the same reason; doubles
SENT, IMAGES = "annotations sent with POST /train", "images"
ALL_LABELS = "a training run on all labels"


@dataclass
class _Waiting:
    """What a project's newest version lacks, when to start a training run for it (monotonic), and the next pause."""

    lacks: frozenset[str]
    due: float
    pause: float = FIRST_PAUSE


class Backlog(Background):
    """Compares what is stored with what was learned.

    Usually the two are equal, or a job is going to learn the rest. But the job may have failed, or something couldn't
    be read during a training run: a correction, annotations that were sent, or an image whose server was down. Another
    training run follows as soon as it can be read. Data that is lost or damaged for good starts none, and if training
    runs don't help, the pauses between them grow. If the newest versions were only updated with the last labels, a
    training run on all labels follows when no more labels arrive.
    """

    def __init__(
        self,
        projects: Projects,
        store: JobStore,
        submit: Callable[[str, Kind, str], Job],
        open_media: Callable[[Project], Media],
        *,
        images: bool,
    ) -> None:
        """`images` says whether images that couldn't be read start training runs, too."""
        super().__init__("backlog")
        self._projects, self._store, self._submit, self._open_media = projects, store, submit, open_media
        self._images = images
        self._waiting: dict[str, _Waiting] = {}
        self._failures: dict[str, str] = {}  # project → the kind of error that keeps it from being compared
        self._unchanged = Unchanged()
        self._damaged: list[Damaged] = []

    def failures(self) -> dict[str, str]:
        """The kinds of unexpected errors that keep projects from being compared, by project; from memory."""
        return dict(self._failures)

    def _tick(self) -> float:
        damaged = files.damages(self._projects.root)
        if damaged != self._damaged:  # a file that can be read again keeps its time, which is all that `Unchanged` sees
            self._damaged, self._unchanged = damaged, Unchanged()
        projects = {project.uid: project for project in self._projects.all()}
        for gone in self._waiting.keys() - projects.keys():
            del self._waiting[gone]
        self._failures = {uid: error for uid, error in self._failures.items() if uid in projects}
        with self._unchanged:
            for project in projects.values():
                if self._stopping:
                    break
                self._compare(project)
        return LOOK_SECONDS

    def _compare(self, project: Project) -> None:
        """Compares one project; after an error it waits as before, and the other projects aren't affected."""
        uid = project.uid
        try:
            if lacks := self._lacks(uid):
                self._waiting[uid] = self._wait(project, lacks, self._waiting.get(uid))
            else:
                self._waiting.pop(uid, None)
        except OSError:
            return  # a folder that can't be listed; `Storage` logs it
        except Exception as error:
            kind = type(error).__name__  # the page shows it; only the log has the text, which may contain anything
            if self._failures.get(uid) != kind:  # log it once, not every ten seconds
                log.exception("project %s: can't compare what was learned with what is stored", uid)
            self._failures[uid] = kind
        else:
            self._failures.pop(uid, None)

    def _lacks(self, uid: str) -> frozenset[str]:
        """What the newest version lacks and a training run can read now, each as a unique string."""
        folder = self._projects.folder(uid)
        sent = SentAnnotations(folder)
        if sent.exist():
            return frozenset({f"{SENT} {sent.came_ns()}"} if sent.can_be_opened() else ())
        learned = self._unchanged(folder / LEARNED_FILE, lambda: learned_state(folder))
        given = self._unchanged(corrections_folder(folder), Corrections(folder).given)
        new = {image for image, when in given.items() if when and learned.corrections.get(image) != when}
        lacks = {f"correction {image} {given[image]}" for image in new}
        lacks |= {f"removed correction {image}" for image in learned.corrections.keys() - given.keys()}
        if not lacks and learned.updated and learned.updated == Versions(folder).live_name():
            lacks = {f"{ALL_LABELS} after {learned.updated}"}  # another update starts the wait again
        if not lacks and learned.missed and self._images:
            lacks = {IMAGES}
        if lacks and not Versions(folder).has_learned():
            return frozenset()  # users or events start the first training run
        return frozenset(lacks)

    def _wait(self, project: Project, lacks: frozenset[str], before: _Waiting | None) -> _Waiting:
        """Starts a training run if it is time; returns what to wait for next."""
        if before is None or before.lacks != lacks:
            return _Waiting(lacks, due=0.0)  # at the next look: a request may be storing it right now
        if time.monotonic() < before.due:
            return before
        kind: Kind = "full" if any(one.startswith(SENT) for one in lacks) else "head"
        newest = self._store.newest(project.uid, 1, (kind,))
        if self._store.unfinished(project.uid) or any(job.status == "canceled" for job in newest):
            return before  # someone who cancels a training run doesn't want another one
        if self._lacks(project.uid) != lacks:
            return before  # a job that has just ended may have learned it
        if lacks != {IMAGES} or self._can_read_images(project):
            is_update = any(one.startswith(ALL_LABELS) for one in lacks)
            cause = (
                "updates since the last training run on all labels" if is_update else "changes not yet used in training"
            )
            self._submit(project.uid, kind, cause)
        return _Waiting(lacks, time.monotonic() + before.pause, min(2 * before.pause, LONGEST_PAUSE))

    def _can_read_images(self, project: Project) -> bool:
        return learned_state(project.folder).can_read_missed(self._open_media(project))
