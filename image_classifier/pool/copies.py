"""Copies: near-duplicates among the images of a pool, found while images are added."""

import logging

import torch
from torch import Tensor

from image_classifier.data.duplicates import halved_thumbnails, show_the_same

log = logging.getLogger(__name__)

# An image with more near-duplicates counts as having none: images from a fixed camera differ only in details.
MOST = 20
PARTNERS = 32  # images of a block with which each one is compared in detail: more than MOST
COMPARED = 100_000  # images of a pool, so that its memory and the time for each image are bounded
MAY_BE_SAME = 0.8  # correlation of halved thumbnails
BLOCK = 8192  # images that are compared at once


class Copies:
    """Finds images that look the same, numbered in the order they were added; one thread adds while others ask.

    An image takes 1.2 KB: its thumbnail, and a halved one in half precision for the quick comparison.
    """

    def __init__(self) -> None:
        self._thumbnails = torch.empty(0, 0, dtype=torch.uint8)
        self._halved = torch.empty(0, 0, dtype=torch.float16)
        self._count = 0
        self._groups: dict[int, list[int]] = {}  # the group of each image that has copies; all of a group share a list

    def has_room(self, images: int) -> bool:
        """Whether so many more images will be compared; otherwise `add` needs only their number."""
        return self._count + images <= COMPARED

    def add(self, thumbnails: Tensor) -> None:
        """Adds images, by their thumbnails [n, values] from `data.duplicates`.

        It never raises: its caller has already counted the images elsewhere. After an error, no image has copies.
        """
        try:
            self._add(thumbnails)
        except Exception:
            log.exception("can't compare thumbnails; from now on, copies of images to label aren't detected")
            self._count, self._groups = COMPARED + 1, {}

    def _add(self, thumbnails: Tensor) -> None:
        before, self._count = self._count, self._count + len(thumbnails)
        if len(thumbnails) == 0 or self._count > COMPARED:
            return
        self._thumbnails = _with_room(self._thumbnails, self._count, thumbnails.to(torch.uint8))
        halved = halved_thumbnails(thumbnails)
        self._halved = _with_room(self._halved, self._count, halved.half())
        for one, other in self._pairs(before, halved):
            self._unite(one, other)

    def of(self, image: int) -> list[int]:
        """The other images that show the same as this one."""
        group = self._groups.get(image, [])
        return [other for other in group if other != image] if len(group) <= 1 + MOST else []

    def _pairs(self, before: int, halved: Tensor) -> list[tuple[int, int]]:
        """The pairs of images that look the same; the first image of each pair is number `before` or later."""
        parts = [
            _most_alike(halved, block.float(), before, BLOCK * number)
            for number, block in enumerate(torch.split(self._halved[: self._count], BLOCK))
        ]
        rows, others = (torch.cat(each) for each in zip(*parts, strict=True))
        ones = rows + before
        same = show_the_same(self._thumbnails[ones].float(), self._thumbnails[others].float())
        return list(zip(ones[same].tolist(), others[same].tolist(), strict=True))

    def _unite(self, one: int, other: int) -> None:
        first, second = (self._groups.setdefault(image, [image]) for image in (one, other))
        if first is second:
            return
        larger, smaller = (first, second) if len(first) >= len(second) else (second, first)
        larger += smaller
        self._groups |= dict.fromkeys(smaller, larger)


def _most_alike(new: Tensor, block: Tensor, before: int, start: int) -> tuple[Tensor, Tensor]:
    """Rows of `new` [n, values], and the numbers of images of the block that each may be the same as, at most PARTNERS.

    The block's images are numbered from `start` on, the new ones from `before` on; only earlier images count.
    """
    alike = new @ block.T
    if start + len(block) > before:
        alike = alike.tril(before - start - 1)
    may_be = alike > MAY_BE_SAME
    if (crowded := may_be.sum(1) > PARTNERS).any():  # only then, because this takes long
        least = alike[crowded].topk(PARTNERS).values[:, -1:]
        may_be[crowded] &= alike[crowded] >= least
    rows, columns = may_be.nonzero(as_tuple=True)
    return rows, columns + start


def _with_room(values: Tensor, count: int, new: Tensor) -> Tensor:
    """The first rows with the new ones after them, `count` together; in a larger tensor if there is no room."""
    if count > len(values):
        larger = new.new_zeros(max(count, min(COMPARED, int(1.2 * len(values)))), new.shape[1])
        if len(values):
            larger[: len(values)] = values
        values = larger
    values[count - len(new) : count] = new
    return values
