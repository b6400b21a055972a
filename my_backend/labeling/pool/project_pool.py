"""What is known about the tasks of a project: their images, and their labels including those being written."""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from label_studio_format.annotations import annotations_of, label_of
from label_studio_format.image_value import image_url
from label_studio_format.labeling_config import ImageChoices
from my_backend.errors import Conflict
from my_backend.labeling.pool.chosen import chosen_groups
from my_backend.labeling.pool.image_map import ImageMap
from my_backend.labeling.runs.records import Labels, Run
from my_backend.projects.project import Project
from my_backend.projects.random_order import NEXT, in_random_order, interleaved
from my_backend.serving.image_pool import ImagePool, LookAlikes, without_copies
from my_backend.serving.model_api import ModelAPI

RECENT = 10  # groups whose exceptions are remembered
REASONS = 3  # labeled images that are shown with an image to label
LIKELY = 0.5  # the probability at which a choice is suggested if several are allowed, as in predictions
# Seconds until unreadable images are read again: the first pause, and the longest. Each is twice as long as the last.
READ_AGAIN = (60.0, 3600.0)
ARRANGED_AGAIN = 1.2  # the map is arranged again once there are this many times more images

Json = dict[str, Any]
# Of annotated tasks: the choice, or several, separated by commas; None if there is no choice, as for skipped tasks.
TaskLabels = dict[int, str | None]


@dataclass(frozen=True)
class QueuedImage:
    """An image to label: its number in the pool, the probability of each choice, and the evidence for these.

    `suggested` are the choices to suggest, or None without a model. `nearest` has the labeled images that look most
    like it, with the similarity; {} and [] before the first labels. `copies` are the unlabeled images that get the same
    label.
    """

    image: int
    suggested: list[str] | None
    probabilities: dict[str, float]
    nearest: list[tuple[int, float]]
    copies: list[int]


@dataclass(frozen=True)
class Group:
    """Look-alikes, with the unlabeled copies of each image, which get the same label."""

    look_alikes: LookAlikes
    copies: list[list[int]]


class ProjectPool:
    """The tasks of a project, filled by one thread and read by others."""

    def __init__(self, project: Project, tag: ImageChoices, model: ModelAPI, images: ImagePool) -> None:
        """`images` is an empty pool that `model` has opened."""
        self._uid, self.label_config, self.tag = project.uid, project.label_config, tag
        self.model, self.images = model, images
        self._lock = threading.Lock()
        self._tasks: dict[int, int | None] = {}  # task → its image's number; None until that is read
        self._shown_by: list[int] = []  # task of each image number
        self._digests: list[str] = []
        self._waiting: dict[int, Json] = {}  # tasks whose images are to be read
        self._addresses: dict[int, int] = {}  # task → hash of where its image is
        self._unreadable: set[int] = set()
        self._pause = READ_AGAIN[0]
        self._read_again_at = 0.0  # when unreadable images are read again (monotonic)
        self._labels: TaskLabels = {}
        self._random_order: list[int] = []  # of the tasks of the last complete listing
        self._expected = 0  # tasks, as far as the last page of a listing tells
        self._listed: tuple[set[int], TaskLabels] = (set(), {})  # of the listing in progress
        self._proposed: dict[int, tuple[str, float]] = {}  # task → proposed choice and its probability
        self._past: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self._arranged = 0  # images when the map was arranged

    # --- filling ------------------------------------------------------------

    def begin_listing(self) -> None:
        """Forgets what an interrupted listing has noted, and has unreadable images read again if it is time."""
        self._listed = (set(), {})
        with self._lock:
            if self._unreadable and time.monotonic() >= self._read_again_at:
                for task in self._unreadable:
                    self._addresses.pop(task, None)
                self._pause = min(2 * self._pause, READ_AGAIN[1])

    def note_tasks(self, tasks: Sequence[Json], more: int) -> None:
        """Notes some of the project's tasks, as Label Studio has them now; it has so many more of them."""
        ids, labels = self._listed
        for task in tasks:
            ids.add(task["id"])
            if annotations_of(task):
                labels[task["id"]] = _joined(label_of(task, self.tag).choices)
        with self._lock:
            for task in tasks:
                data = task.get("data") or {}
                address = hash(image_url(data, self.tag.field))
                if self._addresses.get(task["id"]) != address:
                    self._addresses[task["id"]] = address
                    self._tasks[task["id"]] = None
                    self._unreadable.discard(task["id"])
                    self._waiting[task["id"]] = {"id": task["id"], "data": data}
            self._expected = len(ids) + more
            self._labels |= {task["id"]: labels[task["id"]] for task in tasks if task["id"] in labels}

    def end_listing(self) -> None:
        """Forgets tasks and labels that the listing hasn't noted: they no longer exist."""
        ids, self._labels = self._listed
        if ids != set(self._random_order):
            self._random_order = in_random_order(self._uid, ids)
        with self._lock:
            if not self._unreadable:
                self._pause = READ_AGAIN[0]
            self._expected = 0
            for gone in self._tasks.keys() - ids:
                del self._tasks[gone]
                self._addresses.pop(gone, None)
                self._waiting.pop(gone, None)
                self._unreadable.discard(gone)

    def next_to_read(self, most: int) -> list[Json]:
        """Tasks whose images aren't in the pool yet."""
        with self._lock:
            return [task for task, _ in zip(self._waiting.values(), range(most), strict=False)]

    def note_images(self, tasks: Sequence[Json], digests: Sequence[str | None]) -> None:
        """Notes that images were added to the pool, or can't be read."""
        with self._lock:
            for task, digest in zip(tasks, digests, strict=True):
                self._waiting.pop(task["id"], None)
                if digest is None:
                    self._unreadable.add(task["id"])
                    self._read_again_at = time.monotonic() + self._pause
                    continue
                if task["id"] in self._tasks:
                    self._tasks[task["id"]] = len(self._shown_by)
                self._shown_by.append(task["id"])
                self._digests.append(digest)

    def arrange(self, check: Callable[[], None]) -> None:
        """Arranges the map for the images there are now."""
        arranged = len(self._shown_by)
        self.images.arrange(check)
        self._arranged = arranged

    # --- asking -------------------------------------------------------------

    def counts(self, only: Collection[int] | None = None) -> dict[str, int]:
        """How many `tasks` there are, how many images of them are `collected`, and how many `unreadable`.

        `only` counts these tasks alone.
        """
        with self._lock:
            if only is not None:
                there = self._tasks.keys() & set(only)
                read = sum(self._tasks[task] is not None for task in there)
                return {"tasks": len(there), "collected": read, "unreadable": len(there & self._unreadable)}
            read = len(self._tasks) - len(self._waiting) - len(self._unreadable)
            tasks = max(len(self._tasks), self._expected)
            return {"tasks": tasks, "collected": read, "unreadable": len(self._unreadable)}

    def labels(self, runs: Iterable[tuple[Run, Sequence[Labels]]]) -> TaskLabels:
        """The labels of annotated tasks as they are once these runs, the oldest first, have ended."""
        with self._lock:
            labels = dict(self._labels)
        for run, plan in runs:
            withdrawn = set(run.withdrawn)
            kept = {task for reason in ("labeled", "changed") for task in run.left_alone.get(reason, ())}
            for choices, task in _planned(plan):
                is_undone = task in withdrawn or (run.action == "undo" and not withdrawn)
                if is_undone and task not in kept:
                    labels.pop(task, None)
                elif task not in labels:
                    labels[task] = None if task in kept else _joined(choices)
        return labels

    def groups(
        self, model: ModelAPI, labels: Mapping[int, str | None], without: Iterable[int], *, largest: int, count: int
    ) -> list[Group]:
        """The groups to label next: unlabeled images, except those of the tasks `without`. Copies are not in them."""
        left_out, there = set(without), self._there()
        with self._lock:
            past = list(self._past)
        unlabeled = [image for image, task in there if task not in labels and task not in left_out]
        known = {image: name for image, task in there if (name := labels.get(task)) is not None}
        among = set(unlabeled)
        stand_ins = without_copies(self.images, unlabeled)
        found = self.images.groups(model, stand_ins, known, past, largest=largest, count=count)
        groups = [self._with_possible_proposal(group) for group in found]
        for group in groups:
            for image, probability in zip(group.images, group.probabilities, strict=True):
                if group.proposal is not None and probability is not None:
                    self._proposed[self._shown_by[image]] = (group.proposal, probability)
        return [Group(group, self._copies(model, group.images, among)) for group in groups]

    def _with_possible_proposal(self, group: LookAlikes) -> LookAlikes:
        """The group without a proposal that a labeling run can't write: a choice that only some tasks have."""
        if group.proposal is None or group.proposal in self.tag.choices:
            return group
        return LookAlikes(group.images, None, [None] * len(group.images))

    def chosen(
        self,
        model: ModelAPI,
        labels: Container[int],
        without: Container[int],
        tasks: Iterable[int],
        *,
        largest: int,
        count: int,
    ) -> list[Group]:
        """The next groups of the unlabeled images of `tasks`, which a person has chosen, without some of them."""
        image_of = {task: image for image, task in self._there()}
        wanted = [task for task in dict.fromkeys(tasks) if task not in labels and task not in without]
        images = [image_of[task] for task in wanted if task in image_of]
        return [Group(*one) for one in chosen_groups(self.images, model, images, largest=largest, count=count)]

    def is_arranged(self) -> bool:
        """Whether the map was arranged when there were about as many images as now."""
        return len(self._shown_by) <= ARRANGED_AGAIN * self._arranged

    def map(self, model: ModelAPI, labels: Mapping[int, str | None]) -> ImageMap:
        """All images in two dimensions. Raises Conflict if the model class has no map."""
        there = self._there()
        images, tasks = [image for image, _ in there], [task for _, task in there]
        positions = self.images.positions(images)
        if len(positions) < len(images):
            raise Conflict("this model class can't arrange images on a map: label them in Groups or Queue")
        return ImageMap(tasks, positions, labels, self.images.answers(model, images), self.is_arranged())

    def _copies(self, model: ModelAPI, images: Sequence[int], among: Container[int]) -> list[list[int]]:
        """For each image, its copies among the others for which the model predicts the same.

        If the predictions differ, a person has to look at each of them.
        """
        copies = [[copy for copy in self.images.copies(image) if copy in among] for image in images]
        asked = [one for image, some in zip(images, copies, strict=True) if some for one in (image, *some)]
        answers = self._predicted(model, asked)
        return [
            [copy for copy in some if answers.get(copy) == answers.get(image)]
            for image, some in zip(images, copies, strict=True)
        ]

    def _there(self) -> list[tuple[int, int]]:
        """The image and the task of each task whose image is in the pool."""
        with self._lock:
            return [(image, task) for image, task in enumerate(self._shown_by) if self._tasks.get(task) == image]

    def queue(
        self,
        model: ModelAPI,
        labels: Mapping[int, str | None],
        without: Iterable[int],
        *,
        only: Iterable[int] | None = None,
        count: int,
    ) -> list[QueuedImage]:
        """The images to label next, one by one: unlabeled ones, except those of the tasks `without`.

        `only` are the tasks to choose from, in this order, copies or not. Without them, the images that add most
        information come first. After the first ten, every fifth one is the next of the project's random order. Left-out
        tasks count as labeled, because they get their label earlier.
        """
        left_out, there = set(without), self._there()
        is_open = {task: task not in labels and task not in left_out for _, task in there}
        if only is None:
            unlabeled = [image for image, task in there if is_open[task]]
            known = [image for image, task in there if not is_open[task]]
            among = set(unlabeled)
            first = self.images.first(model, without_copies(self.images, unlabeled), known, count)
            images = list(islice(interleaved(first, self._drawn(among), len(known)), count))
            copies = self._copies(model, images, among)
        else:
            image_of = {task: image for image, task in there}
            images = [image_of[task] for task in dict.fromkeys(only) if is_open.get(task)][:count]
            copies = [[] for _ in images]
        labeled = [image for image, task in there if labels.get(task) is not None]
        return [
            QueuedImage(image, self._suggested(said), said, self.images.most_alike(image, labeled, REASONS), some)
            for image, said, some in zip(images, self.images.probabilities(model, images), copies, strict=True)
        ]

    def _predicted(self, model: ModelAPI, images: Sequence[int]) -> Mapping[int, str | list[str] | None]:
        """What the model predicts for each image; {} without a model, or only None if several choices are allowed.

        Probabilities of all choices are computed only if they are needed: an image may have thousands of copies.
        """
        if not self.tag.multiple:
            return dict(zip(images, (name for name, _ in self.images.answers(model, images)), strict=False))
        said = self.images.probabilities(model, images)
        return {image: self._suggested(one) for image, one in zip(images, said, strict=True)}

    def _suggested(self, probabilities: Mapping[str, float]) -> list[str] | None:
        """The most probable choice, or all likely ones if several are allowed; None without a model."""
        if not probabilities:
            return None
        if self.tag.multiple:
            return [choice for choice, probability in probabilities.items() if probability >= LIKELY]
        return [max(probabilities, key=probabilities.__getitem__)]

    def _drawn(self, among: Container[int]) -> Iterator[int]:
        """Those of the images `among` in the project's random order; for a copy, the image that stands for it."""
        for task in self._random_order:
            if (image := self.image_of(task)) is not None and image in among:
                yield min([image, *(copy for copy in self.images.copies(image) if copy in among)])

    def first_of_random_order(self) -> list[int]:
        """The unlabeled tasks with a readable image that come first in the project's random order."""
        with self._lock:
            left = (task for task in self._random_order if task not in self._labels and task not in self._unreadable)
            return list(islice(left, NEXT))

    def labeled(self) -> list[int]:
        """The tasks with a label."""
        with self._lock:
            return list(self._labels)

    def unlabeled(self, labels: Container[int]) -> dict[int, int]:
        """The collected tasks without a label, with the numbers of their images."""
        with self._lock:
            there = {task: image for task, image in self._tasks.items() if image is not None}
        return {task: image for task, image in there.items() if task not in labels}

    def note_labels(self, labels: Sequence[Labels]) -> None:
        """Notes which labels people gave to images with a suggested label."""
        labeled = [(choices, self._proposed.pop(task, None)) for choices, task in _planned(labels)]
        with_proposal = [(choices, *proposed) for choices, proposed in labeled if proposed]
        if with_proposal:
            found = sum(choices != [proposal] for choices, proposal, _ in with_proposal)
            self._past.append((found, sum(1 - probability for _, _, probability in with_proposal)))

    def image_of(self, task: int) -> int | None:
        """The number of the task's image; None if it isn't in the pool."""
        with self._lock:
            return self._tasks.get(task)

    def most_alike(self, image: int, without: Container[int], count: int) -> list[tuple[int, float]]:
        """The images that look most like this one, with their similarity, except those of the tasks `without`."""
        among = [number for number, task in self._there() if task not in without]
        return self.images.most_alike(image, among, count)

    def shown(self, image: int) -> tuple[int, str]:
        """The task of an image, and the image's digest."""
        return self._shown_by[image], self._digests[image]


def _planned(plan: Sequence[Labels]) -> Iterator[tuple[list[str], int]]:
    return ((one.choices, task) for one in plan for task in one.tasks)


def _joined(choices: Iterable[str]) -> str | None:
    return ", ".join(sorted(choices)) or None
