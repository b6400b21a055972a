"""A few new labels change a head that has learned many, without training on all of these."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import Tensor

from image_classifier.data.dataset import Label, Sample, record_of, sample_of
from image_classifier.data.image_file import ImageFile
from image_classifier.embedding.lane import InferenceLane
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.nets.classifier import Backbone, Classifier, load_backbone
from image_classifier.training import update
from image_classifier.training.classifier_head import learn_head
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.labels import order_classes
from image_classifier.training.update import Updated, anchors_of, learn_changes

LABELS = 600


def sample(number: int, label: Label) -> Sample:
    return Sample(ImageFile(Path("gone"), sha256(str(number).encode()).hexdigest()), label, str(number))


def embedding(backbone: Backbone, number: int, looks_like: Label) -> Tensor:
    """Near the center of the label's letters."""
    centers = torch.rand(3, backbone.size, generator=torch.Generator().manual_seed(0))
    center = sum((centers["abc".index(name)] for name in looks_like), torch.zeros(backbone.size))
    return center + 0.3 * torch.randn(backbone.size, generator=torch.Generator().manual_seed(number))


@dataclass
class Known:
    """A trained classifier, its samples, and the embeddings of all images in a cache."""

    classifier: Classifier
    samples: list[Sample]
    lane: InferenceLane

    def learn(
        self, *changed: Sample, samples: Sequence[Sample] | None = None, corrected: Sequence[str] = ()
    ) -> Updated | None:
        names = {one.name for one in changed}
        kept = [one for one in (self.samples if samples is None else samples) if one.name not in names]
        known, now = ([record_of(one) for one in some] for some in (self.samples, [*kept, *changed]))
        images = {one.image.digest: one.image for one in (*kept, *changed)}
        return learn_changes(self.lane, self.classifier, known, now, images, corrected)

    def answers(self, classifier: Classifier, numbers: Sequence[int]) -> list[str]:
        """What is said about images that look like a, b and c in turn."""
        shown = [embedding(classifier.backbone, number, "abc"[number % 3]) for number in numbers]
        return [classifier.classes[answer] for answer in classifier.head(torch.stack(shown)).argmax(1).tolist()]


def learned(labels: Sequence[Label]) -> tuple[Classifier, list[Sample]]:
    """A classifier of images that look like their labels."""
    backbone = load_backbone("none", 32)
    samples = [sample(number, label) for number, label in enumerate(labels)]
    embeddings = torch.stack([embedding(backbone, number, label) for number, label in enumerate(labels)])
    classes = order_classes(samples, (), "abc")
    embedded = EmbeddedSamples(samples, embeddings, {})
    return learn_head(backbone, embedded, classes, Hyperparameters(epochs=5), lambda record: None), samples


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "FEWEST_LABELS", 300)
    monkeypatch.setattr(update, "ANCHORS", 60)


@pytest.fixture(scope="module")
def trained() -> tuple[Classifier, list[Sample]]:
    return learned(["a", "b", "c"] * (LABELS // 3))


@pytest.fixture
def known(trained: tuple[Classifier, list[Sample]], lane: InferenceLane) -> Known:
    """The trained classifier; its 600 images and the next 30 look like a, b and c in turn."""
    classifier, samples = trained
    digests = [sample(number, "a").image.digest for number in range(LABELS + 30)]
    looks = [embedding(classifier.backbone, number, "abc"[number % 3]).numpy() for number in range(LABELS + 30)]
    lane._cache.put(classifier.backbone.fingerprint, zip(digests, looks, strict=True))
    return Known(classifier, samples, lane)


def test_changed_and_new_labels_count_at_once_and_others_stay(known: Known) -> None:
    changed = [sample(0, "b"), sample(LABELS, "c")]
    updated = known.learn(*changed)

    assert updated is not None
    assert updated.changed == changed
    for number, label in ((0, 1), (LABELS, 2)):
        shown = embedding(known.classifier.backbone, number, "a")[None]
        before, after = (one.head(shown).softmax(1)[0, label] for one in (known.classifier, updated.classifier))
        assert after > before
    others = range(1000, 1300)
    right = [
        said == "abc"[number % 3]
        for number, said in zip(others, known.answers(updated.classifier, others), strict=True)
    ]
    assert sum(right) / len(right) > 0.98


def test_updated_head_is_near_one_that_learned_all_labels(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    """On new images, it moves in the same direction, and about as far."""
    monkeypatch.setattr(update, "ANCHORS", LABELS)
    changed = [sample(number, "b") for number in range(0, 60, 3)]
    updated = known.learn(*changed)
    assert updated is not None
    backbone = known.classifier.backbone
    samples = [sample_of(record) for record in updated.samples]
    embeddings = torch.stack([embedding(backbone, int(one.name), "abc"[int(one.name) % 3]) for one in samples])
    embedded = EmbeddedSamples(samples, embeddings, {})
    whole = learn_head(backbone, embedded, ("a", "b", "c"), Hyperparameters(epochs=5), lambda record: None)
    shown = torch.stack([embedding(backbone, number, "a") for number in range(1000, 1100)])
    before, after, wanted = (
        (one.head.weight @ shown.T + one.head.bias[:, None]).softmax(0)[1]
        for one in (known.classifier, updated.classifier, whole)
    )
    moved, should = float((after - before).mean()), float((wanted - before).mean())
    assert 0.5 < moved / should < 1.5


def test_metrics_say_how_many_labels_they_lack_and_counts_are_of_all(known: Known) -> None:
    once = known.learn(sample(0, "b"), sample(LABELS, "a"))
    assert once is not None
    later = replace(known, classifier=once.classifier, samples=list(map(sample_of, once.samples)))
    twice = later.learn(sample(LABELS + 1, "b"))

    assert twice is not None
    assert twice.changed == [sample(LABELS + 1, "b")]
    record = twice.classifier.record
    assert record["figures"] == {**known.classifier.record["figures"], "labels_since": 3}
    assert record["labels"] == {"a": 200, "b": 202, "c": 200}
    assert record["sources"] == {"person": 602, "group": 0, "unseen": 0}
    assert torch.equal(twice.classifier.evaluation_head.weight, known.classifier.evaluation_head.weight)


def test_image_that_cannot_be_read_is_left_out(known: Known) -> None:
    unreadable, readable = sample(LABELS + 500, "a"), sample(LABELS, "a")
    updated = known.learn(unreadable, readable)

    assert updated is not None
    assert (updated.changed, list(updated.broken)) == ([readable], [unreadable])
    assert record_of(unreadable) not in updated.samples
    assert known.learn(unreadable) is None


def test_all_labels_must_be_learned_after_other_changes(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    assert known.learn() is None  # nothing is new
    assert known.learn(sample(LABELS, "a"), samples=known.samples[1:]) is None  # a label is gone
    assert known.learn(sample(0, "d")) is None  # a new class
    without_c = [replace(one, label="a") if one.label == "c" else one for one in known.samples]
    monkeypatch.setattr(update, "CHANGED_SHARE", 1.0)
    assert known.learn(samples=without_c) is None  # a class without labels
    assert known.learn(*(sample(number, "b") for number in range(0, 30, 3))) is not None
    monkeypatch.setattr(update, "MOST_CHANGES", 9)
    assert known.learn(*(sample(number, "b") for number in range(0, 30, 3))) is None
    monkeypatch.setattr(update, "FEWEST_LABELS", LABELS + 1)
    assert known.learn(sample(0, "b")) is None


def test_limit_on_changes_counts_those_of_earlier_updates(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    once = known.learn(*(sample(number, "b") for number in range(0, 60, 3)))
    assert once is not None
    later = replace(known, classifier=once.classifier, samples=list(map(sample_of, once.samples)))
    assert later.learn(*(sample(number, "c") for number in range(1, 30, 3))) is not None
    assert later.learn(*(sample(number, "c") for number in range(1, 36, 3))) is None  # 32 of 600


def test_several_classes_for_an_image_are_learned_from_all_labels(lane: InferenceLane) -> None:
    known = Known(*learned([frozenset("a"), frozenset("ab"), frozenset("c")] * (LABELS // 3)), lane)
    assert known.learn(sample(0, frozenset("c"))) is None


def test_corrected_image_must_be_classified_correctly(known: Known) -> None:
    right, other = sample(LABELS, "a"), replace(sample(3, "c"), name="")

    updated = known.learn(right, corrected=[right.image.digest])

    assert updated is not None
    assert updated.classifier.record["corrections"] == {right.image.digest: 1}
    assert known.learn(other, corrected=[other.image.digest]) is None  # another sample says that it is an a


def test_each_class_has_as_many_anchors_and_they_stand_for_all_images(known: Known) -> None:
    rare = [*known.samples, *(sample(number, "d") for number in range(LABELS, LABELS + 5))]
    records = [record_of(one) for one in rare]
    anchors, images = anchors_of(records)

    assert [one["label"] for one in anchors] == ["a"] * 15 + ["b"] * 15 + ["c"] * 15 + ["d"] * 5
    assert images.sum() == len(rare)
    assert anchors_of(records[::-1])[0] == [one for label in "dcba" for one in anchors if one["label"] == label]
