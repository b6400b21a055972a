"""Updates a head with a few new labels, in a time that doesn't depend on how many it has learned."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torch.optim import LBFGS

from image_classifier.data.dataset import Record, Sample, sample_of, source_of, targets_of
from image_classifier.data.image_file import ImageFile
from image_classifier.data.preprocessing import ImageError
from image_classifier.embedding.cache import Embedding
from image_classifier.embedding.lane import InferenceLane
from image_classifier.evaluation.metrics import hits
from image_classifier.nets.classifier import Classifier, Head
from image_classifier.threads import one_thread
from image_classifier.training.head import scale_of, weight_decay
from image_classifier.training.labels import counts_of, label_weights

FEWEST_LABELS = 1000  # with fewer, training all heads on all of them takes less than a second
MOST_CHANGES, CHANGED_SHARE = 500, 0.05  # labels since the head was trained on all: with more, it must be again
ANCHORS = 2048  # images on which the head must answer as before
FEWEST_ANCHORS = 8  # of a class
STEPS = 20


@dataclass(frozen=True)
class Updated:
    """A classifier whose served head has been updated, and the samples that it knows."""

    classifier: Classifier
    samples: list[Record]
    changed: list[Sample]  # those of them that it didn't know before
    broken: dict[Sample, ImageError]  # samples whose image can't be read


def learn_changes(
    lane: InferenceLane,
    classifier: Classifier,
    known: Sequence[Record],
    samples: Sequence[Record],
    images: Mapping[str, ImageFile],
    corrected: Collection[str],
) -> Updated | None:
    """The classifier after it has learned the changed samples in addition to the `known` ones; None if it can't.

    `learn_head` is needed instead if there are few labels, too many changes, none, or several classes for an image; if
    labels were removed, or a class is new or gone; if an image whose digest is in `corrected` would be misclassified;
    or if the embedding of an image is missing that isn't among the `images`, which are known by digest. The evaluation
    head, the metrics and the calibration stay, and `labels_since` in the metrics says how many labels came after they
    were measured.
    """
    fresh = _changed(known, samples)
    record, classes = classifier.record, classifier.classes
    if not fresh or len(samples) < FEWEST_LABELS or classifier.head.multiple:
        return None

    def with_image(record: Record) -> Sample:
        sample = sample_of(record)
        return replace(sample, image=images.get(record["digest"], sample.image))

    changed = [with_image(record) for record in fresh.values()]
    found = lane.embed(classifier.backbone, [sample.image for sample in changed], background=True)
    broken = {sample: one for sample, one in zip(changed, found, strict=True) if isinstance(one, ImageError)}
    unreadable = {key for key, sample in zip(fresh, changed, strict=True) if sample in broken}
    samples = [record for record in samples if _key(record) not in unreadable] if broken else list(samples)
    changed = [sample for sample in changed if sample not in broken]
    since = record["figures"].get("labels_since", 0) + len(changed)
    if not changed or since > min(MOST_CHANGES, CHANGED_SHARE * len(samples)):
        return None
    labels = [record["label"] for record in samples]
    if not all(isinstance(label, str) for label in labels) or set(labels) != set(classes):
        return None
    unchanged, images_of = anchors_of([record for record in samples if _key(record) not in fresh])
    anchors = [with_image(record) for record in unchanged]
    checked = [with_image(record) for record in samples if record["digest"] in corrected] if corrected else []
    vectors: list[Embedding] = []
    for one in lane.embed(
        classifier.backbone, [sample.image for sample in (*anchors, *changed, *checked)], background=True
    ):
        if isinstance(one, ImageError):
            return None
        vectors.append(one)
    embeddings = torch.from_numpy(np.stack(vectors))
    counts, learned = counts_of(labels, map(source_of, samples), classes), len(anchors) + len(changed)
    head = update_head(classifier, counts["labels"], anchors, images_of, changed, embeddings[:learned])
    if checked:
        targets = targets_of([sample.label for sample in checked], classes)
        if not hits(head(embeddings[learned:]), targets).all():
            return None
    weights = {digest: record.get("corrections", {}).get(digest, 1) for digest in corrected}
    figures = {**record["figures"], "labels_since": since}
    record = {**record, **counts, "figures": figures, **({"corrections": weights} if weights else {})}
    return Updated(replace(classifier, head=head, record=record), samples, changed, broken)


def _changed(known: Sequence[Record], samples: Sequence[Record]) -> dict[str, Record]:
    """The samples that are new, or have another label or image, by their key; none if a known one is gone."""
    before, now = ({_key(record): record for record in some} for some in (known, samples))
    if len(now) < len(samples) or not before.keys() <= now.keys():
        return {}
    return {key: record for key, record in now.items() if not _is_same(before.get(key), record)}


def _key(record: Record) -> str:
    key: str = record["name"] or record["digest"]
    return key


def _is_same(before: Record | None, now: Record) -> bool:
    return before is now or (before is not None and _taught(before) == _taught(now))


def _taught(record: Record) -> tuple[object, ...]:
    return record["digest"], record["label"], source_of(record) != "unseen"


def anchors_of(samples: Sequence[Record]) -> tuple[list[Record], Tensor]:
    """Some of the samples, about equally many of each class, and how many images each stands for [n].

    The same samples give the same anchors.
    """
    classes: dict[str, list[Record]] = defaultdict(list)
    for record in samples:
        classes[record["label"]].append(record)
    most = max(FEWEST_ANCHORS, ANCHORS // len(classes))
    chosen = [nsmallest(most, some, key=itemgetter("digest")) for some in classes.values()]
    images = [len(classes[some[0]["label"]]) / len(some) for some in chosen for _ in some]
    return [record for some in chosen for record in some], torch.tensor(images)


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
    decay = weight_decay(sum(counts.values()))
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
