"""Corrects one image: trains the head again on the known embeddings, so that the model gets the image right."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from image_classifier.data.dataset import Sample, held_out, targets_of
from image_classifier.errors import UsersError
from image_classifier.evaluation.metrics import hits
from image_classifier.nets.classifier import Classifier, Head
from image_classifier.progress import ignore
from image_classifier.training.head import train_head
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.labels import count_labels, label_weights

HEAVIER = 4
MAX_WEIGHT = HEAVIER**4  # if an image isn't learned with this weight, it can't be learned


@dataclass(frozen=True)
class Correction:
    """The corrected classifier and the result of the correction."""

    classifier: Classifier
    learned: bool  # whether the image is now classified correctly
    held_out: int  # the number of other images that neither head has seen; the accuracies (0 to 1) are on these
    accuracy_before: float
    accuracy_after: float


def correct(classifier: Classifier, samples: Sequence[Sample], embeddings: Tensor, corrected: Sample) -> Correction:
    """Trains the head again; the corrected image, one of the samples, gets the weight it needs to be
    classified correctly.

    So do earlier corrections. The accuracy on other images is measured with heads that have seen the
    corrected image, but not the held-out ones. Metrics and calibration stay as they were after training.
    Raises UsersError if a newer release has trained the classifier with settings that are unknown here.
    """
    settings = classifier.record["settings"]
    if unknown := settings.keys() - {field.name for field in fields(Hyperparameters)}:
        raise UsersError(
            f"can't retrain the model, because a newer release trained it with settings that this release doesn't have "
            f"({', '.join(sorted(unknown))}): install the newer release, or train again"
        )
    hyperparameters = Hyperparameters(**settings)
    targets = targets_of([sample.label for sample in samples], classifier.classes)
    digests = [sample.image.digest for sample in samples]
    weights: dict[str, int] = dict(classifier.record.get("corrections", {}))
    counted, scales = label_weights(samples), classifier.backbone.scales(embeddings.shape[1])

    def train(chosen: Tensor) -> Head:
        repeats = torch.tensor([weights.get(digest, 1) for digest in digests])[chosen]
        known = embeddings[chosen], targets[chosen], len(classifier.classes)
        head = train_head(*known, hyperparameters, ignore, repeats=repeats, weights=counted[chosen], scales=scales)
        return replace(head, temperature=classifier.head.temperature, thresholds=classifier.head.thresholds)

    def wrong(head: Head) -> list[str]:
        right = hits(head(embeddings), targets, head.thresholds).tolist()
        return [digest for digest, is_right in zip(digests, right, strict=True) if digest in weights and not is_right]

    everything = torch.ones(len(digests), dtype=torch.bool)
    weights.setdefault(corrected.image.digest, 1)
    served = train(everything)
    # The new correction may have undone an earlier one, so check all of them.
    while light := [digest for digest in wrong(served) if weights[digest] < MAX_WEIGHT]:
        weights |= {digest: weights[digest] * HEAVIER for digest in light}
        served = train(everything)
    learned = corrected.image.digest not in wrong(served)
    out = torch.tensor(held_out(samples)) & torch.tensor([digest not in weights for digest in digests])
    looked_at = torch.tensor([sample.evaluates for sample in samples])
    evaluation_head = train(looked_at & ~out if (looked_at & ~out).any() else ~out)
    out &= looked_at
    before, after = (
        _accuracy(head, embeddings[out], targets[out]) for head in (classifier.evaluation_head, evaluation_head)
    )
    record = {**classifier.record, **count_labels(samples, classifier.classes), "corrections": weights}
    done = replace(classifier, head=served, evaluation_head=evaluation_head, record=record)
    return Correction(done, learned, int(out.sum()), before, after)


def _accuracy(head: Head, embeddings: Tensor, targets: Tensor) -> float:
    return float(hits(head(embeddings), targets, head.thresholds).float().mean()) if len(targets) else float("nan")
