"""A first guess: what ImageNet's classes say about choices, its calibration, and when it is dropped."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from image_classifier.evaluation.metrics import brier_score
from image_classifier.first_guess.guess import (
    GuessHead,
    calibrated,
    is_guess,
    logits_of,
    with_others,
)
from image_classifier.first_guess.imagenet_guess import SHARPNESS, TEMPERATURE, guess_from_imagenet
from image_classifier.first_guess.words import classes_of_choices
from image_classifier.nets.classifier import Backbone, Classifier, Head

NAMES = {"Dog": ["Dog"], "Zebra": ["Zebra"], "Crack": ["Crack"]}
DOGS, [ZEBRA] = (classes_of_choices(NAMES)[name] for name in ("Dog", "Zebra"))
SIZE = 1000


@pytest.fixture
def guess(backbone: Backbone) -> Classifier:
    """A guess about embeddings that are the logits of ImageNet's classes."""
    made = guess_from_imagenet(backbone, Head(torch.eye(SIZE), torch.zeros(SIZE)), NAMES)
    assert made is not None
    return made


def image_of(number: int, strength: float = 12.0) -> Tensor:
    return strength * torch.nn.functional.one_hot(torch.tensor(number), SIZE).float()


def test_choice_gets_the_squared_probabilities_of_its_classes(guess: Classifier) -> None:
    logits = torch.randn(5, SIZE, generator=torch.Generator().manual_seed(0))
    squares = logits.softmax(1) ** SHARPNESS
    shares = torch.stack([squares[:, DOGS].sum(1) / len(DOGS) ** 0.5, squares[:, ZEBRA]], 1) ** (1 / TEMPERATURE)

    assert guess.classes == ("Dog", "Zebra")
    torch.testing.assert_close(guess.head(logits).softmax(1), shares / shares.sum(1, keepdim=True))
    assert guess.head(torch.stack([image_of(DOGS[7]), image_of(ZEBRA)])).argmax(1).tolist() == [0, 1]
    assert guess.head(torch.empty(0, SIZE)).shape == (0, 2)


@pytest.mark.parametrize("names", [{}, {"Zebra": ["Zebra"]}, {"Zebra": ["Zebra"], "Riss": ["Riss"]}])
def test_no_guess_without_two_choices_that_have_classes(backbone: Backbone, names: dict[str, list[str]]) -> None:
    assert guess_from_imagenet(backbone, Head(torch.eye(SIZE), torch.zeros(SIZE)), names) is None


def test_is_guess_recognizes_only_first_guesses(guess: Classifier) -> None:
    assert is_guess(guess)
    assert not is_guess(None)
    assert not is_guess(replace(guess, head=Head(torch.eye(2), torch.zeros(2))))


LABELS = ["Dog", "Zebra"] * 10 + ["Crack"]
VOTES = list(map(str, range(21)))
IMAGES = torch.stack([image_of(number) for number in [DOGS[3], ZEBRA] * 10 + [5]])


def test_labels_calibrate_the_guess(guess: Classifier) -> None:
    wrong = IMAGES[[1, 0, *range(2, 21)]]  # two of the labels
    sure, unsure = (calibrated(guess, images, LABELS, VOTES, brier=2.0) for images in (IMAGES, wrong))
    assert sure is not None
    assert unsure is not None
    assert sure.head.temperature < unsure.head.temperature
    assert sure.evaluation_head is sure.head
    assert isinstance(sure.head, GuessHead)


def test_guess_is_dropped_once_what_was_learned_is_closer_to_the_labels(guess: Classifier) -> None:
    kept = calibrated(guess, IMAGES, LABELS, VOTES, brier=2.0)
    assert kept is not None
    classes = with_others(guess.classes, LABELS)
    assert classes == ("Dog", "Zebra", "Crack")
    score = brier_score(logits_of(kept, IMAGES, classes), torch.tensor([0, 1] * 10 + [2]), VOTES)
    assert 0.05 < score < 0.2, "it can't know a crack"
    assert calibrated(guess, IMAGES, LABELS, VOTES, brier=score * 1.001) is not None
    assert calibrated(guess, IMAGES, LABELS, VOTES, brier=score) is None
    assert calibrated(guess, IMAGES, ["Crack"] * 21, VOTES, brier=2.0) is None
