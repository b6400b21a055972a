"""Evaluates a saved model on labeled images: metrics, and each image's prediction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from image_classifier.data.dataset import Sample, classes_of, held_out, targets_of
from image_classifier.data.duplicates import group_near_duplicates
from image_classifier.data.preprocessing import ImageError
from image_classifier.embedding.lane import InferenceLane
from image_classifier.errors import UsersError
from image_classifier.evaluation.metrics import Evaluation, evaluate
from image_classifier.nets.classifier import Classifier
from image_classifier.nets.folder import SavedModel
from image_classifier.progress import Progress

AT_ONCE = 256  # images between two progress reports


@dataclass(frozen=True)
class Answer:
    """The prediction for one image, and its confidence (0 to 1)."""

    sample: Sample
    predicted: str
    confidence: float

    @property
    def right(self) -> bool:
        return self.predicted == " + ".join(sorted(classes_of(self.sample.label)))


@dataclass(frozen=True)
class Examination:
    """The metrics, each image's prediction, and the images that couldn't be evaluated."""

    classes: tuple[str, ...]
    evaluation: Evaluation
    answers: list[Answer]
    trained_on: int  # images left out because the model was trained on them
    broken: list[tuple[Sample, ImageError]]

    def record(self) -> dict[str, Any]:
        left_out = {"trained_on": self.trained_on, "broken": len(self.broken)}
        return {**self.evaluation.record(), "classes": list(self.classes), "left_out": left_out}


def embed_samples(
    lane: InferenceLane, classifier: Classifier, samples: Sequence[Sample], progress: Progress
) -> tuple[list[Sample], Tensor, list[tuple[Sample, ImageError]]]:
    """The samples that can be read, their embeddings [n, size], and why the others can't be read.

    The samples know their near-duplicates.
    """
    kept, vectors, broken = [], [], []
    for start in range(0, len(samples), AT_ONCE):
        progress({"phase": "embedding images", "image": start, "images": len(samples)})
        some = samples[start : start + AT_ONCE]
        found = lane.embed(classifier.backbone, [sample.image for sample in some])
        for sample, vector in zip(some, found, strict=True):
            if isinstance(vector, ImageError):
                broken.append((sample, vector))
            else:
                kept.append(sample)
                vectors.append(vector)
    embeddings = torch.from_numpy(np.stack(vectors)) if vectors else torch.empty(0, classifier.head.weight.shape[1])
    return grouped(lane, kept), embeddings, broken


def grouped(lane: InferenceLane, samples: Sequence[Sample]) -> list[Sample]:
    """The samples with their groups of near-duplicates; those that have one keep it.

    A sample whose image can't be read gets none, so that it can join its near-duplicates once the image is back. Nor
    does a black one, which resembles nothing.
    """
    if all(sample.group for sample in samples):
        return list(samples)
    digests, known = [sample.image.digest for sample in samples], [sample.group for sample in samples]
    thumbnails = lane.thumbnails([sample.image for sample in samples])
    groups = group_near_duplicates(digests, known, thumbnails)
    compared = thumbnails.any(1).tolist()
    return [
        replace(sample, group=group) if was_compared else sample
        for sample, group, was_compared in zip(samples, groups, compared, strict=True)
    ]


def examine_model(lane: InferenceLane, model: SavedModel, samples: Sequence[Sample], progress: Progress) -> Examination:
    """Evaluates each image with a head that hasn't seen it; images that both heads have learned are left out.

    Raises UsersError for classes that the model doesn't know, and if no image is left.
    """
    classifier = model.classifier
    unknown = sorted({name for sample in samples for name in classes_of(sample.label)} - set(classifier.classes))
    if not classifier.head.multiple and any(len(classes_of(sample.label)) > 1 for sample in samples):
        raise UsersError(
            "the model predicts one class per image, but some of these images have several: pass images with one class "
            "each"
        )
    if unknown:
        raise UsersError(
            f"the model has no class {', '.join(unknown)}; its classes are {', '.join(classifier.classes)}: "
            "rename the folders to match, or move the folders of other classes elsewhere"
        )
    if not samples:
        raise UsersError("there are no images to evaluate the model on: add images of its classes")
    unseen, judged, trained_on = _split(model, samples)
    kept, embeddings, broken = embed_samples(lane, classifier, [*unseen, *judged], progress)
    if not kept:
        raise UsersError(
            f"no images to evaluate the model on: of {len(samples)} images, it was trained on {trained_on}, and "
            f"{len(broken)} can't be read; pass images that it wasn't trained on"
        )
    held = {sample.image.digest for sample in judged}
    logits = classifier.head(embeddings)
    by_judge = torch.tensor([sample.image.digest in held for sample in kept])
    logits[by_judge] = classifier.evaluation_head(embeddings[by_judge])
    thresholds = classifier.head.thresholds
    labels = [frozenset(classes_of(s.label)) if thresholds else s.label for s in kept]
    targets, votes = targets_of(labels, classifier.classes), [sample.vote for sample in kept]
    evaluation = evaluate(logits, targets, classifier.classes, thresholds, votes)
    answers = [Answer(sample, *answer) for sample, answer in zip(kept, answers_of(classifier, logits), strict=True)]
    return Examination(classifier.classes, evaluation, answers, trained_on, broken)


def _split(model: SavedModel, samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample], int]:
    """Images the model has never seen, those held out when it was trained, and the number that it has learned."""
    corrected = model.classifier.record.get("corrections", {})
    known = {
        sample.image.digest: out and sample.image.digest not in corrected
        for sample, out in zip(model.samples, held_out(model.samples), strict=True)
    }
    unseen = [sample for sample in samples if sample.image.digest not in known]
    judged = [sample for sample in samples if known.get(sample.image.digest)]
    return unseen, judged, len(samples) - len(unseen) - len(judged)


def probabilities_of(classifier: Classifier, logits: Tensor) -> Tensor:
    """Probabilities [n, classes], each from 0 to 1."""
    return logits.sigmoid() if classifier.head.multiple else logits.softmax(1)


def answers_of(classifier: Classifier, logits: Tensor) -> list[tuple[str, float]]:
    """The prediction for each row of logits and its probability; several classes, or none, if the model allows that."""
    probabilities = probabilities_of(classifier, logits)
    if not classifier.head.multiple:
        sure, best = probabilities.max(1)
        return [(classifier.classes[number], value) for number, value in zip(best.tolist(), sure.tolist(), strict=True)]
    ticked = probabilities >= torch.tensor(classifier.head.thresholds)
    sure = torch.where(ticked, probabilities, 1 - probabilities).min(1).values
    names = [
        " + ".join(sorted(name for name, tick in zip(classifier.classes, row, strict=True) if tick))
        for row in ticked.tolist()
    ]
    return list(zip(names, sure.tolist(), strict=True))
