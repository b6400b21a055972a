"""Predicts images among the choices that a labeling config offers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from image_classifier.nets.classifier import Classifier
from image_classifier.settings import Score


@dataclass(frozen=True)
class ChoiceProbabilities:
    """For n images, the offered choices that the model knows, and their probabilities [n, choices].

    If several choices may be right, `thresholds` [choices] has the lowest probability at which each is chosen.
    """

    names: list[str]
    probabilities: Tensor
    thresholds: Tensor | None

    def chosen(self, score: Score) -> list[tuple[list[str], float]]:
        """For each image, the chosen names and the score, from 0 to 1."""
        if self.thresholds is not None:
            over, sure = over_thresholds(self.probabilities, self.thresholds)
            return [
                ([name for name, is_over in zip(self.names, row, strict=True) if is_over], round(score, 4))
                for row, score in zip(over.tolist(), sure.tolist(), strict=True)
            ]
        best = self.probabilities.argmax(1).tolist()
        return [
            ([self.names[choice]], sure) for choice, sure in zip(best, _scores(self.probabilities, score), strict=True)
        ]

    def doubt(self) -> Tensor:
        """[n]: how uncertain each prediction is, from 0 to 1.

        That is how close the second choice is to the first; if several may be right, how close a choice is to a coin
        toss.
        """
        if self.thresholds is not None:
            return 1 - (2 * self.probabilities - 1).abs().amin(1)
        if self.probabilities.shape[1] < 2:
            return torch.zeros(len(self.probabilities))
        first, second = self.probabilities.topk(2).values.unbind(1)
        return 1 - (first - second)


def choose(
    classifier: Classifier, name_of: Callable[[str], str], *, multiple: bool, embeddings: Tensor
) -> ChoiceProbabilities:
    """The choices and their probabilities for embeddings [n, size].

    `name_of` maps the model's class to an offered choice, or "" if there is none: a class may have another name than
    the choice, and several classes may map to one choice. `multiple` says whether several choices may be right.
    """
    columns: dict[str, list[int]] = {}
    for number, name in enumerate(classifier.classes):
        if choice := name_of(name):
            columns.setdefault(choice, []).append(number)
    if not columns:
        return ChoiceProbabilities([], torch.empty(len(embeddings), 0), None)
    offered = [number for numbers in columns.values() for number in numbers]
    logits = classifier.head(embeddings)
    if classifier.head.multiple:
        each = logits.sigmoid()
        probabilities = torch.stack([each[:, numbers].max(1).values for numbers in columns.values()], 1)
    else:
        each = torch.zeros_like(logits)
        each[:, offered] = logits[:, offered].softmax(1)
        probabilities = torch.stack([each[:, numbers].sum(1) for numbers in columns.values()], 1)
    if not (classifier.head.multiple and multiple):
        return ChoiceProbabilities(list(columns), probabilities, None)
    thresholds = [min(classifier.head.thresholds[number] for number in numbers) for numbers in columns.values()]
    return ChoiceProbabilities(list(columns), probabilities, torch.tensor(thresholds))


def over_thresholds(probabilities: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """Which probabilities [n, choices] reach their thresholds [choices], and how likely the least certain of these
    decisions is right [n]; several choices may be right.
    """
    over = probabilities >= thresholds
    return over, torch.where(over, probabilities, 1 - probabilities).min(1).values.clamp(0, 1)


def _scores(probabilities: Tensor, score: Score) -> list[float]:
    """Scores from 0 to 1, higher is more certain: the probability, the lead over the next choice, or 1 - entropy."""
    if probabilities.shape[1] == 1 or score in ("order", "probability"):
        values = probabilities.max(1).values
    elif score == "margin":
        first, second = probabilities.topk(2).values.unbind(1)
        values = first - second
    else:
        entropy = torch.special.entr(probabilities).sum(1)
        values = 1 - entropy / torch.tensor(float(probabilities.shape[1])).log()
    return [round(value, 4) for value in values.clamp(0, 1).tolist()]
