"""A scripted person labels a whole project in groups, and every key and click is counted.

The person answers from the truth. They look at each group, point at each exception and press the key of its class, and
label the rest with one key: Enter if the proposal is right, otherwise the key of the class that most images have. So
each image is seen once, and all labels are right. Moving the pointer doesn't count. With a touch screen an exception
takes two actions: one to select it, one for its class.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from benchmarks.learning.embedded import Data
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.errors import TooFewLabels
from image_classifier.nets.classifier import Head
from image_classifier.pool.components import directions
from image_classifier.pool.groups import doubt_of, next_groups
from image_classifier.training.classifier_head import learn_head
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.labels import check_enough, order_classes

# The backend learns in the background, about once a second; here, when there are this many times more labels.
RELEARN = 1.05


@dataclass(frozen=True)
class Step:
    """What one group took."""

    rows: tuple[int, ...]
    proposed: bool
    exceptions: int

    @property
    def actions(self) -> int:
        return 1 + self.exceptions


def label_in_groups(data: Data) -> Iterator[Step]:
    """The groups in the order in which they are labeled, until all images are."""
    vectors = directions(data.embeddings)
    truth = [str(sample.label) for sample in data.samples]
    labeled: list[int] = []
    past: list[tuple[int, float]] = []
    model, learned = None, 0
    while len(labeled) < len(truth):
        rows = torch.tensor(sorted(set(range(len(truth))) - set(labeled)))
        if len(labeled) >= RELEARN * learned:
            model, learned = learn(data, labeled) or model, len(labeled)
        classes = model[1] if model else ()
        known = [row for row in labeled if truth[row] in classes]
        group = next_groups(
            vectors,
            rows,
            torch.tensor(known if model else labeled, dtype=torch.long),
            torch.tensor([classes.index(truth[row]) for row in known], dtype=torch.long),
            model[0](data.embeddings[rows]).softmax(1) if model else None,
            doubt_of(past),
        )[0]
        members = group.rows.tolist()
        counts = Counter(truth[row] for row in members)
        if group.proposal is not None:
            past.append((len(members) - counts[classes[group.proposal]], group.exceptions))
        yield Step(tuple(members), group.proposal is not None, len(members) - max(counts.values()))
        labeled += members


def learn(data: Data, labeled: list[int]) -> tuple[Head, tuple[str, ...]] | None:
    """The head and the classes that the backend learns from these labels; None if there are too few."""
    samples = [data.samples[row] for row in labeled]
    try:
        check_enough(samples)
    except TooFewLabels:
        return None
    classes = order_classes(samples, (), ())
    embedded = EmbeddedSamples(samples, data.embeddings[labeled], {})
    return learn_head(data.backbone, embedded, classes, Hyperparameters(), lambda record: None).head, classes
