"""A short trial that tells whether training a pretrained network's layers can pay off, before much time is spent."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from image_classifier.data.dataset import Sample, held_out
from image_classifier.embedding.lane import InferenceLane
from image_classifier.evaluation.comparison import compare
from image_classifier.nets.classifier import RANDOM, Classifier
from image_classifier.progress import Progress, Record
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.pipeline import embed, learn_all_layers, learn_head

log = logging.getLogger(__name__)

IMAGES = 240  # that the trial trains on
HELD_OUT_IMAGES = 400  # that it compares on
EPOCHS, STEP_SIZE = 6, 4  # the learning rate falls after four epochs
SECONDS = 60.0  # the trial ends after the epoch in which these are over
CHECKPOINT = "trial.safetensors"


def pays(
    lane: InferenceLane,
    start: Classifier,
    samples: Sequence[Sample],
    hyperparameters: Hyperparameters,
    checkpoint: Path,
    progress: Progress,
) -> bool:
    """Trains the layers on a part of the images and says whether that was better than the head on the same part.

    There is no trial, and the answer is yes, if the training has already begun (`checkpoint` exists), or if all layers
    are random: these learn too slowly for a trial to tell. The trial resumes, too, from a checkpoint of its own in the
    same folder.
    """
    if checkpoint.exists() or start.backbone.origin == RANDOM:
        return True
    tried = _part(samples, held_out(samples))

    def report(record: Record) -> None:
        # The trial trains heads, too, but these steps are too short to show.
        shown = record if record["phase"] == "training all layers" else {}
        progress({**shown, "phase": "trying all layers"})

    short = replace(hyperparameters, epochs=min(EPOCHS, hyperparameters.epochs), lr_step_size=STEP_SIZE)
    own = checkpoint.with_name(CHECKPOINT)
    embedded = embed(lane, start.backbone, tried, report)
    first = learn_head(start.backbone, embedded, start.classes, hyperparameters, report)
    second = learn_all_layers(lane, first, tried, short, own, report, seconds=SECONDS)
    comparison = compare(lane, first, second, tried)
    own.unlink(missing_ok=True)
    log.info("trial of all layers on %d of %d images: %s", len(tried), len(samples), comparison)
    return comparison is not None and comparison.better


def _part(samples: Sequence[Sample], out: Sequence[bool]) -> list[Sample]:
    """Some of the training and the held-out images (`out`), always the same ones."""
    part: list[Sample] = []
    for is_out, count in ((False, IMAGES), (True, HELD_OUT_IMAGES)):
        side = [sample for sample, here in zip(samples, out, strict=True) if here == is_out]
        # The digest's beginning decides what is held out.
        part += sorted(side, key=lambda sample: sample.image.digest[::-1])[:count]
    return part
