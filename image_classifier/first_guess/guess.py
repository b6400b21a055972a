"""A classifier without training: it predicts the choices that ImageNet's classes are kinds of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from image_classifier.data.dataset import targets_of
from image_classifier.evaluation.metrics import brier_score, fit_temperature
from image_classifier.first_guess.words import classes_of_choices
from image_classifier.nets.classifier import Backbone, Classifier, Head

FEWEST = 2  # choices with classes: one alone would get all images
# How classes decide for a choice, chosen on the benchmark's *themes* and *stamps*: it gets the sum of its classes'
# squared probabilities, divided by the square root of their number. The temperature is that of *themes*.
SHARPNESS, SHARE, TEMPERATURE = 2.0, 0.5, 3.75
IMPOSSIBLE = -20.0  # the logarithm of a probability


@dataclass(frozen=True)
class GuessHead(Head):
    """ImageNet's last layer, with only the classes that belong to a choice; it predicts choices.

    weight [classes, size] and bias [classes], grouped by choice; `sizes` is the number of classes of each choice.
    """

    sizes: tuple[int, ...] = ()

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Embeddings [n, size] → logits [n, choices]."""
        logits = torch.split(embeddings @ self.weight.T + self.bias, list(self.sizes), dim=1)
        sums = torch.stack([torch.logsumexp(SHARPNESS * some, 1) for some in logits], 1)
        return (sums - SHARE * torch.tensor(self.sizes).log()) / self.temperature


def make_guess(
    backbone: Backbone, imagenet: Head, names: Mapping[str, Sequence[str]], temperature: float = TEMPERATURE
) -> Classifier | None:
    """The classifier for choices with these names; None if fewer than two of them are ordinary words with classes.

    `imagenet` is the network's own last layer. There is no guess for the other choices.
    """
    if len(found := classes_of_choices(names)) < FEWEST:
        return None
    rows = torch.tensor([number for numbers in found.values() for number in numbers])
    sizes = tuple(map(len, found.values()))
    head = GuessHead(imagenet.weight[rows], imagenet.bias[rows], temperature, sizes=sizes)
    return Classifier(backbone, head, head, tuple(found), {})


def is_guess(classifier: Classifier | None) -> bool:
    return classifier is not None and isinstance(classifier.head, GuessHead)


def calibrated(
    guess: Classifier, embeddings: Tensor, labels: Sequence[str], votes: Sequence[str], brier: float
) -> Classifier | None:
    """The guess with the temperature that fits labeled images [n, size]; None if it is to be dropped.

    It is dropped if its Brier score isn't lower than `brier`, that of a head that has learned other labels. `votes`
    names the images' groups of near-duplicates.
    """
    classes = with_others(guess.classes, labels)
    targets = targets_of(labels, classes)
    known = targets < len(guess.classes)
    if not known.any():
        return None
    logits = replace(guess.head, temperature=1.0)(embeddings[known])
    voters = [vote for vote, is_known in zip(votes, known.tolist(), strict=True) if is_known]
    head = replace(guess.head, temperature=fit_temperature(logits, targets[known], voters))
    fitted = replace(guess, head=head, evaluation_head=head)
    return fitted if brier_score(logits_of(fitted, embeddings, classes), targets, votes) < brier else None


def logits_of(guess: Classifier, embeddings: Tensor, classes: Sequence[str]) -> Tensor:
    """The guess's logits [n, classes] for embeddings [n, size]; classes that it doesn't know get a very low one.

    `classes` are those of `with_others`.
    """
    logits = guess.head(embeddings).log_softmax(1)
    return torch.cat([logits, torch.full((len(logits), len(classes) - logits.shape[1]), IMPOSSIBLE)], 1)


def with_others(classes: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """The classes, followed by those of the labels that aren't among them."""
    return tuple(dict.fromkeys([*classes, *sorted(set(labels))]))
