"""What first guesses have in common: they are calibrated by labels, and dropped once labels teach more."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from image_classifier.data.dataset import targets_of
from image_classifier.evaluation.metrics import brier_score, fit_temperature
from image_classifier.nets.classifier import Classifier, Head

FEWEST = 2  # choices that can be guessed: one alone would get all images
IMPOSSIBLE = -20.0  # the logarithm of a probability


class GuessHead(Head):
    """A head that no label has trained."""


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
