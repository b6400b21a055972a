"""Evaluates a saved model on labeled images: metrics, and each image's prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from image_classifier.data.dataset import Sample, classes_of, held_out, targets_of
from image_classifier.data.folders import shown
from image_classifier.data.preprocessing import ImageError
from image_classifier.embedding.lane import InferenceLane
from image_classifier.embedding.samples import embed_samples
from image_classifier.errors import UsersError
from image_classifier.evaluation.metrics import Evaluation, evaluate
from image_classifier.evaluation.predict import over_thresholds
from image_classifier.nets.classifier import Classifier
from image_classifier.nets.folder import SavedModel
from image_classifier.progress import Progress


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
    broken: dict[Sample, ImageError]

    def record(self) -> dict[str, Any]:
        left_out = {"trained_on": self.trained_on, "broken": len(self.broken)}
        return {**self.evaluation.record(), "classes": list(self.classes), "left_out": left_out}


def check_evaluable(samples: Sequence[Sample], classes: Sequence[str], *, multiple: bool) -> None:
    """Raises UsersError if a model with these classes, of which `multiple` may be right, can't be evaluated on them."""
    unknown = sorted({name for sample in samples for name in classes_of(sample.label)} - set(classes))
    if not multiple and any(len(classes_of(sample.label)) != 1 for sample in samples):
        raise UsersError(
            "the model predicts one class per image, but some of these images have several or none: pass images with "
            "one class each"
        )
    if unknown:
        raise UsersError(
            f"the model has no class {', '.join(unknown)}; its classes are {', '.join(classes)}: "
            "rename the folders to match, or move the folders of other classes elsewhere"
        )
    if not samples:
        raise UsersError("there are no images to evaluate the model on: add images of its classes")


def examine_model(lane: InferenceLane, model: SavedModel, samples: Sequence[Sample], progress: Progress) -> Examination:
    """Evaluates each image with a head that hasn't seen it; images that both heads have learned are left out.

    Raises UsersError for classes that the model doesn't know, and if no image is left.
    """
    classifier = model.classifier
    check_evaluable(samples, classifier.classes, multiple=classifier.head.multiple)
    unseen, held_out_samples, trained_on = _split(model, samples)
    embedded = embed_samples(lane, classifier.backbone, [*unseen, *held_out_samples], progress)
    kept, embeddings = embedded.samples, embedded.embeddings
    if not kept:
        example = next((f" ({shown(one.image.path)}: {why})" for one, why in embedded.broken.items()), "")
        raise UsersError(
            f"no images to evaluate the model on: of {len(samples)} images, it was trained on {trained_on}, and "
            f"{len(embedded.broken)} can't be read{example}; pass images that it wasn't trained on"
        )
    held_out_digests = {sample.image.digest for sample in held_out_samples}
    logits = classifier.head(embeddings)
    by_evaluation_head = torch.tensor([sample.image.digest in held_out_digests for sample in kept])
    logits[by_evaluation_head] = classifier.evaluation_head(embeddings[by_evaluation_head])
    thresholds = classifier.head.thresholds
    # An export's labels are sets if any of its annotations has several choices.
    labels = [classes_of(s.label) if thresholds else min(classes_of(s.label)) for s in kept]
    targets, votes = targets_of(labels, classifier.classes), [sample.vote for sample in kept]
    evaluation = evaluate(logits, targets, classifier.classes, thresholds, votes)
    answers = [Answer(sample, *answer) for sample, answer in zip(kept, answers_of(classifier, logits), strict=True)]
    return Examination(classifier.classes, evaluation, answers, trained_on, embedded.broken)


def _split(model: SavedModel, samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample], int]:
    """Images the model has never seen, those held out when it was trained, and the number that it has learned."""
    corrected = model.classifier.record.get("corrections", {})
    known = {
        sample.image.digest: out and sample.image.digest not in corrected
        for sample, out in zip(model.samples, held_out(model.samples), strict=True)
    }
    unseen = [sample for sample in samples if sample.image.digest not in known]
    held_out_samples = [sample for sample in samples if known.get(sample.image.digest)]
    return unseen, held_out_samples, len(samples) - len(unseen) - len(held_out_samples)


def probabilities_of(classifier: Classifier, logits: Tensor) -> Tensor:
    """Probabilities [n, classes], each from 0 to 1."""
    return logits.sigmoid() if classifier.head.multiple else logits.softmax(1)


def answers_of(classifier: Classifier, logits: Tensor) -> list[tuple[str, float]]:
    """The prediction for each row of logits and its probability; several classes, or none, if the model allows that."""
    probabilities = probabilities_of(classifier, logits)
    if not classifier.head.multiple:
        sure, best = probabilities.max(1)
        return [(classifier.classes[number], value) for number, value in zip(best.tolist(), sure.tolist(), strict=True)]
    ticked, sure = over_thresholds(probabilities, torch.tensor(classifier.head.thresholds))
    names = [
        " + ".join(sorted(name for name, tick in zip(classifier.classes, row, strict=True) if tick))
        for row in ticked.tolist()
    ]
    return list(zip(names, sure.tolist(), strict=True))
