"""Finds near-duplicates: bursts, frames of a video, and copies in another size, format or brightness.

Accuracy would look too high if a model were trained on one of them and evaluated on another. Embeddings don't identify
them: on digits, those of different images are more alike (median cosine to the nearest one 0.986) than those of an
image and its copy with a little noise (0.72), and with random weights all are alike. So small thumbnails are compared.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

SIDE = 16  # pixels of a thumbnail
MIN_CONTRAST = 2  # of 255: a thumbnail with a lower standard deviation shows mostly noise
SAME = 0.97  # correlation of two thumbnails at the best shift by half pixels
# The slow comparison is made only for pairs that pass two quicker ones: the correlation of halved thumbnails,
# without a shift, and that of gray thumbnails at the best shift by whole pixels.
PARTNERS, MAY_BE_SAME_HALVED, MAY_BE_SAME_GRAY = 256, 0.8, 0.85
# Images of one scene by one camera are all alike. Beyond this size, a group would hide what they are evaluated on.
LARGEST_GROUP, LARGEST_SHARE = 20, 0.05
ROWS, PAIRS = 512, 2048  # compared at once, which bounds the memory


def thumbnail(image: Image.Image) -> NDArray[np.float32]:
    """A small copy of an RGB image, flat [3 × SIDE × SIDE], values from 0 to 255."""
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    return np.ascontiguousarray(small.transpose(2, 0, 1)).ravel()


def group_near_duplicates(digests: Sequence[str], groups: Sequence[str], thumbnails: Tensor) -> list[str]:
    """The group of each image, named by the digest of its first image.

    An image that has one of `groups` keeps it, so that groups never change once they are known; "" is an image without
    one, which joins the group of the image that it resembles most. Similar images stay apart if their group would
    become too large. `thumbnails` are [n, 3 × SIDE × SIDE]; one of a single color resembles nothing.
    """
    rows = {digest: row for row, digest in reversed(list(enumerate(digests)))}  # the first one of each
    first = sorted(rows.values())
    found = _Groups([digests[row] for row in first], [groups[row] for row in first])
    new = torch.tensor([number for number, row in enumerate(first) if not groups[row]], dtype=torch.long)
    if parts := list(_near_duplicates(thumbnails[first], new)):
        similarity, ones, others = (torch.cat(each) for each in zip(*parts, strict=True))
        for some in torch.split(similarity.argsort(descending=True, stable=True), PAIRS):
            for one, other in zip(ones[some].tolist(), others[some].tolist(), strict=True):
                found.join(one, other)
    names = dict(zip((digests[row] for row in first), found.names(), strict=True))
    return [group or names[digest] for digest, group in zip(digests, groups, strict=True)]


def halved_thumbnails(thumbnails: Tensor) -> Tensor:
    """Unit vectors [n, values] for a quick comparison: their products are correlations without a shift."""
    return _standardized(avg_pool2d(thumbnails.reshape(-1, 3, SIDE, SIDE), 2))


def show_the_same(ones: Tensor, others: Tensor) -> Tensor:
    """Whether two thumbnails are near-duplicates [n], for pairs of them [n, 3 × SIDE × SIDE]."""
    pairs = torch.stack([ones, others]).reshape(2, -1, 3, SIDE, SIDE)
    parts = [_correlation(*some) > SAME for some in torch.split(pairs, PAIRS, dim=1)]
    return torch.cat(parts)


def _near_duplicates(thumbnails: Tensor, new: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The pairs of near-duplicates of which one is `new`, in parts: their similarities [n], and both images [n]."""
    images = thumbnails.reshape(-1, 3, SIDE, SIDE)
    halved, gray = halved_thumbnails(thumbnails), images.mean(1, keepdim=True)
    shifted = torch.stack([_standardized(square) for square in _squares(gray, 1)], 1)  # [n, shifts, values]
    for rows in torch.split(new, ROWS):
        alike = halved[rows] @ halved.T
        alike[torch.arange(len(rows)), rows] = -1  # an image with itself
        values, partners = alike.topk(min(PARTNERS, alike.shape[1]))
        places, ranks = (values > MAY_BE_SAME_HALVED).nonzero(as_tuple=True)
        both = torch.stack([rows[places], partners[places, ranks]])
        for ones, others in torch.split(both, PAIRS, dim=1):
            similar = torch.bmm(shifted[others], shifted[ones, 4, :, None]).amax((1, 2)) > MAY_BE_SAME_GRAY
            ones, others = ones[similar], others[similar]
            similarity = _correlation(images[ones], images[others])
            same = similarity > SAME
            yield similarity[same], ones[same], others[same]


def _correlation(ones: Tensor, others: Tensor) -> Tensor:
    """The correlation [n] of thumbnails [n, 3, SIDE, SIDE] at the best shift; it ignores brightness and contrast."""
    ones, others = (interpolate(some, scale_factor=2.0, mode="bilinear") for some in (ones, others))
    center = _standardized(ones[:, :, 2:-2, 2:-2])
    return torch.stack([(center * _standardized(square)).sum(1) for square in _squares(others, 2)]).amax(0)


def _squares(images: Tensor, most: int) -> list[Tensor]:
    """The inner squares of images [n, channels, side, side], shifted by at most so many pixels in each direction."""
    inner = images.shape[2] - 2 * most
    places = range(2 * most + 1)
    return [images[:, :, down : down + inner, across : across + inner] for down in places for across in places]


def _standardized(squares: Tensor) -> Tensor:
    """Unit vectors without their mean; 0 for squares of a single color."""
    flat = squares.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    length = flat.norm(dim=1, keepdim=True)
    return torch.where(length > MIN_CONTRAST * flat.shape[1] ** 0.5, flat / length, 0.0)


class _Groups:
    """Disjoint sets of images [n], of which each has at most one known name."""

    def __init__(self, digests: Sequence[str], names: Sequence[str]) -> None:
        self._parents = list(range(len(digests)))
        self._sizes = [1] * len(digests)
        self._digests, self._names = digests, list(names)
        self._largest = max(LARGEST_GROUP, round(LARGEST_SHARE * len(digests)))
        members: dict[str, int] = {}
        for number, name in enumerate(names):
            if name:
                self._unite(members.setdefault(name, number), number)

    def join(self, one: int, other: int) -> None:
        """Unites their sets, unless both have a name, or they would be too large together."""
        one, other = self._root(one), self._root(other)
        if not (self._names[one] and self._names[other]) and self._sizes[one] + self._sizes[other] <= self._largest:
            self._unite(one, other)

    def names(self) -> list[str]:
        """The name of each image's set: the known one, else the digest of its first image."""
        roots = [self._root(number) for number in range(len(self._parents))]
        return [self._names[root] or self._digests[root] for root in roots]

    def _unite(self, one: int, other: int) -> None:
        one, other = sorted((self._root(one), self._root(other)))
        if one != other:
            self._parents[other] = one
            self._sizes[one] += self._sizes[other]
            self._names[one] = self._names[one] or self._names[other]

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number
