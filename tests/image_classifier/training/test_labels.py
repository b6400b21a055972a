"""Whether labels are enough to learn from, and the order of their classes."""

from pathlib import Path

import pytest

from image_classifier.data.dataset import Label, Sample
from image_classifier.data.image_file import ImageFile
from image_classifier.errors import TooFewLabels
from image_classifier.training.labels import check_enough, order_classes

SEVERAL, NONE = frozenset({"a"}), frozenset[str]()


@pytest.mark.parametrize(
    "labels", [[], ["a"] * 9, ["a", "b", "c"], [SEVERAL] * 9, [NONE] * 9, [SEVERAL, NONE, NONE]], ids=str
)
def test_too_little_to_learn_from_is_said(labels: list[Label]) -> None:
    image = ImageFile(Path("x"), "0" * 64)
    with pytest.raises(TooFewLabels, match="Too few labels to train on: label at least 4 images, "):
        check_enough([Sample(image, label) for label in labels])


@pytest.mark.parametrize("labels", [["a", "b", "c", "d"], ["a"] * 9 + ["b"], [SEVERAL] * 9 + [NONE]], ids=str)
def test_one_image_of_a_class_is_enough(labels: list[Label]) -> None:
    image = ImageFile(Path("x"), "0" * 64)
    check_enough([Sample(image, label) for label in labels])


def test_known_classes_keep_their_places() -> None:
    image = ImageFile(Path("x"), "0" * 64)
    samples = [Sample(image, name) for name in ("new", "b", "a", "other")]

    assert order_classes(samples, ("b", "gone", "a"), ("a", "new", "unused")) == ("b", "a", "new", "other")
