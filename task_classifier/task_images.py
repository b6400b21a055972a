"""The images that tasks show, and their embeddings."""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from contextvars import copy_context
from dataclasses import replace

import torch

from image_classifier.data.dataset import Sample
from image_classifier.data.image_file import ImageFile
from image_classifier.data.preprocessing import FileGone, ImageError, TooLate
from image_classifier.embedding.cache import Embedding
from image_classifier.nets.classifier import Backbone
from label_studio_format.image_value import image_url
from label_studio_format.labeling_config import ImageChoices, Json
from my_backend.errors import MediaError
from my_backend.label_studio.media import Media, MediaRequest
from safe_http.session import url_without_secrets
from task_classifier import shared

log = logging.getLogger(__name__)

READ_AT_ONCE = 128  # tasks whose images are fetched while the previous ones are embedded
FOR_THE_NETWORK = 0.25  # of the time for reading images: slow servers must not cost other images their prediction

Fetched = list[ImageFile | MediaError]
Read = list[tuple[ImageFile | MediaError, Embedding | ImageError | MediaError]]


class TaskImages:
    """Fetches the images that tasks show, and embeds them."""

    def __init__(self, media: Media) -> None:
        self._media = media

    def embeddings(
        self, tasks: Sequence[Json], tag: ImageChoices, backbone: Backbone, deadline: float
    ) -> list[Embedding | ImageError | MediaError]:
        """For each task, in order, its image's embedding, or why there is none; failures are logged."""
        read = self.read(tasks, tag, backbone, deadline, background=False)
        vectors = [vector for some in read for _, vector in some]
        for task, vector in zip(tasks, vectors, strict=True):
            if isinstance(vector, ImageError):
                log.warning("%s", _name(task, vector))
        return vectors

    def read(
        self,
        tasks: Sequence[Json],
        tag: ImageChoices,
        backbone: Backbone,
        deadline: float = float("inf"),
        *,
        background: bool = True,
        level: int = logging.WARNING,
    ) -> Generator[Read, None, None]:
        """For each task, in order and in chunks, its image and the image's embedding, or why there is none.

        `level` is the log level of images that can't be fetched.
        """
        left = deadline - time.monotonic()
        latest = deadline - FOR_THE_NETWORK * left if left < float("inf") else deadline
        pieces = [tasks[start : start + READ_AT_ONCE] for start in range(0, len(tasks), READ_AT_ONCE)]
        for piece, fetched in zip(
            pieces, _ahead(lambda piece: self.fetch(piece, tag, latest, level), pieces), strict=True
        ):
            embedded = self._embed(fetched, backbone, deadline, background)
            # The cache is trimmed by any process, perhaps between the two steps, and a loss of power may damage it.
            if gone := [position for position, pair in enumerate(embedded) if self._is_lost(*pair)]:
                again = self.fetch([piece[position] for position in gone], tag, latest, level)
                for position, pair in zip(gone, self._embed(again, backbone, deadline, background), strict=True):
                    embedded[position] = pair
            yield embedded

    def read_within(
        self, seconds: float, tasks: Sequence[Json], tag: ImageChoices, backbone: Backbone, check: Callable[[], None]
    ) -> tuple[dict[int, Embedding], list[int]]:
        """The embeddings of the tasks' images, by position, as many as can be read in this time: a random choice.

        Also returns the positions of the tasks for which the time wasn't enough.
        """
        positions: list[int] = torch.randperm(len(tasks), generator=torch.Generator().manual_seed(0)).tolist()
        end, found, late = time.monotonic() + seconds, dict[int, Embedding](), list[int]()
        wanted = [tasks[position] for position in positions]
        # `predict` reports images that can't be read.
        with closing(self.read(wanted, tag, backbone, end, level=logging.DEBUG)) as pieces:
            for piece in pieces:
                check()
                is_late = time.monotonic() > end - FOR_THE_NETWORK * seconds  # then `read` fetches nothing more
                for position, (_, vector) in zip(positions[: len(piece)], piece, strict=True):
                    if not isinstance(vector, Exception):
                        found[position] = vector
                    elif is_late:
                        late.append(position)
                del positions[: len(piece)]
                if time.monotonic() > end:
                    break
        return found, late + positions

    def fetch(
        self,
        tasks: Sequence[Json],
        tag: ImageChoices,
        deadline: float = float("inf"),
        level: int = logging.DEBUG,
    ) -> Fetched:
        """Each task's image, or why there is none; failures are logged at `level`, with the task and how to fix it."""
        urls = [image_url(data, tag.field) if isinstance(data := task.get("data"), dict) else None for task in tasks]
        wanted = [MediaRequest(url, task.get("id")) for url, task in zip(urls, tasks, strict=True) if url is not None]
        found = iter(self._media.fetch_all(wanted, deadline))
        files: Fetched = []
        for task, url in zip(tasks, urls, strict=True):
            file = next(found) if url is not None else _no_url(task, tag)
            if isinstance(file, MediaError):
                log.log(level, "%s", file)
                files.append(file)
            else:
                files.append(ImageFile(file.path, file.digest))
        return files

    @contextmanager
    def holding(self, samples: Sequence[Sample]) -> Iterator[list[Sample]]:
        """The samples, whose images stay in the cache meanwhile; those whose image the cache has lost are left out."""
        with self._media.holding([sample.image.path for sample in samples]) as paths:
            held = [
                replace(sample, image=replace(sample.image, path=path))
                for sample, path in zip(samples, paths, strict=True)
                if path
            ]
            if len(held) < len(samples):
                log.warning(
                    "training further without %d of %d images: they are no longer in the cache",
                    len(samples) - len(held),
                    len(samples),
                )
            yield held

    def _is_lost(self, file: ImageFile | MediaError, vector: Embedding | ImageError | MediaError) -> bool:
        """Whether an image has no embedding because the cache no longer has the image as it was fetched."""
        if isinstance(file, MediaError) or not isinstance(vector, ImageError) or isinstance(vector, TooLate):
            return False
        return isinstance(vector, FileGone) or self._media.drop_damaged(file.digest)

    @staticmethod
    def _embed(fetched: Fetched, backbone: Backbone, deadline: float, background: bool) -> Read:
        """Each image with its embedding, or with why there is none."""
        readable = [file for file in fetched if isinstance(file, ImageFile)]
        embedded = iter(shared.networks().lane.embed(backbone, readable, background=background, deadline=deadline))
        return [(file, next(embedded)) if isinstance(file, ImageFile) else (file, file) for file in fetched]


def reason_code(error: ImageError | MediaError) -> str:
    """The reason code under which the error is counted."""
    if isinstance(error, MediaError):
        return error.reason
    return "too_late" if isinstance(error, TooLate) else "unreadable"


def _ahead(fetch: Callable[[Sequence[Json]], Fetched], pieces: Sequence[Sequence[Json]]) -> Iterator[Fetched]:
    """The result of `fetch` for each piece; the next piece is fetched while the caller processes this one."""
    if len(pieces) < 2:
        yield from map(fetch, pieces)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="fetch-ahead") as pool:
        coming = pool.submit(copy_context().run, fetch, pieces[0])  # log lines get the same request id
        for following in pieces[1:]:
            fetched, coming = coming.result(), pool.submit(copy_context().run, fetch, following)
            yield fetched
        yield coming.result()


def _name(task: Json, problem: object) -> str:
    return str(problem) if task.get("id") is None else f"task {task['id']}: {problem}"


def _no_url(task: Json, tag: ImageChoices) -> MediaError:
    value = url_without_secrets(tag.field if "$" in tag.field else f"${tag.field}")
    return MediaError(_name(task, f'its data has no image URL for value="{value}" of the Image tag'), "no_url")
