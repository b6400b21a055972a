"""A project's images in memory, compared by their embeddings: the base of groups, queue, map and drift detection."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from image_classifier.data.duplicates import group_near_duplicates
from image_classifier.data.image_file import ImageFile
from image_classifier.embedding.cache import Embedding
from image_classifier.first_guess.guess import is_guess
from image_classifier.nets.classifier import Backbone, Classifier
from image_classifier.pool.copies import Copies
from image_classifier.pool.groups import doubt_of
from image_classifier.pool.pool import Pool
from label_studio_format.labeling_config import ImageChoices, Json
from my_backend.errors import MediaError
from my_backend.serving.image_pool import ImagePool, LookAlikes
from task_classifier import shared
from task_classifier.answers import best_choices, choice_probabilities, known_choices
from task_classifier.task_images import READ_AT_ONCE, TaskImages


class TaskPool(ImagePool):
    """The images of a project's tasks, compared by the embeddings of one network."""

    def __init__(self, images: TaskImages, backbone: Backbone, tag: ImageChoices) -> None:
        self._images, self._backbone, self._tag = images, backbone, tag
        self._pool, self._copies = Pool(backbone.fingerprint), Copies()

    def suits(self, model: Any) -> bool:
        return bool(model.backbone.fingerprint == self._pool.fingerprint)

    def add(self, tasks: Sequence[Json], check: Callable[[], None]) -> list[str | None]:
        digests: list[str | None] = []
        vectors: list[Embedding] = []
        files: list[ImageFile] = []
        # `predict` reports images that can't be read.
        with closing(self._images.read(tasks, self._tag, self._backbone, level=logging.DEBUG)) as pieces:
            for piece in pieces:
                check()
                for file, vector in piece:
                    if isinstance(file, MediaError) or isinstance(vector, Exception):
                        digests.append(None)
                    else:
                        digests.append(file.digest)
                        vectors.append(vector)
                        files.append(file)
        are_compared = files and self._copies.has_room(len(files))
        thumbnails = shared.networks().lane.thumbnails(files) if are_compared else torch.empty(len(files), 0)
        self._pool.add(vectors)  # all or none: otherwise the caller would lose count after an error
        self._copies.add(thumbnails)
        return digests

    def memory(self, images: int) -> int:
        return self._pool.memory(images)

    def groups(
        self,
        model: Any,
        unlabeled: Sequence[int],
        labels: Mapping[int, str],
        past: Sequence[tuple[int, float]],
        *,
        largest: int,
        count: int,
    ) -> list[LookAlikes]:
        classifier = model.classifier
        learned = known_choices(classifier, self._tag) if classifier else []
        others = sorted(set(labels.values()) - set(learned))  # which only labeled look-alikes propose
        names = [*learned, *others]
        columns = {name: column for column, name in enumerate(names)}

        def probabilities(embeddings: Tensor) -> Tensor:
            return pad(choice_probabilities(classifier, self._tag, embeddings).probabilities, (0, len(others)))

        found = self._pool.groups(
            unlabeled,
            [(image, columns[name]) for image, name in labels.items()],
            probabilities if learned else None,
            doubt=doubt_of(past),
            largest=largest,
            count=count,
        )
        return [
            LookAlikes(
                rows := group.rows.tolist(),
                names[group.proposal] if group.proposal is not None else self._guessed(classifier, rows),
                [None] * len(rows) if group.probabilities is None else group.probabilities.tolist(),
            )
            for group in found
        ]

    def _guessed(self, classifier: Classifier | None, images: Sequence[int]) -> str | None:
        """What a first guess says about all of these images together; None for other models.

        Others have learned that the images look like nothing they know.
        """
        if classifier is None or not is_guess(classifier):
            return None
        names, probabilities = self._names_and_probabilities(classifier, images)
        return names[int(probabilities.mean(0).argmax())] if names else None

    def first(self, model: Any, unlabeled: Sequence[int], known: Sequence[int], count: int) -> list[int]:
        def doubt(embeddings: Tensor) -> Tensor:
            found = choice_probabilities(model.classifier, self._tag, embeddings)
            return found.doubt() if found.names else torch.ones(len(embeddings))

        return self._pool.first(unlabeled, known, doubt if model.classifier else None, count)

    def probabilities(self, model: Any, images: Sequence[int]) -> list[dict[str, float]]:
        if not (images and model.classifier):
            return [{} for _ in images]
        names, found = self._names_and_probabilities(model.classifier, images)
        return [dict(zip(names, row, strict=True)) for row in found.tolist()]

    def answers(self, model: Any, images: Sequence[int]) -> list[tuple[str, float]]:
        if not (images and model.classifier):
            return []
        names, found = self._names_and_probabilities(model.classifier, images, best_choices)
        if not names:
            return []
        sure, columns = found.T.tolist()
        return list(zip((names[int(column)] for column in columns), sure, strict=True))

    def _names_and_probabilities(
        self, classifier: Classifier, images: Sequence[int], reduced: Callable[[Tensor], Tensor] = lambda found: found
    ) -> tuple[Sequence[str], Tensor]:
        """The choices that a model knows, and their probabilities [images, choices], `reduced` to fewer columns."""
        names = known_choices(classifier, self._tag)

        def probabilities(embeddings: Tensor) -> Tensor:
            return reduced(choice_probabilities(classifier, self._tag, embeddings).probabilities.clamp(0, 1))

        return names, self._pool.apply(probabilities, images) if names else torch.empty(len(images), 0)

    def near_duplicates(self, tasks: Iterable[Json], check: Callable[[], None]) -> list[str | None]:
        digests: list[str | None] = []
        thumbnails: list[Tensor] = []
        waiting = iter(tasks)
        while some := list(islice(waiting, READ_AT_ONCE)):
            check()
            files = self._images.fetch(some, self._tag)
            readable = [file for file in files if isinstance(file, ImageFile)]
            digests += [file.digest if isinstance(file, ImageFile) else None for file in files]
            if readable:
                thumbnails.append(shared.networks().lane.thumbnails(readable))
        known = [digest for digest in digests if digest is not None]
        if not known:
            return digests
        groups = iter(group_near_duplicates(known, [""] * len(known), torch.cat(thumbnails)))
        return [next(groups) if digest is not None else None for digest in digests]

    def copies(self, image: int) -> Sequence[int]:
        return self._copies.of(image)

    def arrange(self, check: Callable[[], None]) -> None:
        self._pool.arrange(check)

    def positions(self, images: Sequence[int]) -> Sequence[tuple[float, float]]:
        x, y = self._pool.positions(images).T.tolist()  # many times faster than a list for each image
        return list(zip(x, y, strict=True))

    def most_alike(self, image: int, among: Sequence[int], count: int) -> list[tuple[int, float]]:
        return self._pool.most_alike(image, among, count)

    def strangeness(self, images: Sequence[int], labeled: Sequence[int]) -> list[float]:
        return self._pool.strangeness(images, labeled)
