"""Compares two classifiers on the same held-out images: is one clearly worse, or better than chance explains?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from image_classifier.data.dataset import Sample, classes_of, held_out, targets_of
from image_classifier.data.preprocessing import ImageError
from image_classifier.embedding.lane import InferenceLane
from image_classifier.evaluation.metrics import brier_scores, hits, vote_weights
from image_classifier.nets.classifier import Classifier

# A version is clearly worse when its accuracy is lower by more than this, and by more than two standard errors.
CLEARLY_WORSE = 0.02
# All layers must come closer to the labels by this many standard errors: 1 in 20 that are no better do so by chance.
BEYOND_NOISE = 1.645
FEWEST_COMPARED = 20  # groups of near-duplicates: a standard error of fewer says little


@dataclass(frozen=True)
class Comparison:
    """How two classifiers compare on the same held-out images, using the heads that were fitted without them."""

    images: int
    groups: int  # of near-duplicates: each has one vote
    before: float  # share that is classified correctly, 0 to 1
    after: float
    standard_error: float  # of the difference
    gain: float  # how much closer the probabilities are to the labels: the decrease of the Brier score
    gain_error: float  # its standard error

    @property
    def clearly_worse(self) -> bool:
        return self.groups > 1 and self.before - self.after > max(CLEARLY_WORSE, 2 * self.standard_error)

    @property
    def better(self) -> bool:
        """At least as many images are right, and probabilities are closer to the labels by more than chance explains.

        Probabilities show a difference on far fewer images than the number of right predictions does.
        """
        if self.groups < FEWEST_COMPARED or self.after < self.before:
            return False
        return self.gain > BEYOND_NOISE * self.gain_error


def compare(
    lane: InferenceLane,
    before: Classifier,
    after: Classifier,
    samples: Sequence[Sample],
    learned_before: Sequence[Sample] = (),
) -> Comparison | None:
    """Compares two classifiers; None if there are no images to compare them on, or if their tasks differ.

    `learned_before` are the samples that `before` was trained on: images like those that it has seen don't count,
    nor do labels that nobody has looked at.
    """
    if before.head.multiple != after.head.multiple:
        return None
    outside = held_out(learned_before)
    known = {sample.image.digest for sample, out in zip(learned_before, outside, strict=True) if not out}
    seen = {sample.vote for sample in samples if sample.image.digest in known}
    compared = [
        sample
        for sample, out in zip(samples, held_out(samples), strict=True)
        if out
        and sample.evaluates
        and sample.vote not in seen
        # A class that only one of them knows would count against the other.
        and classes_of(sample.label) <= set(before.classes) & set(after.classes)
    ]
    if not compared:
        return None
    votes = [sample.vote for sample in compared]
    weights = vote_weights(votes)
    groups = {vote: number for number, vote in enumerate(dict.fromkeys(votes))}
    rows = torch.tensor([groups[vote] for vote in votes])

    def of_votes(values: Tensor) -> Tensor:
        return torch.zeros(len(groups)).index_add(0, rows, weights * values)

    (old, far), (new, near) = (
        map(of_votes, _right_and_far(lane, classifier, compared)) for classifier in (before, after)
    )
    error, gain_error = (float(each.std(unbiased=False)) / len(groups) ** 0.5 for each in (old - new, far - near))
    right, gain = (float(old.mean()), float(new.mean())), float((far - near).mean())
    return Comparison(len(compared), len(groups), *right, error, gain, gain_error)


def _right_and_far(lane: InferenceLane, classifier: Classifier, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Results of the head fitted without the samples: [n], 1 if a sample is right and 0 if not, and [n] Brier scores.

    Raises ImageError.
    """
    vectors = []
    for vector in lane.embed(classifier.backbone, [sample.image for sample in samples], background=True):
        if isinstance(vector, ImageError):
            raise vector
        vectors.append(vector)
    head = classifier.evaluation_head
    logits = head(torch.from_numpy(np.stack(vectors)))
    targets = targets_of([sample.label for sample in samples], classifier.classes)
    return hits(logits, targets, head.thresholds).float(), brier_scores(logits, targets)
