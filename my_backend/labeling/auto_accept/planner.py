"""Records a model's predictions for all images without a label, and draws the random order of the sample to label."""

import time
from collections.abc import Callable, Iterator
from random import SystemRandom
from typing import Any

import numpy as np

from label_studio_format.annotations import annotations_of
from my_backend.errors import Conflict
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.task_pages import task_pages
from my_backend.labeling.auto_accept.guarantee import first_sample, make_plan
from my_backend.labeling.auto_accept.records import PlannedImage, PlannedPredictions
from my_backend.labeling.pool.all_projects import Pools
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from my_backend.serving.live_models import MODEL_SECONDS, Serving

MOST_TASKS = 20_000  # of a plan: each image is compared with each other, and its labels are read again and again
SEED_BITS = 53  # JSON readers of other languages keep such a number exactly

Json = dict[str, Any]


class Planner:
    """Makes plans from the pools of projects."""

    def __init__(self, projects: Projects, connections: Connections, serving: Serving, pools: Pools) -> None:
        self._projects, self._connections, self._serving, self._pools = projects, connections, serving, pools
        self._dice = SystemRandom()

    def prepare(self, project: Project, alpha: float, check: Callable[[], None]) -> PlannedPredictions | None:
        """The live version's predictions with a plan; None while images are still being read.

        `check` raises an exception to stop. Raises LabelStudioError, Conflict if there is nothing to plan, and
        Unavailable if the model can't be loaded.
        """
        live = self._serving.live(project.uid, time.monotonic() + MODEL_SECONDS)
        if live.model is None:
            raise Conflict("there is no trained model yet: start training first")
        if live.is_first_guess:
            raise Conflict(
                "can't make a plan: the model's predictions are a first guess, made without labels. Label images for "
                "each choice"
            )
        found = self._pools.whole(project)
        if found is None:
            return None
        pool, labels = found
        if not pool.images.suits(live.model):
            return None  # the images are read again with the network of the new version
        unlabeled = pool.unlabeled(labels)  # tasks that a run is still labeling count as labeled
        if len(unlabeled) > MOST_TASKS:
            unlabeled = dict(self._dice.sample(sorted(unlabeled.items()), MOST_TASKS))
        tasks: list[int] = []

        def listed() -> Iterator[Json]:
            for task in self._unlabeled_now(project, check):
                if task["id"] in unlabeled:
                    tasks.append(task["id"])
                    yield {"id": task["id"], "data": task.get("data") or {}}

        groups = pool.images.near_duplicates(listed(), check)
        answers = pool.images.answers(live.model, [unlabeled[task] for task in tasks])
        if tasks and not answers:
            raise Conflict("the model knows none of the labeling config's choices: start training first")
        # Comparing takes a while, and only annotations that are made after the draw may count.
        still = {task["id"] for task in self._unlabeled_now(project, check)}
        numbers: dict[tuple[str, str], int] = {}
        images = [
            PlannedImage(
                task, pool.shown(unlabeled[task])[1], *answer, numbers.setdefault((group, answer[0]), len(numbers))
            )
            for task, group, answer in zip(tasks, groups, answers, strict=True)
            if group is not None and task in still
        ]
        return self._planned(live.name, alpha, images)

    def _unlabeled_now(self, project: Project, check: Callable[[], None]) -> Iterator[Json]:
        """Lists the tasks without an annotation once more."""
        label_studio = self._connections.needed(self._projects.credentials(project.uid))
        for page, _ in task_pages(label_studio, project.id):
            check()
            yield from (task for task in page if not annotations_of(task))

    def _planned(self, version: str, alpha: float, images: list[PlannedImage]) -> PlannedPredictions:
        sample = first_sample(len(images), alpha)
        if not sample:
            raise Conflict(
                f"can't make a plan: {len(images):,} unlabeled images are too few for an error rate of "
                f"{alpha:.0%}. Choose a higher error rate, or label the images yourself"
            )
        seed = self._dice.getrandbits(SEED_BITS)  # drawn after the predictions are fixed
        plan = make_plan(np.array([image.probability for image in images]), alpha, sample, seed)
        if not plan.looks:
            raise Conflict(
                f"can't make a plan: no sample of these {len(images):,} images could confirm an error rate of "
                f"{alpha:.0%}. Choose a higher error rate, or label the images yourself"
            )
        return PlannedPredictions(version, seed, images, plan.order.tolist(), plan.surest.tolist(), list(plan.looks))
