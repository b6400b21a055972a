"""Stores one version's predictions for the unlabeled tasks of a project, a batch at a time."""

import json
import logging
from collections import Counter, deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Any

from my_backend.active_learning.stored_predictions import StoredPredictions
from my_backend.errors import LabelStudioDown, LabelStudioError
from my_backend.label_studio.client import LabelStudio
from my_backend.projects.labeling_order import LabelingOrder, keep_order, read_order
from my_backend.projects.page_summaries import PageSummaries
from my_backend.projects.project import Project
from my_backend.projects.random_order import EVERY, FIRST, in_random_order, interleaved, keep_next
from my_backend.projects.version_names import is_version_name
from my_backend.serving.live_models import Live

log = logging.getLogger(__name__)

BATCH_TASKS = 20
ORDERED_TASKS = 10_000  # bounds how long a version's order takes; the next version may get other tasks
ORDERED_BYTES = 50_000_000  # of their data: a URL may contain a whole image
GIVE_UP_AFTER = 100  # tasks in a row without a prediction: the next ones' images are probably missing too
TRIES = 3  # for each prediction that Label Studio can't take at the moment
REFUSED_AT_ONCE = 3  # predictions in a row that Label Studio rejects; a single one may be for a deleted task

Json = dict[str, Any]
# Tasks, their predictions, and why others have none, by their position.
Predicted = Callable[[list[Json], list[Any], dict[int, str]], None]


@dataclass(frozen=True)
class _Unlabeled:
    """What the model gets of unlabeled tasks, and the ids of those that have a prediction of the version."""

    tasks: list[Json] = field(default_factory=list)
    predicted: set[int] = field(default_factory=set)
    are_all: bool = False  # rather than some of the project's unlabeled tasks


class RefreshRun:
    """One pass over a project's tasks. Finished work is in Label Studio, so an interrupted run just starts over."""

    def __init__(self, label_studio: LabelStudio, project: Project, version: str, predicted: Predicted) -> None:
        """`predicted` is called with each batch. Raises LabelStudioError."""
        self._project, self._version, self._predicted = project, version, predicted
        self._stored = StoredPredictions(label_studio, project.id)
        backends = label_studio.backends(project.id)
        # Label Studio has just asked each for its version: if none has this one, this backend isn't connected.
        self.connected = any(one.get("model_version") == version for one in backends)
        # Other models of the project may be backends like this one, with similar version names.
        self._known = None if len(backends) == 1 else set(project.versions.names())
        self._waiting: deque[int] = deque()  # tasks, those to label first at the beginning
        self._began = False
        self._left: set[int] = set()  # tasks without a prediction after an attempt
        self._in_vain = 0  # how many of these in a row
        self._failed: Counter[int] = Counter()  # attempts to store each task's prediction
        self.order = read_order(project.folder)  # of an earlier run, until this one has its own
        self.done = 0
        self.finished = False

    def plan(self, live: Live, check: Callable[[], None]) -> None:
        """Finds the next tasks if none is left, and at the beginning their order; `check` raises an exception to stop.

        Raises LabelStudioError.
        """
        if self._waiting:
            return
        missing = self._next_tasks()
        if missing and not self._began:
            self._began = True
            missing = self._in_order(live, check) or missing
        self._waiting.extend(missing)

    def step(self, live: Live, asked: Container[int], check: Callable[[], None]) -> int:
        """Predicts and stores a batch of the planned tasks; returns how many predictions were stored.

        `asked` are the tasks that Label Studio is requesting itself at the moment; `check` raises an exception to
        stop. Raises LabelStudioError.
        """
        if not self._waiting or self._in_vain >= GIVE_UP_AFTER:
            self._remove_doubles()
            self.finished = True
            return 0
        ids = [self._waiting.popleft() for _ in range(min(BATCH_TASKS, len(self._waiting)))]
        # Since they were listed, they may have been labeled, deleted, or predicted.
        found = {task["id"]: task for task in self._stored.tasks(ids)}
        tasks = [found[number] for number in ids if number in found and not self._has_one(found[number])]
        results = self._predict(live, tasks, check)
        stored, refused = 0, 0
        for task, result in zip(tasks, results, strict=True):
            check()
            if task["id"] in asked:
                continue  # comes up again later in case Label Studio doesn't store it
            if not result:
                self._left.add(task["id"])
                self._in_vain += 1
                continue
            try:
                self._store(task, result)
            except LabelStudioError as error:
                refused += 1
                if refused >= REFUSED_AT_ONCE:
                    raise
                log.info("project %s: task %s: %s", self._project.uid, task["id"], error)
                self._failed[task["id"]] += 1
                if isinstance(error, LabelStudioDown) and self._failed[task["id"]] < TRIES:
                    self._waiting.append(task["id"])
                else:
                    self._left.add(task["id"])
            else:
                stored, refused, self._in_vain = stored + 1, 0, 0
        self.done += stored
        return stored

    def _in_order(self, live: Live, check: Callable[[], None]) -> list[int]:
        """The unlabeled tasks in the model's order, which is kept; empty if it has none."""
        places, found = None, _Unlabeled()
        if live.model:
            found = self._unlabeled(check)
            places = live.model.order(found.tasks, label_config=self._project.label_config, check=check)
            check()
        following: list[int] | None = None
        if places is None:
            self.order, ids = None, []
        else:
            ids = [found.tasks[place]["id"] for place in places]
            if found.are_all:
                following = in_random_order(self._project.uid, ids)
                # The first one is random: until this order is stored, people take some more tasks of the one before,
                # and the same tasks are next in both.
                ids = list(interleaved(ids, following, FIRST + EVERY - 1))
            self.order = LabelingOrder(self._version, tuple(ids))
        self._keep(following)
        return [task for task in ids if task not in found.predicted]

    def _keep(self, following: list[int] | None) -> None:
        """Keeps the order, and the tasks that follow in the random one, if the disk takes them: no score needs them."""
        try:
            if following is not None:
                keep_next(self._project.folder, following, PageSummaries(self._project.folder).tasks())
            keep_order(self._project.folder, self.order)
        except OSError as error:
            if not self._project.folder.exists():  # the project was deleted
                raise
            log.warning("project %s: can't save the order of its tasks: %s", self._project.uid, error)

    def _unlabeled(self, check: Callable[[], None]) -> _Unlabeled:
        tasks, predicted, size, total = dict[int, Json](), set[int](), 0, 0
        for page, total in self._stored.unlabeled(ORDERED_TASKS):  # noqa: B007  used below
            check()
            # If people label meanwhile, a task may be on two pages, and another one on none.
            tasks |= {task["id"]: task for task in _bare(page)}
            predicted |= {task["id"] for task in page if self._has_one(task)}
            size += sum(len(json.dumps(one["data"])) for one in page)
            if size > ORDERED_BYTES:
                break
        return _Unlabeled([*tasks.values()], predicted, are_all=len(tasks) >= total)

    def _next_tasks(self) -> list[int]:
        """Tasks without a prediction of the version: the least certain first, those without any prediction last.

        Label Studio sorts all of them if it shows scores; otherwise this sorts one page of some hundreds.
        """
        page, seen, total = 0, 0, 1
        while seen < total:
            page += 1
            tasks, total = self._stored.tasks_without(self._version, page)
            if not tasks:
                break
            seen += len(tasks)
            if fresh := [task for task in tasks if task["id"] not in self._left]:
                return [task["id"] for task in sorted(fresh, key=self._sureness)]
        return []

    def _has_one(self, task: Json) -> bool:
        return any(_version_of(one) == self._version for one in task.get("predictions") or [])

    def _sureness(self, task: Json) -> float:
        own = self._own(task)
        score = own[0].get("score") if own else None
        return score if isinstance(score, int | float) else float("inf")

    def _predict(self, live: Live, tasks: list[Json], check: Callable[[], None]) -> list[Any]:
        bare = _bare(tasks)
        if live.model:
            live.model.prepare(bare)  # with lower priority than requests; predicting is quick afterwards
        check()
        why: dict[int, str] = {}

        def failed(position: int, text: str, reason: str = "") -> None:
            why[position] = text

        # No deadline, because nobody is waiting; each image has its own limit.
        results = live.predict(bare, label_config=self._project.label_config, deadline=float("inf"), failed=failed)
        self._predicted(bare, results, why)
        return results

    def _store(self, task: Json, result: Json) -> None:
        """Replaces an older prediction if there is one, so that the task always has exactly one."""
        prediction = {
            "result": result["result"],
            "score": result.get("score"),
            "model_version": result["model_version"],
        }
        if self.order:
            prediction = self.order.scored(task["id"], prediction)
        replaceable = self._own(task)
        if not replaceable:
            self._stored.add(task["id"], prediction)
            return
        self._stored.replace(replaceable[0]["id"], prediction)
        for superseded in replaceable[1:]:
            self._stored.delete(superseded["id"])

    def _own(self, task: Json) -> list[Json]:
        """The task's predictions from versions of this backend, the newest first.

        Predictions that an annotation was based on are left out: they record what the annotator saw.
        """
        seen = {annotation.get("parent_prediction") for annotation in task.get("annotations") or []}
        own = [
            one
            for one in task.get("predictions") or []
            if is_version_name(_version_of(one))
            and (self._known is None or _version_of(one) in self._known)
            and one["id"] not in seen
        ]
        return sorted(own, key=lambda one: -int(one["id"]))

    def _remove_doubles(self) -> None:
        """Removes duplicates: Label Studio may have stored a prediction at the same moment, or one of its own twice."""
        for task in self._stored.tasks_with_several(self._version):
            same = [one for one in self._own(task) if _version_of(one) == self._version]
            for double in same[1:]:
                self._stored.delete(double["id"])


def _bare(tasks: Sequence[Json]) -> list[Json]:
    """What the model gets of tasks."""
    return [{"id": task["id"], "data": task["data"]} for task in tasks]


def _version_of(prediction: Json) -> str:
    return str(prediction.get("model_version") or "")
