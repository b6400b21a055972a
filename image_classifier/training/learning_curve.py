"""The learning curve so far, from heads that learned parts of the labels, and its forecast."""

from collections.abc import Sequence
from dataclasses import replace
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


def forecast_accuracy(
    embeddings: Tensor,
    targets: Tensor,
    classes: int,
    hyperparameters: Hyperparameters,
    folds: Tensor,
    right: Tensor,
    votes: Sequence[str],
    share: float,
    thresholds: Sequence[float] = (),
    scales: Tensor | None = None,
    drawn: Tensor | None = None,
) -> Forecast | None:
    """The forecast from cross-validation; None if there are too few votes.

    `embeddings` [n, size] and `targets` are those of the images that the metrics come from, `folds` [n] their five
    folds, `right` [n] whether heads that learned a `share` (0 to 1) of the labels, without the image, classify it
    correctly, and `votes` [n] names that near-duplicates share; `scales` is as for `train_head`. If some images are
    `drawn` [n] at random, only these have a vote. Trains four heads on a fifth or two fifths of the labels, which costs
    a fraction of training the heads that a version needs.
    """
    judges = torch.ones(len(targets), dtype=torch.bool) if drawn is None else drawn
    names, vote_of = np.unique(list(compress(votes, judges.tolist())), return_inverse=True)
    if len(names) < FEWEST_VOTES:
        return None
    learned = [torch.isin(folds, torch.tensor(part)) for part in (*ONE, *TWO)]
    parts = [inside.nonzero().flatten() for inside in learned]
    heads = train_heads(embeddings, targets, classes, hyperparameters, ignore, parts, scales=scales)
    correct = torch.stack([hits(head(embeddings), targets, thresholds) for head in heads]).double()
    outside = ~torch.stack(learned)
    curve = [(correct[some] * outside[some]).sum(0) / outside[some].sum(0) for some in (slice(0, 2), slice(2, 4))]
    of_images = torch.stack([*curve, right.double()], 1)[judges].numpy()
    of_votes = np.zeros((len(names), of_images.shape[1]))
    np.add.at(of_votes, vote_of, of_images)
    of_votes /= np.bincount(vote_of)[:, None]
    labels = len(targets)
    sizes = [labels / FOLDS, labels * 2 / FOLDS, labels * share]
    found = forecast(of_votes, sizes, labels, sorted({*FURTHER, labels}))
    return replace(found, random_sample=drawn is not None) if found else None
