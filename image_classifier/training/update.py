"""Updates a head with a few new labels, in a time that doesn't depend on how many it has learned."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torch.optim import LBFGS

from image_classifier.data.dataset import Sample, targets_of
from image_classifier.data.preprocessing import ImageError
from image_classifier.embedding.cache import Embedding
from image_classifier.embedding.lane import InferenceLane
from image_classifier.evaluation.metrics import hits
from image_classifier.nets.classifier import Classifier, Head
from image_classifier.threads import one_thread
from image_classifier.training.head import HEAD_DECAY, scale_of
from image_classifier.training.pipeline import count_labels, label_weights

FEWEST_LABELS = 2000  # with fewer, training the head on all of them is as quick
MOST_CHANGES, CHANGED_SHARE = 500, 0.05  # labels since the head was trained on all: with more, it must be again
ANCHORS = 2048  # images on which the head must answer as before
FEWEST_ANCHORS = 8  # of a class
STEPS = 20


@dataclass(frozen=True)
class Updated:
    """A classifier whose served head has been updated, and the samples that it knows."""

    classifier: Classifier
    samples: list[Sample]
    changed: list[Sample]  # those of them that it didn't know before
    broken: dict[Sample, ImageError]  # samples whose image can't be read


def learn_changes(
    lane: InferenceLane,
    classifier: Classifier,
    known: Sequence[Sample],
    samples: Sequence[Sample],
    corrected: Collection[str],
) -> Updated | None:
    """The classifier after it has learned the changed samples, too, besides the `known` ones; None if it can't.

    `learn_head` is needed instead if there are few labels, too many changes, none, or several classes for an image; if
    labels were removed, or a class is new or gone; or if an image whose digest is in `corrected` would be
    misclassified. The evaluation head, the metrics and the calibration stay, and `labels_since` in the metrics says how
    many labels came after they were measured.
    """
    changed = _changed(known, samples)
    record, classes = classifier.record, classifier.classes
    if not changed or len(samples) < FEWEST_LABELS or classifier.head.multiple:
        return None
    found = lane.embed(classifier.backbone, [sample.image for sample in changed], background=True)
    broken = {sample: one for sample, one in zip(changed, found, strict=True) if isinstance(one, ImageError)}
    samples = [sample for sample in samples if sample not in broken]
    changed = [sample for sample in changed if sample not in broken]
    since = record["figures"].get("labels_since", 0) + len(changed)
    if not changed or since > min(MOST_CHANGES, CHANGED_SHARE * len(samples)):
        return None
    if {sample.label for sample in samples} != set(classes):
        return None
    fresh = set(changed)
    anchors, images = anchors_of([sample for sample in samples if sample not in fresh])
    checked = [sample for sample in samples if sample.image.digest in corrected]
    vectors: list[Embedding] = []
    for one in lane.embed(
        classifier.backbone, [sample.image for sample in (*anchors, *changed, *checked)], background=True
    ):
        if isinstance(one, ImageError):
            return None
        vectors.append(one)
    embeddings = torch.from_numpy(np.stack(vectors))
    counts, learned = count_labels(samples, classes), len(anchors) + len(changed)
    head = update_head(classifier, counts["labels"], anchors, images, changed, embeddings[:learned])
    if checked:
        targets = targets_of([sample.label for sample in checked], classes)
        if not hits(head(embeddings[learned:]), targets).all():
            return None
    weights = {digest: record.get("corrections", {}).get(digest, 1) for digest in corrected}
    figures = {**record["figures"], "labels_since": since}
    record = {**record, **counts, "figures": figures, **({"corrections": weights} if weights else {})}
    return Updated(replace(classifier, head=head, record=record), samples, changed, broken)


def _changed(known: Sequence[Sample], samples: Sequence[Sample]) -> list[Sample]:
    """The samples that are new, or have another label or image; none if a known one is gone."""
    before, now = ({sample.name or sample.image.digest: sample for sample in some} for some in (known, samples))
    if len(now) < len(samples) or not before.keys() <= now.keys():
        return []
    return [sample for key, sample in now.items() if key not in before or _taught(before[key]) != _taught(sample)]


def _taught(sample: Sample) -> tuple[object, ...]:
    return sample.image.digest, sample.label, sample.evaluates


def anchors_of(samples: Sequence[Sample]) -> tuple[list[Sample], Tensor]:
    """Some of the samples, about equally many of each class, and how many images each stands for [n].

    The same samples give the same anchors.
    """
    classes: dict[object, list[Sample]] = defaultdict(list)
    for sample in samples:
        classes[sample.label].append(sample)
    most = max(FEWEST_ANCHORS, ANCHORS // len(classes))
    chosen = [sorted(some, key=lambda sample: sample.image.digest)[:most] for some in classes.values()]
    images = [len(classes[some[0].label]) / len(some) for some in chosen for _ in some]
    return [sample for some in chosen for sample in some], torch.tensor(images)


def update_head(
    classifier: Classifier,
    counts: dict[str, int],
    anchors: Sequence[Sample],
    images: Tensor,
    changed: Sequence[Sample],
    embeddings: Tensor,
) -> Head:
    """The served head after learning the `changed` samples; its answers for other images stay as they were.

    A head that was trained on all labels is close to the minimum of their loss. So its own answers for some of these
    images, the `anchors`, can stand for all labels. Each answer stands for a number of `images` [n]; together they keep
    the head where it is, without noise. `embeddings` [anchors + changed, size] are those of both, and `counts` the
    labels of each class. The loss is convex and minimized by L-BFGS; the same arguments give the same head.
    """
    head = classifier.head
    known = embeddings[: len(anchors)]
    mean, std = scale_of(known)
    std = std / classifier.backbone.scales(embeddings.shape[1])
    inputs = (embeddings - mean) / std
    start = head.weight * std, head.bias + head.weight @ mean
    wanted = one_hot(targets_of([sample.label for sample in changed], classifier.classes), len(head.bias)).float()
    before = torch.addmm(start[1], inputs[: len(anchors)], start[0].T).softmax(1)
    answers = torch.cat([before, wanted])
    # As when training on all labels, rare classes count more, and labels that nobody has looked at less.
    rarity = torch.tensor([counts[str(sample.label)] for sample in (*anchors, *changed)]).rsqrt()
    shares = label_weights([*anchors, *changed]) * torch.cat([images, torch.ones(len(changed))]) * rarity
    shares /= shares.sum()
    decay = HEAD_DECAY / sum(counts.values())
    weight, bias = (each.clone().requires_grad_() for each in start)
    optimizer = LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        losses = cross_entropy(torch.addmm(bias, inputs, weight.T), answers, reduction="none")
        total = losses @ shares + decay / 2 * (weight - start[0]).square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with one_thread():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    moved = weight.detach() / std
    return replace(head, weight=moved, bias=bias.detach() - moved @ mean)
