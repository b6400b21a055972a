"""Decides whether a network may compute in 8-bit integers, by comparing predictions for the project's own images."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import comb

import numpy as np
import torch
from torch import Tensor

from image_classifier.data.dataset import Sample, classes_of, held_out, targets_of
from image_classifier.data.preprocessing import ImageError
from image_classifier.embedding.lane import InferenceLane
from image_classifier.embedding.samples import AT_ONCE
from image_classifier.evaluation.metrics import THRESHOLD, hits
from image_classifier.nets.classifier import FINE_TUNED, Backbone
from image_classifier.nets.int8 import Int8Form, is_supported, quantize
from image_classifier.nets.optimize import BATCH_SIZE
from image_classifier.progress import Progress
from image_classifier.training.cross_validation import train_fold_heads
from image_classifier.training.half_precision import draw, try_precision

log = logging.getLogger(__name__)

MOST_CHANGED = 0.005  # share of the compared answers that may change
SURELY_MOST_CHANGED = 0.01  # share of all answers that may change, with 95% confidence
ERROR = 0.05
FEWEST_IMAGES = 299  # of which none may have another answer: 0.99 ** 299 < 0.05
MOST_IMAGES = 2000
CALIBRATED_ON = 128  # images that tell the ranges of the numbers in the network
MOST_LOST = 0.003  # of the accuracy, by heads that learned embeddings of either form


@dataclass(frozen=True)
class Int8Trial:
    """How predictions of the 8-bit form compare with the network's, on images that the head hasn't seen."""

    images: int
    changed: int  # images with an answer that was clearly less probable before
    accuracy_before: float  # 0 to 1, by heads that learned the network's embeddings
    accuracy: float  # the same, by heads that learned those of the 8-bit form

    @property
    def passed(self) -> bool:
        """Whether few predictions change, on these images and probably on all, and the accuracy stays the same."""
        few = self.changed <= MOST_CHANGED * self.images
        surely_few = binomial_tail(self.changed, self.images, SURELY_MOST_CHANGED) <= ERROR
        return few and surely_few and self.accuracy_before - self.accuracy <= MOST_LOST


def binomial_tail(changed: int, images: int, share: float) -> float:
    """The probability that at most `changed` of the `images` get another prediction if a `share` of all images do."""
    if changed > images * share:  # more than expected: never improbable enough, and long to add up
        return 1.0
    return sum(comb(images, n) * share**n * (1 - share) ** (images - n) for n in range(changed + 1))


def try_int8(lane: InferenceLane, backbone: Backbone, samples: Sequence[Sample], progress: Progress) -> Backbone | None:
    """The network in its 8-bit form, if a trial on the labeled images passes; otherwise None.

    There is no trial if OpenVINO isn't installed or wouldn't be faster on this processor, if there are too few images,
    or if an earlier trial with these classes and more than half as many images has failed. It embeds no more than 2,000
    images again. If the network was trained on the images, only the held-out ones count, because its predictions for
    the others are more confident than for new images.
    """
    if backbone.int8 or not lane.precisions or not is_supported(lane.device):
        return None
    compared = _samples_to_compare(backbone, samples)
    classes = sorted(frozenset().union(*(classes_of(sample.label) for sample in compared)))
    if len(compared) < max(FEWEST_IMAGES, 2 * lane.precisions.images_of_failed_int8(backbone, classes)):
        return None
    begun = time.monotonic()
    progress({"phase": "trying int8", "image": 0, "images": len(compared)})
    try:
        ranges = list(_pixels(backbone, draw(compared, CALIBRATED_ON)))
        graph, weights = quantize(backbone.module, backbone.preprocessing.crop_size, ranges)
    except (OSError, MemoryError) as error:  # not the network's fault
        log.warning(
            "can't try int8 for network %s now; the next training run tries again: %s", backbone.fingerprint[:8], error
        )
        return None
    except Exception as error:  # OpenVINO converts most networks, and raises anything for the others
        log.warning("network %s can't be computed in int8: %s", backbone.fingerprint[:8], error)
        lane.precisions.note_failed_int8(backbone, classes, MOST_IMAGES, {"error": str(error)})
        return None
    form = backbone.computed_by(Int8Form(backbone.fingerprint, graph, weights))
    trial = _compare(lane, backbone, form, compared, classes, progress)
    seconds = round(time.monotonic() - begun, 1)
    log.info("int8 for network %s: %s, %s, in %.1f s", backbone.fingerprint[:8], trial, trial.passed, seconds)
    if trial.passed:
        return form
    lane.precisions.note_failed_int8(backbone, classes, trial.images, asdict(trial))
    return None


def _samples_to_compare(backbone: Backbone, samples: Sequence[Sample]) -> list[Sample]:
    """One image of each group of near-duplicates that a person has looked at; of many, some drawn at random."""
    seen = [
        sample
        for sample, out in zip(samples, held_out(samples), strict=True)
        if sample.evaluates and (out or backbone.origin != FINE_TUNED)
    ]
    return draw(list({sample.vote: sample for sample in seen}.values()), MOST_IMAGES)


def _pixels(backbone: Backbone, samples: Sequence[Sample]) -> Iterator[Tensor]:
    """Batches of images as the network takes them; images that can't be read are left out."""
    batch: list[Tensor] = []
    for number, sample in enumerate(samples, 1):
        with suppress(ImageError):
            batch.append(backbone.preprocessing(sample.image.path))
        if batch and (len(batch) == BATCH_SIZE or number == len(samples)):
            yield backbone.preprocessing.normalize(torch.stack(batch))
            batch = []


def _compare(
    lane: InferenceLane,
    before: Backbone,
    after: Backbone,
    samples: Sequence[Sample],
    classes: Sequence[str],
    progress: Progress,
) -> Int8Trial:
    known, exact, rounded = [], [], []
    for start in range(0, len(samples), AT_ONCE):
        some = samples[start : start + AT_ONCE]
        images = [sample.image for sample in some]
        found = (lane.embed(backbone, images, background=True) for backbone in (before, after))
        for sample, one, other in zip(some, *found, strict=True):
            if not isinstance(one, ImageError) and not isinstance(other, ImageError):
                known.append(sample)
                exact.append(one)
                rounded.append(other)
        progress({"phase": "trying int8", "image": start + len(some), "images": len(samples)})
    old, new = torch.from_numpy(np.stack(exact)), torch.from_numpy(np.stack(rounded))
    scales = before.scales(old.shape[1])
    changed = round((1 - try_precision(known, old, new, scales).agreement) * len(known))
    return Int8Trial(len(known), changed, *(_accuracy(known, each, classes, scales) for each in (old, new)))


def _accuracy(samples: Sequence[Sample], embeddings: Tensor, classes: Sequence[str], scales: Tensor) -> float:
    """The accuracy of heads that haven't seen the image."""
    targets = targets_of([sample.label for sample in samples], classes)
    logits = torch.empty(len(samples), len(classes))
    for fold, head in train_fold_heads(samples, embeddings, targets, len(classes), scales):
        logits[fold] = head(embeddings[fold])
    thresholds = (THRESHOLD,) * len(classes) if targets.is_floating_point() else ()
    return float(hits(logits, targets, thresholds).float().mean())
