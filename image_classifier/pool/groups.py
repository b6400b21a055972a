"""Groups of look-alikes that a person labels with one key, after giving the exceptions their own class.

As long as some images look unlike every labeled image, a group is a crowd of these: images that resemble each other
more than they resemble the rest. Such crowds rarely mix classes, and they reveal the classes. After that, a group has
the images of one proposed class, the most certain first. Its size gives the most labels per action (a key or a click).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

LARGEST = 100  # images of a group, as many as a person can see at a glance on one screen
# Crowds
ALIKE = 0.6  # relative to the nearest images: what still belongs to a crowd, and what still looks labeled
FEWEST = 5  # images of a crowd
NEAREST = 5  # images that tell how dense a place is
LANDMARKS = 2048  # images among which they are looked for
# Proposals
SMALLEST = 12  # images of a group, if there are as many of the class: fewer at a time would cost too many keys
NEIGHBORS = 8  # labeled images that have a vote
MODEL_VOTES = 2.0  # of the model, if a neighbor that looks the same has one
MOST_VOTERS = 4096  # labeled images that are compared, chosen at random
RECENT = 10  # groups that tell how far the estimate of exceptions is off
PRIOR = 3  # exceptions that were found and expected before the first group

BLOCK = 4096  # rows that are compared at once
_NEVER = torch.tensor(-2.0)  # less than any cosine


@dataclass(frozen=True)
class Group:
    """Images that probably have the same class."""

    rows: Tensor  # numbers of the images, the surest first
    proposal: int | None  # the class; None if they look like nothing labeled
    probabilities: Tensor | None = None  # that each image has the proposed class

    @property
    def exceptions(self) -> float:
        """How many images are expected to have another class than the proposed one."""
        return 0.0 if self.probabilities is None else float((1 - self.probabilities).sum())


def next_groups(
    directions: Tensor,
    rows: Tensor,
    labeled: Tensor,
    targets: Tensor,
    probabilities: Tensor | None,
    doubt: float = 1.0,
    largest: int = LARGEST,
) -> list[Group]:
    """The groups to show next, of the images `rows`: a crowd if there is one, otherwise a group for each class.

    `directions` [n, size] are unit vectors of all images, `rows` and `labeled` the numbers of those without and with
    a label. `targets` are the labels' classes. `probabilities` [rows, classes] are a model's; None without a model. No
    group has more than `largest` images.
    """
    crowd = find_crowd(directions, rows, labeled, always=probabilities is None, largest=largest)
    if crowd is not None or probabilities is None:
        return [crowd] if crowd else []
    return proposed_groups(rows, vote(directions, rows, labeled, targets, probabilities), doubt, largest)


def find_crowd(
    directions: Tensor, rows: Tensor, labeled: Tensor, *, always: bool = False, largest: int = LARGEST
) -> Group | None:
    """The densest group among those of the images `rows` that look like nothing labeled; None if there is none.

    `always` finds one of any size, and if necessary one that looks labeled, as long as there are images.
    """
    if len(rows) == 0:
        return None
    vectors = directions[rows]
    density = _density(vectors)
    free = torch.ones(len(rows), dtype=torch.bool)
    if len(labeled):
        free = nearest_labeled(directions, rows, labeled)[:, 0] < ALIKE * density
        free |= always and not bool(free.any())
    if int(free.sum()) < (1 if always else FEWEST):
        return None
    center = vectors[density.where(free, _NEVER).argmax()]
    for _ in range(2):  # the first image may be at the edge of its crowd
        nearest = (vectors @ center).where(free, _NEVER).topk(min(NEAREST, int(free.sum()))).indices
        center = normalize(vectors[nearest].mean(0), dim=0)
    alike, members = (vectors @ center).where(free, _NEVER).topk(min(largest, int(free.sum())))
    inside = alike >= min(ALIKE * alike[0], alike[0])
    if int(inside.sum()) < FEWEST and not always:
        return None
    return Group(rows[members[inside]], None)


def _density(vectors: Tensor) -> Tensor:
    """[n]: how much images resemble the nearest few of the landmarks, without counting the image itself."""
    chosen = _some(len(vectors), LANDMARKS)
    place = torch.full((len(vectors),), -1)
    place[chosen] = torch.arange(len(chosen))
    density = torch.empty(len(vectors))
    for block in _blocks(torch.arange(len(vectors))):
        alike = vectors[block] @ vectors[chosen].T
        own = (place[block] >= 0).nonzero().flatten()
        alike[own, place[block][own]] = -1
        density[block] = alike.topk(min(NEAREST, len(chosen))).values.mean(1)
    return density


def _blocks(rows: Tensor) -> Iterator[Tensor]:
    return (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))


def _some(images: int, most: int) -> Tensor:
    """The positions of at most so many of the images, always the same ones."""
    return torch.randperm(images, generator=torch.Generator().manual_seed(0))[:most]


def nearest_labeled(directions: Tensor, rows: Tensor, labeled: Tensor, count: int = 1) -> Tensor:
    """[rows, count]: how much each image resembles the labeled images that it resembles most, at most `count`."""
    labeled = labeled[_some(len(labeled), MOST_VOTERS)]
    count = min(count, len(labeled))
    known = directions[labeled].T
    alike = (directions[block] @ known for block in _blocks(rows))
    # The maximum alone is found several times faster.
    return torch.cat([one.amax(1, keepdim=True) if count == 1 else one.topk(count).values for one in alike])


def vote(directions: Tensor, rows: Tensor, labeled: Tensor, targets: Tensor, probabilities: Tensor) -> Tensor:
    """Probabilities [rows, classes] of the model's `probabilities` [rows, classes] together with labeled neighbors.

    A neighbor counts more the more it looks like the image, and not at all if it doesn't.
    """
    chosen = _some(len(labeled), MOST_VOTERS)
    labeled, targets = labeled[chosen], targets[chosen]
    votes = MODEL_VOTES * probabilities
    known = directions[labeled].T
    for block in _blocks(torch.arange(len(rows))):
        alike, nearest = (directions[rows[block]] @ known).topk(min(NEIGHBORS, len(labeled)))
        votes[block] = votes[block].scatter_add(1, targets[nearest], alike.clamp(min=0) ** 4)
    return votes / votes.sum(1, keepdim=True)


def proposed_groups(rows: Tensor, probabilities: Tensor, doubt: float = 1.0, largest: int = LARGEST) -> list[Group]:
    """The next group of each class, of images `rows` with `probabilities` [rows, classes].

    Those with the most labels per action come first. What comes after a group depends on the labels that it gets.
    """
    sure, classes = probabilities.max(1)
    found = []
    for number in sorted(set(classes.tolist())):
        members = (classes == number).nonzero().flatten()
        members = members[sure[members].argsort(descending=True, stable=True)][:largest]
        exceptions = (1 - sure[members]).cumsum(0)
        gains = torch.arange(1, len(members) + 1) / (1 + doubt * exceptions)  # one key, and one for each exception
        last = max(int(gains.argmax()), min(SMALLEST, len(members)) - 1)
        members = members[: last + 1]
        found.append((float(gains[last]), Group(rows[members], number, sure[members])))
    return [group for _, group in sorted(found, key=lambda each: -each[0])]


def doubt_of(past: Sequence[tuple[int, float]]) -> float:
    """How many times more exceptions than expected there were in the last groups with a proposal.

    `past` has, for each group, the exceptions that a person found and those that were expected.
    """
    found, expected = (sum(each) for each in zip((PRIOR, PRIOR), *past[-RECENT:], strict=True))
    return float(found / expected)
