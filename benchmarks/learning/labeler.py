"""A person who labels a task's images one by one, in an order that a version of the backend gives.

Ten new labels start a training, and the new version's order takes effect after three more labels. The first images come
in the order that needs no labels.
"""

from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from itertools import takewhile

import numpy as np
import torch
from torch import Tensor

from benchmarks.learning.embedded import Data
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.errors import TooFewLabels
from image_classifier.evaluation.predict import choose
from image_classifier.nets.classifier import Classifier
from image_classifier.pool.order import labeling_order
from image_classifier.training.classifier_head import learn_head
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.labels import check_enough, order_classes
from my_backend.projects.random_order import EVERY, FIRST, in_random_order, interleaved

TRAINED_AFTER = 10  # new labels, the backend's default
LATE = 3  # labels given until a new version's order is stored in Label Studio
BACKENDS_ORDER, RANDOM_ORDER = "backend's order", "random order"

# (embeddings of unlabeled images, of labeled ones, the model) → rows of the unlabeled ones in order
Order = Callable[[Tensor, Tensor, Classifier | None, np.random.Generator], Tensor]


def at_random(images: Tensor, labeled: Tensor, model: Classifier | None, random: np.random.Generator) -> Tensor:
    return torch.from_numpy(random.permutation(len(images)))


def least_certain(images: Tensor, labeled: Tensor, model: Classifier | None, random: np.random.Generator) -> Tensor:
    """By SCORE=probability; at random while there is no model."""
    if model is None:
        return at_random(images, labeled, model, random)
    answer = choose(model, str, multiple=False, embeddings=images)
    return torch.tensor([score for _, score in answer.chosen("probability")]).argsort(stable=True)


def most_telling(images: Tensor, labeled: Tensor, model: Classifier | None, random: np.random.Generator) -> Tensor:
    """By SCORE=order, without images that are drawn at random."""
    doubt = choose(model, str, multiple=False, embeddings=images).doubt() if model else None
    return labeling_order(images, labeled, doubt)


ORDERS: dict[str, Order] = {
    RANDOM_ORDER: at_random,
    "least certain first": least_certain,
    "backend's order, none at random": most_telling,
    BACKENDS_ORDER: most_telling,
}


def label(data: Data, split: int, name: str, most: int) -> Iterator[tuple[list[int], Classifier]]:
    """The labeled rows and the version that learned them, after each training, until there are `most` labels."""
    _, pool = data.split(split)
    random, order = np.random.default_rng(split), ORDERS[name]
    drawn = in_random_order(f"{data.name} {split}", pool.tolist())
    labeled: list[int] = []
    queue: list[int] = []

    def ordered(model: Classifier | None) -> list[int]:
        left = np.setdiff1d(pool, labeled)
        rows = left[order(data.embeddings[left], data.embeddings[labeled], model, random).numpy()].tolist()
        left_at_random = [row for row in drawn if row not in labeled]
        earlier = FIRST + EVERY - 1 if model else 0
        return list(interleaved(rows, left_at_random, earlier)) if name == BACKENDS_ORDER else rows

    coming = ordered(None)
    while len(labeled) < min(most, len(pool)):
        if not labeled or len(labeled) % TRAINED_AFTER == LATE:
            queue = coming
        known = set(labeled)
        labeled.append(next(row for row in queue if row not in known))
        if len(labeled) % TRAINED_AFTER == 0:
            known.add(labeled[-1])
            sample = set(takewhile(known.__contains__, drawn)) if name == BACKENDS_ORDER else set()
            model = learn(data, labeled, sample)
            yield list(labeled), model
            coming = ordered(model if _is_enough(data, labeled) else None)


def learn(data: Data, rows: list[int], sample: Container[int] = ()) -> Classifier:
    """A version that learned these rows; those of `sample` are known to be a random sample of the task."""
    samples = [replace(data.samples[row], at_random=row in sample) for row in rows]
    embedded = EmbeddedSamples(samples, data.embeddings[rows], {})
    classes = order_classes(samples, (), ())
    return learn_head(data.backbone, embedded, classes, Hyperparameters(), lambda record: None)


def _is_enough(data: Data, labeled: list[int]) -> bool:
    """Whether the backend makes a version of these labels."""
    try:
        check_enough([data.samples[row] for row in labeled])
    except TooFewLabels:
        return False
    return True
