"""Decides whether a network may compute in half precision, by comparing predictions for the project's own images."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from image_classifier.data.dataset import Sample, classes_of, targets_of
from image_classifier.data.preprocessing import ImageError
from image_classifier.embedding.cache import Embedding
from image_classifier.embedding.lane import InferenceLane
from image_classifier.evaluation.metrics import THRESHOLD, fit_temperature
from image_classifier.nets.classifier import Backbone
from image_classifier.training.cross_validation import train_fold_heads

Item = TypeVar("Item")

FEWEST_IMAGES = 50  # that a trial is made on: fewer say little about 99% of the answers
MOST_IMAGES = 200  # half of them are enough if no answer changes
MIN_AGREEMENT = 0.99  # share of images with the same answer, or with one that is nearly as probable
NEARLY = 0.05  # if probabilities differ by less, rounding may decide which answer comes first; nobody notices


@dataclass(frozen=True)
class Trial:
    """How predictions in a half-precision format compare with those in float32, on images that the head hasn't seen."""

    images: int
    agreement: float  # share of images with the same answer, or with one that is nearly as probable
    same: float  # share of images with exactly the same answer
    difference: float  # of the probabilities, mean over the images of the largest one

    @property
    def passed(self) -> bool:
        return self.agreement >= MIN_AGREEMENT


def settle_precision(lane: InferenceLane, backbone: Backbone, samples: Sequence[Sample]) -> None:
    """Tries half precision on labeled images and stores the choice, unless it has been made or there are too few.

    It takes 2 to 8 s for ResNet18 on a CPU, once for each network. Later embeddings are computed in the chosen
    precision.
    """
    if len(samples) < FEWEST_IMAGES or not lane.precisions or not (candidates := _candidates(lane, backbone)):
        return
    images = draw(list({sample.image.digest: sample for sample in samples}.values()), MOST_IMAGES)
    first = images[: MOST_IMAGES // 2]
    trials: dict[str, Trial] = {}
    chosen = torch.float32
    for candidate in candidates:
        # This hardly makes the trial easier: a network that changes 1%, 1.5%, 2% or 3% of the answers passes in 70.6%,
        # 46.3%, 27.8% or 8.7% of all trials. If all 200 images were always compared, it would pass in 67.7%, 42.1%,
        # 23.5% or 5.9%.
        trial = _try(lane, backbone, first, candidate) if len(images) > MOST_IMAGES // 2 else None
        if trial is None or trial.images < MOST_IMAGES // 2 or trial.agreement < 1:
            trial = _try(lane, backbone, images, candidate)
        if trial is None:
            return
        trials[str(candidate).removeprefix("torch.")] = trial
        if trial.passed:
            chosen = candidate
            break
    results = {name: asdict(trial) for name, trial in trials.items()}
    lane.precisions.choose(backbone, lane.device, chosen, results, max(trial.images for trial in trials.values()))


def _try(lane: InferenceLane, backbone: Backbone, samples: Sequence[Sample], precision: torch.dtype) -> Trial | None:
    """A trial on the samples whose images can be read; None if there are too few."""
    exact = _embed(lane, backbone, samples, torch.float32)
    rounded = _embed(lane, backbone, list(exact), precision)
    if len(rounded) < FEWEST_IMAGES:
        return None
    before, after = (torch.from_numpy(np.stack([of[sample] for sample in rounded])) for of in (exact, rounded))
    return try_precision(list(rounded), before, after, backbone.scales(before.shape[1]))


def settle_before_embedding(lane: InferenceLane, backbone: Backbone, samples: Sequence[Sample]) -> None:
    """Chooses the precision, unless most images are embedded already: then the trial would only delay the model."""
    if not is_due(lane, backbone, len(samples)):
        return
    some = draw(samples, MOST_IMAGES)
    known = lane.known(backbone, [sample.image.digest for sample in some], counted=False)
    if len(known) <= len(some) / 2:
        settle_precision(lane, backbone, samples)


def is_due(lane: InferenceLane, backbone: Backbone, images: int) -> bool:
    """Whether no trial has been made yet, and this number of images is enough for one."""
    return images >= FEWEST_IMAGES and bool(_candidates(lane, backbone))


def _candidates(lane: InferenceLane, backbone: Backbone) -> tuple[torch.dtype, ...]:
    """The half precisions to try; none if a trial has been made."""
    return lane.precisions.candidates(backbone, lane.device) if lane.precisions and not backbone.int8 else ()


def draw(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many items, drawn at random but always the same ones.

    If the classes of a list take turns, every fifth item might be of the same two classes.
    """
    return random.Random(0).sample(items, min(len(items), most))  # noqa: S311  no secret


def _embed(
    lane: InferenceLane, backbone: Backbone, samples: Sequence[Sample], precision: torch.dtype
) -> dict[Sample, Embedding]:
    """The samples whose images can be read, with their embeddings."""
    found = lane.embed(backbone, [sample.image for sample in samples], background=True, precision=precision)
    return {sample: vector for sample, vector in zip(samples, found, strict=True) if not isinstance(vector, ImageError)}


def try_precision(samples: Sequence[Sample], exact: Tensor, rounded: Tensor, scales: Tensor | None = None) -> Trial:
    """Compares predictions from float32 and half-precision embeddings [n, size]; heads predict only unseen images.

    The heads are trained on the float32 embeddings, since a head that is live when the precision changes was trained on
    these, too. `scales` is as for `train_head`. An embedding that rounding made infinite or NaN fails the trial.
    """
    if not rounded.isfinite().all():
        return Trial(len(samples), agreement=0, same=0, difference=1)
    classes = sorted(frozenset().union(*(classes_of(sample.label) for sample in samples)))
    targets = targets_of([sample.label for sample in samples], classes)
    wanted, found = torch.empty(2, len(samples), len(classes))
    for fold, head in train_fold_heads(samples, exact, targets, len(classes), scales):
        wanted[fold], found[fold] = head(exact[fold]), head(rounded[fold])
    temperature = fit_temperature(wanted, targets)
    return _compare(wanted / temperature, found / temperature, multiple=targets.is_floating_point())


def _compare(wanted: Tensor, found: Tensor, *, multiple: bool) -> Trial:
    """Compares the predictions of calibrated logits [n, classes]."""
    if multiple:
        before, after = wanted.sigmoid(), found.sigmoid()
        differ = (before >= THRESHOLD) != (after >= THRESHOLD)
        same = ~differ.any(1)
        nearly = (~differ | ((before - THRESHOLD).abs() <= NEARLY)).all(1)
    else:
        before, after = wanted.softmax(1), found.softmax(1)
        behind = before.max(1).values - before.gather(1, after.argmax(1, keepdim=True))[:, 0]
        same, nearly = behind == 0, behind <= NEARLY
    difference = (before - after).abs().max(1).values
    agreement, identical, mean = (float(each.float().mean()) for each in (nearly, same, difference))
    return Trial(len(wanted), agreement, identical, mean)
