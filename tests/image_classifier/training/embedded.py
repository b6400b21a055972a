"""Embeddings without images, and classifiers that learn them."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch

from image_classifier.data.dataset import Label, Sample
from image_classifier.data.image_file import ImageFile
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.nets.classifier import Backbone, Classifier
from image_classifier.training.classifier_head import learn_head
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.labels import order_classes

QUICK = Hyperparameters(epochs=8)


def silent(record: dict[str, object]) -> None:
    """Takes a progress record, which has a phase."""
    assert record["phase"]


def around(labels: Sequence[Label], noise: float = 0.3) -> EmbeddedSamples:
    """Embeddings around a centre for each class, of images that need not be there."""
    centres = torch.rand(3, 512, generator=torch.Generator().manual_seed(0))
    rows = torch.stack([sum((centres["abc".index(name)] for name in label), torch.zeros(512)) for label in labels])
    spread = torch.randn(len(labels), 512, generator=torch.Generator().manual_seed(1))
    images = [ImageFile(Path("x"), sha256(str(number).encode()).hexdigest()) for number in range(len(labels))]
    return EmbeddedSamples(
        [Sample(i, label) for i, label in zip(images, labels, strict=True)], rows + noise * spread, {}
    )


def learn(backbone: Backbone, embedded: EmbeddedSamples, hyperparameters: Hyperparameters = QUICK) -> Classifier:
    """A classifier of these samples."""
    return learn_head(backbone, embedded, order_classes(embedded.samples, (), "abc"), hyperparameters, silent)


def accepted(embedded: EmbeddedSamples, rows: range) -> EmbeddedSamples:
    """With the labels of these rows accepted in bulk."""
    samples = [replace(s, source="unseen") if row in rows else s for row, s in enumerate(embedded.samples)]
    return replace(embedded, samples=samples)


def with_classes(embedded: EmbeddedSamples, names: Sequence[str]) -> EmbeddedSamples:
    """With these classes as labels."""
    samples = [replace(sample, label=name) for sample, name in zip(embedded.samples, names, strict=True)]
    return replace(embedded, samples=samples)
