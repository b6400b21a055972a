"""Principal components: fewer numbers per image, which keep most of the differences."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

COMPONENTS = 64  # of directions
ROUNDING = 1e-6  # times the largest variance: axes with less are only rounding errors
SAMPLE = 20_000  # images that the components are computed from; more don't change them


@dataclass(frozen=True)
class Axes:
    """Axes of embeddings [size]: their standardized values, weighted, give one number for each of `count` axes.

    `weights` [size, count] include the standard deviations; `variances` [count] are those along the axes.
    """

    mean: Tensor
    weights: Tensor
    variances: Tensor

    def components(self, embeddings: Tensor) -> Tensor:
        """Each embedding's [n, size] place on the axes [n, count]."""
        return embeddings @ self.weights - self.mean @ self.weights

    def directions(self, embeddings: Tensor) -> Tensor:
        """Unit vectors [n, count] for embeddings [n, size]: their products are the similarity of two images, at most 1.

        The axes are scaled by the fourth root of their variance, half way to whitening: otherwise a few axes, such as
        the brightness of the background, would decide.
        """
        return normalize(self.components(embeddings) / self.variances.clamp(min=1e-12) ** 0.25, dim=1)

    def places(self, embeddings: Tensor) -> Tensor:
        """The first two components [n, 2] of embeddings [n, size]; 0 for an axis that there isn't."""
        first = self.weights[:, :2]
        return pad(embeddings @ first - self.mean @ first, (0, 2 - first.shape[1]))


def principal_axes(embeddings: Tensor, count: int = COMPONENTS) -> Axes:
    """The first `count` principal axes of standardized embeddings [n, size].

    There are fewer axes if there are fewer images or numbers. The sign of an axis is such that its largest weight is
    positive, so the same embeddings always give the same map.
    """
    count = min(count, embeddings.shape[1], max(1, len(embeddings) - 1))
    some = (
        embeddings[:: -(-len(embeddings) // SAMPLE)]
        if len(embeddings)
        else embeddings.new_zeros(1, embeddings.shape[1])
    ).float()
    mean, std = some.mean(0), some.std(0, unbiased=False)
    std = std + 0.1 * std.mean() + 1e-6  # features that hardly vary stay small
    inputs = (some - mean) / std
    if len(inputs) < inputs.shape[1]:  # the smaller matrix has the same eigenvalues, and vectors that give the axes
        variances, vectors = torch.linalg.eigh(inputs @ inputs.T / len(inputs))
        axes = normalize(inputs.T @ vectors, dim=0) * (variances > ROUNDING * variances[-1])
    else:
        variances, axes = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
    variances, axes = variances[-count:].flip(0).clamp(min=0), axes[:, -count:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return Axes(mean, axes / std[:, None], variances)


def directions(embeddings: Tensor) -> Tensor:
    """Unit vectors [n, up to 64] for embeddings [n, size], along their own axes."""
    return principal_axes(embeddings).directions(embeddings)
