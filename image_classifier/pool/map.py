"""The map: a position in two dimensions for each image, with look-alikes near each other.

t-SNE (van der Maaten & Hinton, 2008) arranges some of the images, the landmarks, and the others are placed next to
those that they look like. It starts at the first two principal components, which makes it repeatable and keeps the
large shape (Kobak & Berens, 2019), with the learning rate of Belkina et al. (2019).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from image_classifier.threads import one_thread

LANDMARKS = 2000  # time and memory of t-SNE grow with their square
FEWEST = 5  # images that can be arranged
NEIGHBORS, SHARPNESS = 5, 50.0  # the landmarks that decide where an image is, and how much more the nearest one counts
PERPLEXITY = 30.0  # of how many neighbors t-SNE preserves, about
FIRST_STEPS, NEXT_STEPS = 300, 100
EARLY_STEPS, EXAGGERATION = 120, 12.0  # first, neighbors attract each other this many times more, so clusters form
MOST = 0.99  # share of the images that a map has room for


def landmarks(count: int) -> Tensor:
    """The numbers of the landmarks among the first `count` images; nearly the same ones while images are added."""
    spread = (torch.arange(count) * 2_654_435_761) % 2**32  # Knuth's multiplicative hash
    return spread.topk(min(LANDMARKS, count), largest=False).indices.sort().values


def arrange(directions: Tensor, start: Tensor, *, again: bool, check: Callable[[], None]) -> Tensor:
    """Places [n, 2] for unit vectors [n, size], moved from the places `start` [n, 2] so that look-alikes meet.

    `again` says that `start` was arranged before, with about the same images: it changes little. `check` is called for
    each step, and may raise to stop. At least `FEWEST` vectors are needed.
    """
    with one_thread():
        similar = _similarities(directions)
        places = start - start.mean(0)
        if not again:
            places = places / places.std(0).max().clamp(min=1e-12) * 1e-4
        speed, gains = torch.zeros_like(places), torch.ones_like(places)
        # Without the usual minimum of 50: with a hundred images or fewer, it throws look-alikes apart again.
        rate = len(directions) / EXAGGERATION
        for step in range(NEXT_STEPS if again else FIRST_STEPS):
            check()
            early = step < EARLY_STEPS and not again
            gradient = _gradient(similar, places, EXAGGERATION if early else 1.0)
            # A step grows as long as it keeps its direction (delta-bar-delta).
            gains = torch.where(gradient * speed > 0, gains * 0.8, gains + 0.2).clamp(min=0.01)
            speed = (0.5 if early else 0.8) * speed - rate * gains * gradient
            places = places + speed
        return places - places.mean(0)


def _similarities(directions: Tensor) -> Tensor:
    """The probability [n, n] that two images are neighbors; the width around each fits the perplexity."""
    distances = (1 - directions @ directions.T).clamp_(min=0).fill_diagonal_(torch.inf)
    count = len(directions)
    wanted = torch.tensor(min(PERPLEXITY, (count - 1) / 3)).log()
    low, high, narrow = torch.zeros(count, 1), torch.full((count, 1), torch.inf), torch.full((count, 1), 20.0)
    for _ in range(30):  # bisection
        near = (-distances * narrow).softmax(1)
        wide = -torch.special.xlogy(near, near).sum(1, keepdim=True) > wanted
        low, high = torch.where(wide, narrow, low), torch.where(wide, high, narrow)
        narrow = torch.where(high.isinf(), 2 * narrow, (low + high) / 2)
    near = (-distances * narrow).softmax(1)
    return (near + near.T).div_(2 * count)


def _gradient(similar: Tensor, places: Tensor, exaggeration: float) -> Tensor:
    """The gradient [n, 2] of the Kullback-Leibler divergence between `similar` [n, n] and the map's neighborhoods."""
    squares = places.square().sum(1)
    closeness = torch.addmm(squares[:, None] + squares, places, places.T, alpha=-2).clamp_(min=0).add_(1).reciprocal_()
    closeness.fill_diagonal_(0)
    force = (similar * exaggeration).sub_(closeness / closeness.sum()).mul_(closeness)
    return 4 * (force.sum(1, keepdim=True) * places - force @ places)


def place(directions: Tensor, known: Tensor, places: Tensor) -> Tensor:
    """Places [n, 2] for unit vectors [n, size] next to those of the `known` ones [m, size], which are at `places`."""
    nearest = (directions @ known.T).topk(min(NEIGHBORS, len(known)), dim=1)
    shares = (SHARPNESS * nearest.values).softmax(1)
    return (places[nearest.indices] * shares[..., None]).sum(1)


def extent(places: Tensor) -> Tensor:
    """How far most of the places [n, 2] are from the middle, along each axis: [2]. At least one place is needed."""
    # torch's `quantile` takes no more than 16 million numbers.
    return places.abs().sort(0).values[int(MOST * (len(places) - 1))].clamp(min=1e-12)


def on_map(places: Tensor, extent: Tensor) -> Tensor:
    """Positions from -1 to 1 [n, 2]: most places fill the map, and the few outside its `extent` [2] are at its edge."""
    return (places / extent).clamp(-1, 1)
