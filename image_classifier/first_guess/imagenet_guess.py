"""A first guess from ImageNet's classes: it predicts the choices that these classes are kinds of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from image_classifier.first_guess.guess import FEWEST, GuessHead
from image_classifier.first_guess.words import classes_of_choices
from image_classifier.nets.classifier import Backbone, Classifier, Head

# How classes decide for a choice, chosen on the benchmark's *themes* and *stamps*: it gets the sum of its classes'
# squared probabilities, divided by the square root of their number. The temperature is that of *themes*.
SHARPNESS, SHARE, TEMPERATURE = 2.0, 0.5, 3.75


@dataclass(frozen=True)
class ImageNetHead(GuessHead):
    """ImageNet's last layer, with only the classes that belong to a choice; it predicts choices.

    weight [classes, size] and bias [classes], grouped by choice; `sizes` is the number of classes of each choice.
    """

    sizes: tuple[int, ...] = ()

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Embeddings [n, size] → logits [n, choices]."""
        logits = torch.split(embeddings @ self.weight.T + self.bias, list(self.sizes), dim=1)
        sums = torch.stack([torch.logsumexp(SHARPNESS * some, 1) for some in logits], 1)
        return (sums - SHARE * torch.tensor(self.sizes).log()) / self.temperature


def guess_from_imagenet(
    backbone: Backbone, imagenet: Head, names: Mapping[str, Sequence[str]], temperature: float = TEMPERATURE
) -> Classifier | None:
    """The classifier for choices with these names; None if fewer than two of them are ordinary words with classes.

    `imagenet` is the network's own last layer. There is no guess for the other choices.
    """
    if len(found := classes_of_choices(names)) < FEWEST:
        return None
    rows = torch.tensor([number for numbers in found.values() for number in numbers])
    sizes = tuple(map(len, found.values()))
    head = ImageNetHead(imagenet.weight[rows], imagenet.bias[rows], temperature, sizes=sizes)
    return Classifier(backbone, head, head, tuple(found), {})
