"""The learning curve of heads that learned parts of the labels: what evaluates each image, and what it costs."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from image_classifier.evaluation.forecast import FEWEST_VOTES, Forecast
from image_classifier.training import learning_curve
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.learning_curve import EvaluatedImages, forecast_accuracy

QUICK = Hyperparameters(epochs=4)


def clusters(images: int, classes: int) -> tuple[Tensor, Tensor]:
    """Embeddings around a center for each class, far enough apart to be told from a few labels."""
    generator = torch.Generator().manual_seed(images)
    targets = torch.arange(images) % classes
    return 4 * torch.eye(classes, 8)[targets] + torch.randn(images, 8, generator=generator), targets


def found(
    images: int, classes: int, *, votes: list[str] | None = None, right: float = 1.0, share: float = 0.8
) -> Forecast | None:
    embeddings, targets = clusters(images, classes)
    folds = torch.arange(images) // classes % 5
    names = [str(row) for row in range(images)] if votes is None else votes
    correct = torch.arange(images) < right * images
    return forecast_accuracy(EvaluatedImages(embeddings, targets, folds, correct, names), classes, QUICK, share)


@pytest.mark.parametrize(("images", "classes", "share"), [(40, 2, 0.9), (100, 5, 0.9), (300, 3, 0.8)])
def test_curve_has_points_at_one_fifth_two_fifths_and_the_share_in_cross_validation(
    images: int, classes: int, share: float
) -> None:
    forecast = found(images, classes, right=0.75, share=share)

    assert forecast is not None
    assert [point.labels for point in forecast.curve] == [images / 5, 2 * images / 5, share * images]
    assert forecast.curve[-1].accuracy == 0.75
    assert forecast.curve[1].accuracy > 1 / classes
    assert [one.more for one in forecast.expected] == sorted({100, 200, images})


def test_heads_never_learn_the_images_they_are_evaluated_on() -> None:
    """Labels without any pattern can't be right by more than chance, unless they were learned by heart."""
    labels = torch.randint(4, (400,), generator=torch.Generator().manual_seed(3))
    embeddings = torch.randn(400, 600, generator=torch.Generator().manual_seed(4))
    folds, votes = torch.arange(400) % 5, [str(row) for row in range(400)]

    images = EvaluatedImages(embeddings, labels, folds, labels == 0, votes)
    forecast = forecast_accuracy(images, 4, Hyperparameters(), 0.8)

    assert forecast is not None
    assert all(point.accuracy < 0.33 for point in forecast.curve[:2])


def test_near_duplicates_have_one_vote() -> None:
    copies = found(200, 2, votes=[str(row // 4) for row in range(200)], right=0.5)
    alone = found(200, 2, right=0.5)
    assert copies is not None
    assert alone is not None
    assert copies.expected[0].high - copies.expected[0].low > alone.expected[0].high - alone.expected[0].low


def test_only_images_that_are_drawn_at_random_have_a_vote() -> None:
    embeddings, targets = clusters(200, 2)
    folds, votes = torch.arange(200) // 2 % 5, [str(row) for row in range(200)]
    right, drawn = torch.arange(200) < 100, torch.arange(200) >= 60

    images = EvaluatedImages(embeddings, targets, folds, right, votes, drawn)
    of_sample = forecast_accuracy(images, 2, QUICK, 0.8)

    assert of_sample is not None
    assert (of_sample.labels, of_sample.random_sample) == (200, True)
    assert of_sample.curve[-1].accuracy == pytest.approx(40 / 140)
    assert forecast_accuracy(replace(images, drawn=torch.arange(200) >= 165), 2, QUICK, 0.8) is None


def test_too_few_votes_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(learning_curve, "train_heads")
    assert found(200, 2, votes=[str(row % (FEWEST_VOTES - 1)) for row in range(200)]) is None


def test_class_that_a_part_lacks_is_wrong_there() -> None:
    embeddings, targets = clusters(100, 2)
    folds = torch.arange(100) // 2 % 5
    targets[(folds == 4).nonzero()[0]] = 2  # one image, in a fold that no part learns

    right, votes = torch.ones(100, dtype=torch.bool), [str(row) for row in range(100)]
    forecast = forecast_accuracy(EvaluatedImages(embeddings, targets, folds, right, votes), 3, QUICK, 0.8)

    assert forecast is not None
    assert max(point.accuracy for point in forecast.curve[:2]) < 1


@pytest.mark.parametrize("images", [100, 5000])
def test_it_costs_a_fraction_of_a_version(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With five folds, a version has one head that learns all labels, and six that learn about four fifths of them."""
    learned: list[int] = []
    train = learning_curve.train_heads

    def counted(*args: Any, **kwargs: Any) -> Any:
        learned.extend(map(len, args[5]))
        return train(*args, **kwargs)

    monkeypatch.setattr(learning_curve, "train_heads", counted)

    assert found(images, 2, right=0.9) is not None
    assert sum(learned) < 0.25 * (1 + 6 * 0.8) * images
