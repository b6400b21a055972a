"""Embeddings as directions: the higher the cosine of two images, the more they look alike."""

from torch import Tensor
from torch.nn.functional import normalize

STD_FLOOR = 0.3  # added to standard deviations, as a share of their mean, like the head does if there are few labels


def directions(embeddings: Tensor, reference: Tensor) -> Tensor:
    """Embeddings [n, size] standardized like the `reference` [m, size], and scaled to length 1."""
    mean, std = reference.mean(0), reference.std(0, unbiased=False)
    std = std + 1e-6 + STD_FLOOR * std.mean()
    return normalize((embeddings - mean) / std, dim=1)
