"""One corrected image counts at once, whatever the other labels say."""

from hashlib import sha256
from pathlib import Path

import pytest
import torch

from image_classifier.data.dataset import Label, Sample
from image_classifier.data.image_file import ImageFile
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.nets.classifier import load_backbone
from image_classifier.training.classifier_head import learn_head
from image_classifier.training.correction import correct
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.labels import order_classes


def sample(number: int, label: Label) -> Sample:
    return Sample(ImageFile(Path("x"), sha256(str(number).encode()).hexdigest()), label)


def labeled(labels: list[Label]) -> EmbeddedSamples:
    """Embeddings around a center for each letter of their labels."""
    centers = torch.rand(3, 512, generator=torch.Generator().manual_seed(0))
    rows = torch.stack([sum((centers["abc".index(name)] for name in label), torch.zeros(512)) for label in labels])
    noise = torch.randn(len(labels), 512, generator=torch.Generator().manual_seed(1))
    return EmbeddedSamples([sample(number, label) for number, label in enumerate(labels)], rows + 0.3 * noise, {})


@pytest.mark.parametrize(
    ("labels", "label"),
    [
        (["a", "b", "c"] * 10, "b"),
        (["a", "b"] * 3, "b"),
        (["a"] * 90 + ["b"] * 8 + ["c"] * 2, "c"),
        ([frozenset("a"), frozenset("ab"), frozenset("c")] * 10, frozenset("b")),
    ],
    ids=["balanced", "few", "rare", "several choices"],
)
def test_one_correction_is_learned_at_once_and_the_others_stay(labels: list[Label], label: Label) -> None:
    """The first image, which looks like an a, is said to be something else."""
    embedded = labeled(labels)
    classes = order_classes(embedded.samples, (), "abc")
    before = learn_head(load_backbone("none", 32), embedded, classes, Hyperparameters(), lambda record: None)
    corrected = sample(0, label)
    samples = [corrected, *embedded.samples[1:]]

    after = correct(before, samples, embedded.embeddings, corrected)

    assert after.learned
    logits = after.classifier.head(embedded.embeddings)
    if isinstance(label, str):
        answers = [classes[number] for number in logits.argmax(1)]
    else:
        answers = [frozenset(c for c, on in zip(classes, row, strict=True) if on) for row in logits >= 0]
    assert answers[0] == label
    right = [answer == one.label for answer, one in zip(answers, samples, strict=True)]
    assert sum(right) / len(right) > 0.95
