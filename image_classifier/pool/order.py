"""The order in which to label images: first those that give most information about all others.

This is uncertainty herding (Bae, Oliveira and Sutherland, ICLR 2025). Each next image adds most to the similarity of
all images to the nearest labeled or chosen one; each image is weighted by how uncertain the model is about it. Without
a model all images count the same. The closer together the labeled images are, the narrower the similarity becomes, and
the more the model decides.

The first ten images are chosen without a model, which would often be wrong. Here, two images are similar if many short
paths lead from one to the other, each step of which is between nearest neighbors.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from image_classifier.pool.directions import directions

MIN_WIDTH, MAX_WIDTH = 0.05, 0.5  # of the similarity: exp((cosine - 1) / width)
NEAR = 0.5  # width, relative to the distance (1 - cosine) of a labeled image from the nearest other one
REFERENCES = 1000  # random images that stand for all images, to bound memory and time
CANDIDATES = 10_000  # random images among which the first ones are chosen
CHOSEN = 500  # images chosen one after the other; the rest follows by what each would add after these
AT_ONCE = 64  # candidates that are compared in one step
FIRST = 10  # images, chosen by paths between neighbors
NEIGHBORS = 10
PATH_SHARE = 0.9  # how much a path counts, compared with one that is a step shorter
MIN_PATH_WIDTH = 0.001  # so that copies don't divide by zero
SEED = 0
SAME = 0.9999  # gains within this factor count as equal: the difference may be rounding
CHOSEN_ALREADY = -1.0  # instead of what an image would add


def labeling_order(images: Tensor, labeled: Tensor, doubt: Tensor | None = None, count: int | None = None) -> Tensor:
    """The row numbers [n] of unlabeled images, in the order in which to label them; if asked, only the first `count`.

    `images` [n, size] and `labeled` [m, size] are embeddings. `doubt` [n], from 0 to 1, is how uncertain the model is
    about each unlabeled image; None if there is no model. The same arguments give the same order.
    """
    if len(images) == 0:
        return torch.empty(0, dtype=torch.long)
    everything, known = directions(images, images), directions(labeled, images)
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    references, candidates = everything[shuffled[:REFERENCES]], shuffled[:CANDIDATES]
    most = CHOSEN if count is None else min(count, CHOSEN)
    begun = _first(everything[candidates[:REFERENCES]], known)[:most]
    known = torch.cat([known, everything[candidates[begun]]])
    width = _width(known)
    weights = torch.ones(len(references)) if doubt is None else doubt[shuffled[:REFERENCES]]
    covered = torch.zeros(len(references))
    for some in _parts(known):
        covered = torch.cat([covered[None], _similarity(some, references, width)]).amax(0)
    chosen, covered = _choose(_similarity(everything[candidates], references, width), covered, weights, most, begun)
    chosen = candidates[chosen]
    if len(chosen) == count:
        return chosen
    added = torch.cat([_gains(_similarity(some, references, width), covered, weights) for some in _parts(everything)])
    added[chosen] = CHOSEN_ALREADY
    return torch.cat([chosen, added.argsort(descending=True, stable=True)[: len(images) - len(chosen)]])[:count]


def _first(images: Tensor, labeled: Tensor) -> Tensor:
    """The rows [n] of the first images to label, in order; none if ten images are labeled. Both are directions."""
    count = max(0, FIRST - len(labeled))
    nodes = torch.cat([labeled, images])
    if count == 0 or len(nodes) == 1:
        return torch.arange(min(count, len(images)))
    similarity = _along_paths(nodes)
    covered = torch.cat([torch.zeros(1, len(nodes)), similarity[: len(labeled)]]).amax(0)
    return _choose(similarity[len(labeled) :], covered, torch.ones(len(nodes)), count)[0]


def _along_paths(images: Tensor) -> Tensor:
    """How similar directions [n, size] are by the number and length of the paths between them, from 0 to 1: [n, n].

    These are random walks with restart (Tong, Faloutsos and Pan, ICDM 2006) in the graph of the nearest neighbors.
    """
    near = (images @ images.T).fill_diagonal_(-2).topk(min(NEIGHBORS, len(images) - 1))
    width = (1 - near.values[:, -1:]).clamp(min=MIN_PATH_WIDTH)
    edges = torch.zeros(len(images), len(images)).scatter(1, near.indices, ((near.values - 1) / width).exp())
    edges = torch.maximum(edges, edges.T)
    degree = edges.sum(1).rsqrt()
    paths = torch.linalg.inv(torch.eye(len(images)) - PATH_SHARE * degree[:, None] * edges * degree)
    own = paths.diagonal().rsqrt()
    similarity: Tensor = own[:, None] * paths * own
    return similarity


def _choose(
    similarity: Tensor, covered: Tensor, weights: Tensor, most: int, begun: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """At most so many rows of `similarity` [candidates, references], in order, and how much they cover [references].

    They start with the rows `begun`, which `covered` must contain already.
    What an image adds never grows while others are chosen. So an image that adds more than the others ever could is the
    next one, and only a few have to be compared again each time (Minoux's lazy greedy algorithm).
    """
    chosen: list[int] = [] if begun is None else begun.tolist()
    bounds = _gains(similarity, covered, weights)  # the most that each can still add
    bounds[chosen] = CHOSEN_ALREADY
    while len(chosen) < min(most, len(similarity)):
        best = bounds.topk(min(AT_ONCE, len(bounds))).indices
        bounds[best] = torch.where(bounds[best] < 0, CHOSEN_ALREADY, _gains(similarity[best], covered, weights))
        first = int(best[bounds[best].argmax()])
        if bounds[first] < SAME * bounds.max():
            continue
        chosen.append(first)
        bounds[first] = CHOSEN_ALREADY
        covered = torch.maximum(covered, similarity[first])
    return torch.tensor(chosen, dtype=torch.long), covered


def _gains(similarity: Tensor, covered: Tensor, weights: Tensor) -> Tensor:
    """How much each row of `similarity` [n, references] would add to the references' `covered` similarity: [n]."""
    return (similarity - covered).clamp_(min=0) @ weights


def _width(labeled: Tensor) -> float:
    """How wide the similarity is, by directions of labeled images [m, size]."""
    some = labeled[torch.randperm(len(labeled), generator=torch.Generator().manual_seed(SEED))[:REFERENCES]]
    if len(some) < 2:
        return MAX_WIDTH
    distance = (1 - some @ some.T).fill_diagonal_(torch.inf).amin(1).median()
    return min(MAX_WIDTH, max(MIN_WIDTH, NEAR * float(distance)))


def _similarity(images: Tensor, references: Tensor, width: float) -> Tensor:
    """From 0 to 1, of each two directions: [images, references]."""
    return torch.addmm(torch.tensor(-1.0), images, references.T).div_(width).exp_()


def _parts(images: Tensor) -> Iterator[Tensor]:
    """All rows, in parts that bound the memory."""
    for start in range(0, len(images), CANDIDATES):
        yield images[start : start + CANDIDATES]
