"""Reads people's labels of the tasks of plans from Label Studio, and keeps them in memory."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from label_studio_format.labeling_config import ImageChoices
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.task_pages import tasks_by_id
from my_backend.labeling.auto_accept.records import Acceptance, AcceptanceStore
from my_backend.labeling.auto_accept.sample import PersonLabel, person_label, reach
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects

ALL_AGAIN = 60.0  # seconds after which the planned tasks outside of the sample are read, too
READING_SHARE = 0.2  # of the time at most goes into reading them

Check = Callable[[], None]  # raises an exception to stop


@dataclass
class _Known:
    """What Label Studio has said about a plan's tasks; the time is monotonic."""

    labels: dict[int, PersonLabel] = field(default_factory=dict)
    complete: bool = False
    all_due: float = 0.0


class SampleReader:
    """What is known of the tasks of the newest plans."""

    def __init__(self, projects: Projects, connections: Connections, store: AcceptanceStore) -> None:
        self._projects, self._connections, self._store = projects, connections, store
        self._known: dict[tuple[str, str], _Known] = {}  # by the project and the id of the plan

    def labels(self, acceptance: Acceptance) -> dict[int, PersonLabel] | None:
        """What was read last about all planned tasks; None if not all of them have been read yet.

        The same object until something else is read.
        """
        known = self._of(acceptance)
        return known.labels if known.complete else None

    def note_new(self, acceptance: Acceptance) -> None:
        """Notes that nobody had labeled any of the planned tasks when they were listed."""
        self._of(acceptance).complete = True

    def keep(self, plans: Collection[Acceptance]) -> None:
        """Forgets what is known about other plans."""
        self._known = {(one.project, one.id): self._of(one) for one in plans}

    def read_again(self, project: Project, acceptance: Acceptance, tag: ImageChoices, check: Check) -> None:
        """Reads the sample, and now and then all planned tasks. Raises LabelStudioError and Conflict."""
        known, began = self._of(acceptance), time.monotonic()
        everything = began > known.all_due
        self.read(project, acceptance, tag, check, everything=everything)
        if everything:
            ended = time.monotonic()
            known.all_due = ended + max(ALL_AGAIN, (ended - began) / READING_SHARE)

    def read(
        self, project: Project, acceptance: Acceptance, tag: ImageChoices, check: Check, *, everything: bool = True
    ) -> None:
        """Reads all planned tasks, or those that the next decision needs. Raises LabelStudioError and Conflict."""
        known, predictions = self._of(acceptance), self._store.predictions(acceptance)
        label_studio = self.label_studio(project)
        images = predictions.order if everything else predictions.order[: reach(predictions, known.labels)]
        tasks = [predictions.images[number].task for number in images]
        found: dict[int, PersonLabel] = {}
        # A task's own choices are in its data.
        for page in tasks_by_id(label_studio, project.id, tasks, with_data=bool(tag.dynamic_field)):
            check()
            found |= {task["id"]: person_label(task, tag) for task in page}
        labels = {**known.labels, **{task: found.get(task, PersonLabel("deleted")) for task in tasks}}
        if labels != known.labels:
            known.labels = labels
        known.complete = known.complete or everything

    def label_studio(self, project: Project) -> LabelStudio:
        """The project's Label Studio; raises Conflict if its URL is unknown."""
        return self._connections.needed(self._projects.credentials(project.uid))

    def _of(self, acceptance: Acceptance) -> _Known:
        return self._known.setdefault((acceptance.project, acceptance.id), _Known())
