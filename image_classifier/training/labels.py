"""The labels that heads learn: whether they are enough, their classes, and how much each counts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from image_classifier.data.dataset import FOLDS, Label, LabelSource, Sample, classes_of
from image_classifier.errors import TooFewLabels
from image_classifier.evaluation.metrics import THRESHOLD

MIN_IMAGES = 4
MIN_CLASSES = 2
# Cross-validation divides fewer images than this into ten folds: a head that learns nine tenths of few labels is closer
# to the served head than one that learns four fifths. With more, both are close to it, and ten heads take too long.
FEWEST_IN_FIVE_FOLDS = 1000
# How much a label that nobody has looked at counts in the head's training: accepted predictions are often right, but
# at full weight, the head would mostly learn its own answers.
UNSEEN_WEIGHT = 0.3


def check_enough(samples: Sequence[Sample]) -> None:
    """Raises TooFewLabels if there are too few labels to tell any class from another.

    One image of a class is enough: the first images to label are diverse, so few classes have two of them.
    """
    counts = Counter(name for sample in samples for name in classes_of(sample.label))
    multiple = any(not isinstance(sample.label, str) for sample in samples)
    # What all images have cannot be distinguished from what none has.
    learnable = [name for name, count in counts.items() if not multiple or count < len(samples)]
    if len(samples) >= MIN_IMAGES and len(learnable) >= (1 if multiple else MIN_CLASSES):
        return
    at_least = f"with at least {MIN_CLASSES} different choices"
    wanted = "some of them with a choice that others don't have" if multiple else at_least
    have = ", ".join(f"{count} × {name}" for name, count in counts.items()) or "none"
    raise TooFewLabels(
        f"Too few labels to train on: label at least {MIN_IMAGES} images, {wanted} (labeled so far: {have})."
    )


def order_classes(samples: Sequence[Sample], known: Sequence[str], preferred: Sequence[str]) -> tuple[str, ...]:
    """The classes of the samples: known ones keep their places, new ones follow in the preferred order."""
    learned = {name for sample in samples for name in classes_of(sample.label)}
    ordered = [*known, *preferred, *sorted(learned)]
    return tuple(name for name in dict.fromkeys(ordered) if name in learned)


def count_labels(samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """The parts of a classifier's record that say how many labels it has learned, by class and by source."""
    return counts_of([sample.label for sample in samples], [sample.source for sample in samples], classes)


def counts_of(
    labels: Iterable[Label], sources: Iterable[LabelSource], classes: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Like `count_labels`, for labels and sources of which there may be many."""
    counted: Counter[str] = Counter()
    for label, count in Counter(labels).items():
        counted.update(dict.fromkeys(classes_of(label), count))
    by_source = Counter(sources)
    return {
        "labels": {name: counted[name] for name in classes},
        "sources": {source: by_source[source] for source in get_args(LabelSource)},
    }


def label_weights(samples: Sequence[Sample]) -> Tensor:
    """How much each label counts in the head's training [n]."""
    return torch.tensor([1.0 if sample.evaluates else UNSEEN_WEIGHT for sample in samples])


@dataclass(frozen=True)
class LabeledEmbeddings:
    """What heads learn: samples, their embeddings [n, size], and their targets among the classes."""

    samples: Sequence[Sample]
    embeddings: Tensor
    targets: Tensor
    classes: tuple[str, ...]

    @property
    def multiple(self) -> bool:
        """Whether several classes may be right at once."""
        return self.targets.is_floating_point()

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The lowest probability at which each class is predicted if several may be right; otherwise none."""
        return (THRESHOLD,) * len(self.classes) if self.multiple else ()

    @property
    def looked_at(self) -> Tensor:
        """Which labels a person has looked at [n]. The others come from a model, which had learned from these."""
        return torch.tensor([sample.evaluates for sample in self.samples])

    @property
    def fold_count(self) -> int:
        return 10 if int(self.looked_at.sum()) < FEWEST_IN_FIVE_FOLDS else FOLDS

    @property
    def share(self) -> float:
        """The share of the labels, from 0 to 1, that each head in cross-validation learns."""
        return 1 - 1 / self.fold_count

    def has(self) -> Tensor:
        """Which classes each image has [n, classes]."""
        return self.targets.bool() if self.multiple else one_hot(self.targets, len(self.classes)).bool()

    def votes(self, part: Tensor) -> list[str]:
        """The votes of the images in a part [n]."""
        return [self.samples[row].vote for row in part.nonzero().flatten().tolist()]
