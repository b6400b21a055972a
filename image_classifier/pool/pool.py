"""All images of a project, labeled or not, compared with each other by their embeddings."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from image_classifier.embedding.cache import Embedding
from image_classifier.pool.components import COMPONENTS, Axes, principal_axes
from image_classifier.pool.groups import LARGEST, Group, next_groups
from image_classifier.pool.map import FEWEST, arrange, extent, landmarks, on_map, place
from image_classifier.pool.order import labeling_order
from image_classifier.pool.outliers import strangeness

RENEWED = 1.2  # the axes are computed again once there are this many times more images
CANDIDATES = 8192  # images among which groups and the next images are looked for, so that the time is bounded
BLOCK = 8192  # images that are computed with at once; other threads get the processor in between

# What a model says of images with these embeddings [rows, size], such as their probabilities [rows, classes]
Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Content:
    """The first `count` rows of all three are images; rows after them may be written to at any time."""

    count: int
    vectors: Tensor
    directions: Tensor
    places: Tensor  # on the map [n, 2]
    extent: Tensor  # of the places
    landmarks: Tensor | None = None  # numbers of those images that were arranged


class Pool:
    """Images by the numbers in which they were added, with their embeddings in half precision; thread-safe.

    An image takes 2 bytes for each number of its embedding, and 264 more for its direction and its place on the map:
    2.2 KB for ResNet18. All of it is in memory: the embeddings are cached on disk anyway.
    """

    def __init__(self, fingerprint: str) -> None:
        """`fingerprint` is that of the network and its precision: embeddings of another can't be compared."""
        self.fingerprint = fingerprint
        self._adding = threading.Lock()
        nothing = torch.empty(0, COMPONENTS)
        self._content = _Content(0, nothing.half(), nothing, nothing[:, :2], torch.ones(2))
        self._axes: Axes | None = None
        self._fitted = 0  # images when the axes were computed

    def __len__(self) -> int:
        return self._content.count

    def memory(self, images: int) -> int:
        """The bytes that so many images take; an empty pool knows only a part of them."""
        now = self._content
        parts = (now.vectors, now.directions, now.places)
        return images * sum(part.element_size() * part.shape[1] for part in parts)

    def add(self, embeddings: Sequence[Embedding]) -> None:
        """Adds images; the first one gets the number `len(pool)`."""
        if len(embeddings) == 0:
            return
        rows = torch.from_numpy(np.stack(embeddings).astype(np.float32))
        limits = torch.finfo(torch.float16)
        rows = rows.nan_to_num(0, limits.max, limits.min).clamp(limits.min, limits.max).half()
        with self._adding:
            before, count = self._content.count, self._content.count + len(rows)
            known = self._content.landmarks
            vectors = self._with_room(self._content.vectors, count, rows.shape[1])
            vectors[before:count] = rows
            places, size = self._with_room(self._content.places, count, 2), self._content.extent
            if self._axes is None or count > RENEWED * self._fitted:
                self._axes, self._fitted = principal_axes(vectors[:count]), count
                directions = torch.cat([self._axes.directions(block) for block in _blocks(vectors[:count])])
                if known is None:
                    places = torch.cat([self._axes.places(block) for block in _blocks(vectors[:count])])
                    size = extent(places)
            else:
                directions = self._with_room(self._content.directions, count, self._axes.weights.shape[1])
                directions[before:count] = self._axes.directions(rows.float())
                if known is None:
                    places[before:count] = self._axes.places(rows.float())
            if known is not None:
                places[before:count] = place(directions[before:count], directions[known], places[known])
            self._content = _Content(count, vectors, directions, places, size, known)

    def arrange(self, check: Callable[[], None] = lambda: None) -> None:
        """Arranges the map: look-alikes are near each other only from then on. Computes for some seconds.

        It can be repeated when there are more images. `check` is called regularly, and may raise to stop.
        """
        now = self._content
        if now.count < FEWEST:
            return
        known = landmarks(now.count)
        start, again = now.places[known], now.landmarks is not None
        arranged = arrange(now.directions[known], start, again=again, check=check)
        with self._adding:
            now = self._content  # images may have been added
            places, among = now.places.new_empty(now.places.shape), now.directions[known]
            for first in range(0, now.count, BLOCK):
                check()
                block = slice(first, min(first + BLOCK, now.count))
                places[block] = place(now.directions[block], among, arranged)
            places[known] = arranged
            self._content = replace(now, places=places, extent=extent(places[: now.count]), landmarks=known)

    @staticmethod
    def _with_room(values: Tensor, rows: int, size: int) -> Tensor:
        """The values, or a larger copy in which so many rows have room; readers keep the one they have."""
        if rows <= len(values):
            return values
        larger = values.new_zeros(max(rows, int(RENEWED * len(values))), size)
        if len(values):
            larger[: len(values)] = values
        return larger

    def groups(
        self,
        unlabeled: Sequence[int],
        labels: Sequence[tuple[int, int]],
        model: Model | None,
        *,
        doubt: float = 1.0,
        largest: int = LARGEST,
        count: int = 1,
    ) -> list[Group]:
        """The next groups of unlabeled images, at most `count`, none of them in two groups.

        `labels` are labeled images with their classes, which are numbers of `model`'s columns; without a model, the
        classes don't matter. `doubt` is explained in `groups.doubt_of`.
        """
        now = self._content  # images that are added meanwhile don't count
        rows = _some(unlabeled)
        known = torch.tensor(labels, dtype=torch.long).reshape(-1, 2)
        known, targets = known[:, 0], known[:, 1]
        probabilities = model(now.vectors[rows].float()) if model and len(rows) else None
        found: list[Group] = []
        while len(found) < count and len(rows):
            groups = next_groups(now.directions[: now.count], rows, known, targets, probabilities, doubt, largest)
            if not groups:
                break
            found += groups[: count - len(found)]  # several only if each is of another class
            left = ~torch.isin(rows, torch.cat([group.rows for group in groups]))
            rows, probabilities = rows[left], None if probabilities is None else probabilities[left]
        return found

    def first(self, unlabeled: Sequence[int], known: Sequence[int], doubt: Model | None, count: int) -> list[int]:
        """The unlabeled images to label first, at most `count`: those that add most information to the images `known`.

        `doubt` returns how uncertain a model is [rows] for images with these embeddings [rows, size]; None without it.
        """
        rows, vectors = _some(unlabeled), self._content.vectors
        if len(rows) == 0:
            return []
        embeddings = vectors[rows].float()
        unsure = doubt(embeddings) if doubt else None
        return rows[labeling_order(embeddings, vectors[_some(known)].float(), unsure, count)].tolist()

    def apply(self, model: Model, images: Sequence[int]) -> Tensor:
        """A model's probabilities for images [n, classes]."""
        vectors = self._content.vectors
        return torch.cat([model(vectors[block].float()) for block in torch.split(_numbers(images), BLOCK)])

    def positions(self, images: Sequence[int]) -> Tensor:
        """The positions of images on a map, from -1 to 1 [n, 2]: at first their first two principal components.

        They change in `arrange`, and before its first call also while images are added.
        """
        now = self._content
        return on_map(now.places[_numbers(images)], now.extent)

    def most_alike(self, image: int, among: Sequence[int], count: int) -> list[tuple[int, float]]:
        """Those of the images `among` that look most like an image, with their cosines, the most similar first."""
        directions = self._content.directions
        rows = _numbers(among)
        rows = rows[rows != image]
        cosines = torch.cat([directions[block] @ directions[image] for block in torch.split(rows, BLOCK)])
        found = cosines.topk(min(count, len(rows)))
        return list(zip(rows[found.indices].tolist(), found.values.tolist(), strict=True))

    def strangeness(self, images: Sequence[int], labeled: Sequence[int]) -> list[float]:
        """How little each image resembles the labeled ones except itself: see `outliers.strangeness`."""
        return strangeness(self._content.directions, _numbers(images), _numbers(labeled)).tolist()


def _some(images: Sequence[int]) -> Tensor:
    """At most CANDIDATES of the images, chosen at random but always the same ones."""
    rows = _numbers(images)
    if len(rows) <= CANDIDATES:
        return rows
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:CANDIDATES]]


def _blocks(vectors: Tensor) -> Iterator[Tensor]:
    """Embeddings in full precision, in parts, because all of them would take too much memory."""
    return (block.float() for block in torch.split(vectors, BLOCK))


def _numbers(images: Sequence[int]) -> Tensor:
    return torch.from_numpy(np.fromiter(images, np.int64, len(images)))  # many times faster than by torch
