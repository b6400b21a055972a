"""Cross-validation of heads: each image is predicted by a head that was trained without it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from image_classifier.data.dataset import Sample, folds
from image_classifier.nets.classifier import Head
from image_classifier.progress import ignore
from image_classifier.training.head import train_heads
from image_classifier.training.hyperparameters import Hyperparameters


def splits(fold_of: Tensor, usable: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each fold, which images are in it, and on which of the others its head is trained; both are masks [n].

    `fold_of` [n] has the number of each image's fold, and `usable` [n] says on which images heads may be trained. A
    fold is left out if no image outside it is usable.
    """
    found = [(inside, usable & ~inside) for inside in (fold_of == fold for fold in sorted(set(fold_of.tolist())))]
    return [(inside, trained_on) for inside, trained_on in found if trained_on.any()]


def train_fold_heads(
    samples: Sequence[Sample], embeddings: Tensor, targets: Tensor, classes: int, scales: Tensor | None = None
) -> list[tuple[Tensor, Head]]:
    """For each fold of the samples, which ones are in it, as a mask [n], and a head that was trained on all others.

    The arguments are as for `train_head`; the samples' `embeddings` are [n, size].
    """
    found = splits(torch.tensor(folds(samples)), torch.ones(len(samples), dtype=torch.bool))
    parts = [trained_on.nonzero().flatten() for _, trained_on in found]
    heads = train_heads(embeddings, targets, classes, Hyperparameters(), ignore, parts, scales=scales)
    return [(inside, head) for (inside, _), head in zip(found, heads, strict=True)]
