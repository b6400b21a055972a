"""The records of auto-accept on disk: what is fixed before a person labels the sample, and the results."""

import re
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from secrets import token_hex
from typing import Literal

import numpy as np
from pydantic import TypeAdapter

from my_backend import context, files
from my_backend.errors import Conflict, NotFound
from my_backend.files import Moment
from my_backend.labeling.auto_accept.guarantee import Look, Plan
from my_backend.projects.deleted import unless_deleted

FOLDER = "acceptance"  # in a project's folder
STATE_FILE = "acceptance.json"
PREDICTIONS_FILE = "answers.json"
SWITCH_FILE = "automatic.json"
KEPT_PREDICTIONS = 8  # plans whose predictions stay in memory

# Images are still to be read and the order to be drawn; a person labels the sample; a labeling run has been started; a
# person gave the plan up before that.
Status = Literal["preparing", "sampling", "accepted", "undone"]

ALL_TASKS = range(2**63)  # any id is in it

TIME = "%Y%m%dT%H%M%S.%f"
_ID = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}-[0-9a-f]{6}")  # in the order of time


@dataclass(frozen=True)
class PlannedImage:
    """An image without a label."""

    task: int
    digest: str
    answer: str
    probability: float  # of the prediction, by the model
    group: int  # the same for near-duplicates for which the model predicts the same choice


@dataclass(frozen=True)
class PlannedPredictions:
    """A version's predictions for all images without a label, and the plan for accepting them. It never changes.

    The plan is stored as it was drawn, so that it doesn't depend on a library's random numbers. Raises ValueError if
    the parts don't belong together.
    """

    version: str
    seed: int
    images: list[PlannedImage]
    order: list[int]  # positions of images, in the random order in which a person labels them
    surest: list[int]
    looks: list[Look]

    def __post_init__(self) -> None:
        if not all(sorted(some) == list(range(len(self.images))) for some in (self.order, self.surest)):
            raise ValueError("an order of the images omits an image or contains one twice")
        if len(self.by_task) < len(self.images):
            raise ValueError("two images have the same task")
        sizes = [step.size for look in self.looks for step in look.steps]
        if any(not look.steps for look in self.looks) or not all(0 < size <= len(self.images) for size in sizes):
            raise ValueError("a step has more images than the plan, or none")

    @cached_property
    def by_task(self) -> dict[int, PlannedImage]:
        return {image.task: image for image in self.images}

    @cached_property
    def choices(self) -> frozenset[str]:
        return frozenset(image.answer for image in self.images)

    def plan(self, alpha: float) -> Plan:
        return Plan(alpha, np.array(self.order, np.int64), np.array(self.surest, np.int64), tuple(self.looks))


@dataclass(frozen=True)
class Acceptance:
    """The state of one plan: its guarantee, and its results."""

    id: str
    project: str
    alpha: float  # at most this share of the accepted labels is wrong
    status: Status = "preparing"
    created: Moment = 0.0  # seconds since 1970, like the other time
    changed: Moment = 0.0
    error: str = ""  # why it can't be prepared at the moment
    run: str = ""  # the labeling run
    accepted: list[int] = field(default_factory=list)  # tasks, in the random order of the audit
    checked: int = 0  # labels of the sample that the decision rests on
    wrong: int = 0  # how many of them showed the model to be wrong
    sample: list[bool] = field(default_factory=list)  # whether each label of the sample showed this, in order
    gone: list[int] = field(default_factory=list)  # positions of images that could no longer be accepted
    audited: dict[int, str] = field(default_factory=dict)  # task → what a person sees in its image; "" for no choice
    request_id: str = ""  # of the HTTP request that asked for it

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError("the error rate isn't between 0 and 1")

    @property
    def waits_for_labels(self) -> bool:
        """Whether people label its sample, or will as soon as it is prepared."""
        return self.status == "sampling" or (self.status == "preparing" and not self.error)


@dataclass(frozen=True)
class Automatic:
    """Whether a project's labels are accepted as soon as its plan allows it, without anyone asking."""

    on: bool
    stopped: str = ""  # why the backend turned it off; "" if a person did


_STATE = TypeAdapter(Acceptance)
_PREDICTIONS = TypeAdapter(PlannedPredictions)
_AUTOMATIC = TypeAdapter(Automatic)


class AcceptanceStore:
    """The plans of all projects; the newest one of a project counts."""

    def __init__(self, projects_folder: Path) -> None:
        self._root = projects_folder
        self._predictions: dict[Path, PlannedPredictions] = {}  # by the plan's folder; only those that were read last

    def create(self, project: str, alpha: float) -> Acceptance:
        """Stores durably that a plan is wanted; raises NotFound if the project was deleted."""
        now = time.time()
        # Later than all others, also if the clock was set back: the newest plan counts.
        latest = max(self._names(project), default="")
        moment = datetime.fromtimestamp(now, UTC)
        if latest:
            moment = max(moment, datetime.strptime(latest[:-7], TIME).replace(tzinfo=UTC) + timedelta(microseconds=1))
        name = f"{moment:{TIME}}-{token_hex(3)}"
        request_id = context.ids().get("request_id", "")
        with unless_deleted(self._root / project):
            files.create_folder(self._root / project / FOLDER)
            wanted = Acceptance(name, project, alpha, created=now, request_id=request_id)
            wanted = self._save(wanted, make_folder=True)
        self._thin_out(wanted)
        return wanted

    def _thin_out(self, newest: Acceptance) -> None:
        """Removes the predictions of plans that this one replaces, a few MB each; those of accepted plans stay."""
        for path in self._root.glob(f"{newest.project}/{FOLDER}/*/{PREDICTIONS_FILE}"):
            plan = replace(newest, id=path.parent.name)
            if not _ID.fullmatch(plan.id) or plan.id >= newest.id:
                continue
            # What can't be removed now is removed by the next plan.
            with suppress(NotFound, Conflict, OSError), self.changing(plan) as current:
                if not current.run:
                    path.unlink()

    def prepared(self, acceptance: Acceptance, predictions: PlannedPredictions) -> Acceptance:
        """Stores what is fixed from now on. The state comes last, so a plan that can be sampled has its predictions."""
        with self.changing(acceptance) as current:
            if current.status != "preparing":  # another process was faster: its order counts
                return current
            files.write_json(self._folder(acceptance) / PREDICTIONS_FILE, asdict(predictions))
            return self.save(replace(current, status="sampling", error=""))

    def predictions(self, acceptance: Acceptance) -> PlannedPredictions:
        """Raises Conflict if the file is damaged."""
        known = self._predictions.get(self._folder(acceptance))
        if known is None:
            known = files.read_record(self._folder(acceptance) / PREDICTIONS_FILE, _PREDICTIONS)
            if known is None:
                raise Conflict(
                    f"can't read the predictions of plan {acceptance.id}: restore MODEL_DIR from a backup, or replace "
                    "the plan"
                )
            while len(self._predictions) >= KEPT_PREDICTIONS:
                self._predictions.pop(next(iter(self._predictions)), None)
            self._predictions[self._folder(acceptance)] = known
        return known

    def sampled(self, acceptance: Acceptance | None) -> Container[int]:
        """The tasks of a plan that waits for its sample, because any of them may become part of that.

        People label these without seeing the prediction: people who see it tend to agree with it. Until the plan has
        recorded its tasks, these are all tasks.
        """
        if acceptance is None or not acceptance.waits_for_labels:
            return ()
        if acceptance.status == "preparing":
            return ALL_TASKS
        try:
            return self.predictions(acceptance).by_task
        except Conflict:  # nothing can be accepted, and the Accept page says why
            return ()

    def automatic(self, project: str) -> Automatic:
        """Off if nobody has turned it on, or if the file is damaged."""
        return files.read_record(self._root / project / FOLDER / SWITCH_FILE, _AUTOMATIC) or Automatic(False)

    def switch(self, project: str, automatic: Automatic) -> None:
        """Stores whether labels are accepted automatically; raises NotFound if the project was deleted."""
        with unless_deleted(self._root / project):
            files.write_json(self._root / project / FOLDER / SWITCH_FILE, asdict(automatic), make_folder=True)

    def newest(self, project: str) -> Acceptance | None:
        """The project's newest plan that can be read."""
        states = (self._read(project, name) for name in sorted(self._names(project), reverse=True))
        return next((state for state in states if state), None)

    def _names(self, project: str) -> list[str]:
        found = (path.parent.name for path in self._root.glob(f"{project}/{FOLDER}/*/{STATE_FILE}"))
        return list(filter(_ID.fullmatch, found))

    @contextmanager
    def changing(self, acceptance: Acceptance) -> Iterator[Acceptance]:
        """Holds a plan's lock, and gives its current state; raises NotFound if the project was deleted."""
        folder = self._folder(acceptance)
        if not folder.exists():
            raise NotFound(f"there is no plan {acceptance.id}")
        with unless_deleted(self._root / acceptance.project), files.locked(folder / ".lock"):
            current = self._read(acceptance.project, acceptance.id)
            if current is None:
                raise Conflict(f"can't read the state of plan {acceptance.id}: restore it from a backup")
            yield current

    def save(self, acceptance: Acceptance) -> Acceptance:
        """Stores a state; hold the lock of `changing`."""
        return self._save(acceptance)

    def _save(self, acceptance: Acceptance, *, make_folder: bool = False) -> Acceptance:
        acceptance = replace(acceptance, changed=time.time())
        files.write_json(self._folder(acceptance) / STATE_FILE, asdict(acceptance), make_folder=make_folder)
        return acceptance

    def _read(self, project: str, name: str) -> Acceptance | None:
        found = files.read_record(self._root / project / FOLDER / name / STATE_FILE, _STATE)
        return replace(found, project=project, id=name) if found else None  # also in a copy of a project's folder

    def _folder(self, acceptance: Acceptance) -> Path:
        return self._root / acceptance.project / FOLDER / acceptance.id
