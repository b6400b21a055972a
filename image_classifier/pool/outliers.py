"""Finds images that look unlike every labeled image."""

import torch
from torch import Tensor

from image_classifier.pool.groups import nearest_labeled

NEIGHBORS = 3  # one labeled image that happens to look alike isn't enough


def strangeness(directions: Tensor, rows: Tensor, labeled: Tensor) -> Tensor:
    """How little each of the images `rows` looks like the labeled ones [rows], from 0 (the same) to 2 (the opposite).

    `directions` [n, size] are unit vectors of all images; `rows` and `labeled` are numbers of some. An image that is
    labeled itself is compared with the other ones, if there are any. Without labels, every image is as strange as the
    others: 1.
    """
    if len(labeled) == 0 or len(rows) == 0:
        return torch.ones(len(rows))
    nearest = nearest_labeled(directions, rows, labeled, NEIGHBORS + 1)
    strange = 1 - nearest[:, :NEIGHBORS].mean(1)
    if len(labeled) > 1:
        own = torch.isin(rows, labeled)  # the nearest image is the image itself, or shows the same
        strange[own] = 1 - nearest[own, 1:].mean(1)
    return strange


def outliers(directions: Tensor, rows: Tensor, labeled: Tensor, count: int) -> Tensor:
    """The numbers of the `count` images among `rows` that look least like the labeled ones, the strangest first."""
    return rows[strangeness(directions, rows, labeled).topk(min(count, len(rows))).indices]
