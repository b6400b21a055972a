"""Trains all layers of a classifier with a trained head, if that makes it better.

Before that, a short trial shows whether training a pretrained network's layers can make it better.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from image_classifier.data.dataset import Sample, held_out, may_be_held_out
from image_classifier.embedding.lane import InferenceLane
from image_classifier.errors import TooFewLabels
from image_classifier.evaluation.comparison import FEWEST_COMPARED, Comparison, compare
from image_classifier.nets.classifier import RANDOM, Backbone, Classifier
from image_classifier.progress import Progress, Record
from image_classifier.settings import TrainMode
from image_classifier.training.classifier_head import embed, learn_head
from image_classifier.training.finetune import Diverged, fine_tune
from image_classifier.training.hyperparameters import Hyperparameters

log = logging.getLogger(__name__)

# With fewer labels all layers learn nothing that the head does not; random ones need many more.
MIN_IMAGES = 200
MIN_IMAGES_FOR_RANDOM_LAYERS = 2000
FEWEST_TRAINING_IMAGES = 2  # batch normalization can't be trained on one
AUTO_SECONDS = 3600.0  # time limit in the mode auto
TRIAL_IMAGES = 240  # that the trial trains on
TRIAL_HELD_OUT_IMAGES = 400  # that it compares on
TRIAL_EPOCHS, TRIAL_STEP_SIZE = 6, 4  # the learning rate falls after four epochs
TRIAL_SECONDS = 60.0  # the trial ends after the epoch in which these are over
TRIAL_CHECKPOINT = "trial.safetensors"


class NotBetter(Exception):
    """Training all layers isn't clearly better than the head alone, or nothing could show it; the message says why."""


def trains_all_layers(mode: TrainMode, backbone: Backbone, images: int) -> bool:
    """Whether to train all layers, too; in the mode auto, only if enough labeled images have been looked at."""
    enough = MIN_IMAGES_FOR_RANDOM_LAYERS if backbone.origin == RANDOM else MIN_IMAGES
    return mode == "full" or (mode == "auto" and images >= enough)


@dataclass(frozen=True)
class FineTuning:
    """Training all layers of the network of `start`, a classifier with a trained head, on all samples."""

    lane: InferenceLane
    start: Classifier
    samples: Sequence[Sample]
    hyperparameters: Hyperparameters
    checkpoint: Path  # from which it resumes, if there is one
    progress: Progress


def train_all_layers(
    tuning: FineTuning,
    *,
    mode: TrainMode,
    more_epochs: bool = True,
    prepare: Callable[[Backbone], object] | None = None,
) -> Classifier:
    """The classifier with all layers trained. Raises NotBetter if a trial or the result isn't better than `start`.

    It is also raised if so few images have been looked at that nothing could show that the result is better. For the
    rest see `learn_all_layers`.
    """
    _check_enough(tuning.samples)
    try_all_layers(tuning)
    seconds = AUTO_SECONDS if mode == "auto" else float("inf")
    tuned = learn_all_layers(tuning, seconds=seconds, more_epochs=more_epochs, prepare=prepare)
    comparison = compare(tuning.lane, tuning.start, tuned, tuning.samples)
    _check_better(comparison, "training all layers wasn't clearly better")
    log.info("trained all layers: %s", _in_words(comparison))
    return tuned


def try_all_layers(tuning: FineTuning) -> None:
    """Trains the layers on a part of the images; raises NotBetter if that isn't better than the head on the same part.

    There is no trial if the training has already begun (its checkpoint exists), or if all layers are random: these
    learn too slowly for a trial to tell. The trial resumes, too, from a checkpoint of its own in the same folder.
    """
    start, hyperparameters = tuning.start, tuning.hyperparameters
    if tuning.checkpoint.exists() or start.backbone.origin == RANDOM:
        return
    tried = _part(tuning.samples)
    _check_enough(tried)

    def report(record: Record) -> None:
        # The trial trains heads, too, but these steps are too short to show.
        shown = record if record["phase"] == "training all layers" else {}
        tuning.progress({**shown, "phase": "trying all layers"})

    short = replace(hyperparameters, epochs=min(TRIAL_EPOCHS, hyperparameters.epochs), lr_step_size=TRIAL_STEP_SIZE)
    own = tuning.checkpoint.with_name(TRIAL_CHECKPOINT)
    try:
        embedded = embed(tuning.lane, start.backbone, tried, report)
    except TooFewLabels:  # the other classes are too rare to be in the part
        raise NotBetter(
            "skipped training all layers, because too few classes are frequent enough for a trial"
        ) from None
    first = learn_head(start.backbone, embedded, start.classes, _for_head(tuning), report)
    trial = FineTuning(tuning.lane, first, tried, short, own, report)
    try:
        second = learn_all_layers(trial, seconds=TRIAL_SECONDS)
    except NotBetter:
        own.unlink(missing_ok=True)
        raise
    comparison = compare(tuning.lane, first, second, tried)
    own.unlink(missing_ok=True)
    _check_better(comparison, "skipped training all layers, because a short trial of it wasn't clearly better")
    log.info("trial of all layers on %d of %d images: %s", len(tried), len(tuning.samples), _in_words(comparison))


def _check_better(comparison: Comparison | None, otherwise: str) -> None:
    """Raises NotBetter with the figures unless the second classifier is better."""
    if comparison is None or not comparison.better:
        raise NotBetter(f"{otherwise}: {_in_words(comparison)}")


def _in_words(comparison: Comparison | None) -> str:
    if comparison is None:
        return "there are no held-out images to compare on"
    return (
        f"accuracy {comparison.after:.1%} on {comparison.images:,} held-out images, and {comparison.before:.1%} with "
        "only the last layer trained"
    )


def _check_enough(samples: Sequence[Sample]) -> None:
    """Raises NotBetter if too few images have been looked at to train all layers, or to show that they are better."""
    training, held_out_samples = _looked_at(samples)
    if len(training) < FEWEST_TRAINING_IMAGES:
        raise NotBetter(
            f"skipped training all layers, because it needs at least {FEWEST_TRAINING_IMAGES} images that a person has "
            f"looked at, in addition to the held-out ones; found {len(training)}"
        )
    groups = len({sample.vote for sample in held_out_samples})
    if groups < FEWEST_COMPARED:
        raise NotBetter(
            f"skipped training all layers, because at least {FEWEST_COMPARED} held-out images are needed to show "
            f"whether it is better; found {groups} (near-duplicates count as one)"
        )


def _part(samples: Sequence[Sample]) -> list[Sample]:
    """Some of the training and the held-out images that have been looked at, always the same ones."""
    part: list[Sample] = []
    for side, count in zip(_looked_at(samples), (TRIAL_IMAGES, TRIAL_HELD_OUT_IMAGES), strict=True):
        # The digest's beginning decides what is held out.
        part += sorted(side, key=lambda sample: sample.image.digest[::-1])[:count]
    return part


def _looked_at(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """The images that all layers are trained on, and the held-out ones; only those that have been looked at.

    The other labels only say what the model said: all layers learn nothing from them.
    """
    sides = zip(samples, may_be_held_out(samples), strict=True)
    training = [sample for sample, may_be in sides if sample.evaluates and not may_be]
    held_out_samples = [
        sample for sample, out in zip(samples, held_out(samples), strict=True) if sample.evaluates and out
    ]
    return training, held_out_samples


def learn_all_layers(
    tuning: FineTuning,
    *,
    seconds: float = float("inf"),
    more_epochs: bool = True,
    prepare: Callable[[Backbone], object] | None = None,
) -> Classifier:
    """Trains all layers from a classifier with a trained head, for at most `seconds`; then a head on the new network.

    The new head is trained at the learning rate of the first one, so that only the network makes a difference.
    Resumes from the checkpoint if there is one; without `more_epochs`, takes the best epoch so far. The new network is
    passed to `prepare` before it embeds the samples.
    """
    backbone = _tune(tuning, seconds, more_epochs=more_epochs)
    if prepare:
        prepare(backbone)
    embedded = embed(tuning.lane, backbone, tuning.samples, tuning.progress)
    return learn_head(backbone, embedded, tuning.start.classes, _for_head(tuning), tuning.progress)


def _for_head(tuning: FineTuning) -> Hyperparameters:
    return replace(tuning.hyperparameters, learning_rate=tuning.start.record["settings"]["learning_rate"])


def _tune(tuning: FineTuning, seconds: float, *, more_epochs: bool) -> Backbone:
    """Of all epochs, including those before the checkpoint, the backbone that is best on the held-out images."""
    training, held_out_samples = _looked_at(tuning.samples)
    start, hyperparameters = tuning.start, tuning.hyperparameters
    try:
        tuned = fine_tune(
            start.backbone,
            start.evaluation_head,
            training,
            held_out_samples or training,  # with too few labels to hold any out, the best that can be said
            start.classes,
            hyperparameters if more_epochs else replace(hyperparameters, epochs=0),
            tuning.checkpoint,
            tuning.progress,
            seconds=seconds,
            to_reach=start.record["figures"].get("accuracy", 0.0),
        )
    except Diverged as error:
        raise NotBetter(f"can't train all layers, because {error}") from None
    return tuned.backbone
