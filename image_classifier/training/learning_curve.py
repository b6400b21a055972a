"""The learning curve so far, from heads that learned parts of the labels, and its forecast."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
import torch
from torch import Tensor

from image_classifier.data.dataset import FOLDS
from image_classifier.evaluation.forecast import FEWEST_VOTES, Forecast, forecast
from image_classifier.evaluation.metrics import hits
from image_classifier.progress import ignore
from image_classifier.training.head import train_heads
from image_classifier.training.hyperparameters import Hyperparameters

# The folds that further heads learn: one of five, or two of five. Each image is outside of one such part at least.
ONE, TWO = ((0,), (2,)), ((0, 1), (2, 3))
FURTHER = (100, 200)  # labels; the forecast is also for twice as many as now


@dataclass(frozen=True)
class EvaluatedImages:
    """The images that the metrics come from; near-duplicates share one of the `votes`."""

    embeddings: Tensor  # [n, size]
    targets: Tensor  # class indices [n], or 0 and 1 [n, classes]
    folds: Tensor  # [n]: the number of each image's fold, of five
    right: Tensor  # [n]: whether heads that were trained without the image classify it correctly
    votes: Sequence[str]
    drawn: Tensor | None = None  # [n]: if some images are drawn at random, only these have a vote


def forecast_accuracy(
    images: EvaluatedImages,
    classes: int,
    hyperparameters: Hyperparameters,
    share: float,
    thresholds: Sequence[float] = (),
    scales: Tensor | None = None,
) -> Forecast | None:
    """The forecast from cross-validation, in which heads learned a `share` (0 to 1) of the labels.

    None if there are too few votes. `scales` is as for `train_head`. Trains four heads on a fifth or two fifths of the
    labels, which costs a fraction of training the heads that a version needs.
    """
    embeddings, targets, drawn = images.embeddings, images.targets, images.drawn
    counted = torch.ones(len(targets), dtype=torch.bool) if drawn is None else drawn
    names, vote_of = np.unique(list(compress(images.votes, counted.tolist())), return_inverse=True)
    if len(names) < FEWEST_VOTES:
        return None
    learned = [torch.isin(images.folds, torch.tensor(part)) for part in (*ONE, *TWO)]
    parts = [inside.nonzero().flatten() for inside in learned]
    heads = train_heads(embeddings, targets, classes, hyperparameters, ignore, parts, scales=scales)
    correct = torch.stack([hits(head(embeddings), targets, thresholds) for head in heads]).double()
    outside = ~torch.stack(learned)
    curve = [(correct[some] * outside[some]).sum(0) / outside[some].sum(0) for some in (slice(0, 2), slice(2, 4))]
    of_images = torch.stack([*curve, images.right.double()], 1)[counted].numpy()
    of_votes = np.zeros((len(names), of_images.shape[1]))
    np.add.at(of_votes, vote_of, of_images)
    of_votes /= np.bincount(vote_of)[:, None]
    labels = len(targets)
    sizes = [labels / FOLDS, labels * 2 / FOLDS, labels * share]
    found = forecast(of_votes, sizes, labels, sorted({*FURTHER, labels}))
    return replace(found, random_sample=drawn is not None) if found else None
