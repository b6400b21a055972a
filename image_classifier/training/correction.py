"""One corrected image: the head is trained again on the known embeddings, so that the model gets it right."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from image_classifier.data.dataset import Sample, classes_of, held_out, targets_of
from image_classifier.evaluation.metrics import hits
from image_classifier.nets.classifier import Classifier, Head
from image_classifier.training.sgd import Hyperparameters, train_head

HEAVIER = 4
MAX_WEIGHT = HEAVIER**4  # an image that is not learned as if it were there so often is not learned at all


@dataclass(frozen=True)
class Correction:
    """The corrected classifier, and what came of it."""

    classifier: Classifier
    learned: bool  # whether the image is right now
    held_out: int  # other images, which neither head has seen, and the share of them that is right
    accuracy_before: float
    accuracy_after: float


def correct(classifier: Classifier, samples: Sequence[Sample], embeddings: Tensor, corrected: Sample) -> Correction:
    """Trains the head again; the corrected image, one of the samples, counts as often as is needed to be right.

    So do earlier corrections. Which others still hold is judged by heads without the held-out images,
    but with the corrected one. Figures and calibration stay as training left them.
    """
    told = Hyperparameters(**classifier.record["settings"])
    targets = targets_of([sample.label for sample in samples], classifier.classes)
    digests = [sample.image.digest for sample in samples]
    weights: dict[str, int] = dict(classifier.record.get("corrections", {}))

    def train(chosen: Tensor) -> Head:
        repeats = torch.tensor([weights.get(digest, 1) for digest in digests])[chosen]
        known = embeddings[chosen], targets[chosen], len(classifier.classes)
        head = train_head(*known, told, lambda record: None, repeats=repeats)
        return replace(head, temperature=classifier.head.temperature, thresholds=classifier.head.thresholds)

    def wrong(head: Head) -> list[str]:
        right = hits(head(embeddings), targets, head.thresholds).tolist()
        return [digest for digest, is_right in zip(digests, right, strict=True) if digest in weights and not is_right]

    everything = torch.ones(len(digests), dtype=torch.bool)
    weights.setdefault(corrected.image.digest, 1)
    served = train(everything)
    # Of earlier corrections the new one may have undone one, so all are looked at.
    while light := [digest for digest in wrong(served) if weights[digest] < MAX_WEIGHT]:
        weights |= {digest: weights[digest] * HEAVIER for digest in light}
        served = train(everything)
    learned = corrected.image.digest not in wrong(served)
    out = torch.tensor(held_out(samples))
    out &= torch.tensor([digest not in weights for digest in digests])
    judge = train(~out)
    before, after = (_accuracy(head, embeddings[out], targets[out]) for head in (classifier.evaluation_head, judge))
    counts = Counter(name for sample in samples for name in classes_of(sample.label))
    record = {
        **classifier.record,
        "labels": {name: counts[name] for name in classifier.classes},
        "corrections": weights,
    }
    done = replace(classifier, head=served, evaluation_head=judge, record=record)
    return Correction(done, learned, int(out.sum()), before, after)


def _accuracy(head: Head, embeddings: Tensor, targets: Tensor) -> float:
    return float(hits(head(embeddings), targets, head.thresholds).float().mean()) if len(targets) else float("nan")
