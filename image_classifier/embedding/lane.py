"""The single lane to the network: images of all callers are decoded in parallel and embedded in batches."""

import atexit
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from image_classifier.data import duplicates
from image_classifier.data.image_file import ImageFile
from image_classifier.data.memory import give_back_memory
from image_classifier.data.preprocessing import ImageError, PerhapsSound, TooLate, decoding_threads, open_image
from image_classifier.embedding.cache import Embedding, EmbeddingCache
from image_classifier.embedding.precisions import Precisions, fingerprint_of
from image_classifier.embedding.shards import Shards
from image_classifier.nets.classifier import Backbone, choose_device
from image_classifier.nets.on_disk import forget_what_was_read
from image_classifier.nets.optimize import BATCH_SIZE, accelerate
from image_classifier.threads import let_requests_go_first

GPU_BATCH_SIZE = 32  # a GPU embeds these 30 times faster than they are decoded
BATCHES_AHEAD = 2  # per caller, decoded or waiting: enough to keep the lane busy without delaying others
IDLE_SECONDS = 1.0  # after this, memory of the last images is returned to the system
BUSY_SECONDS = 60.0  # between two such returns if there is always something to embed
KEPT_TOGETHER = 512  # images whose embeddings are written to the cache together


THUMBNAILS = f"{1:032x}"  # the cache's fingerprint for thumbnails; another number once they are made differently


@dataclass(frozen=True)
class _Waiting:
    """A decoded image that waits for the network."""

    backbone: Backbone
    precision: torch.dtype
    pixels: Tensor
    embedding: Future[Embedding]


# Priorities: images of requests, images of background work, the end; each in order of arrival.
REQUEST, BACKGROUND, END = range(3)
_Decoded = Future[Future[Embedding]]


class InferenceLane:
    """One thread runs the network, so that requests don't compete for the CPU; a thread pool decodes images for it.

    Images of concurrent requests are joined into batches: the lane takes the waiting images, up to a batch, and never
    waits for more. Each caller has only a few batches in flight, so that later callers don't wait long.
    """

    def __init__(
        self,
        cache: EmbeddingCache,
        device: torch.device | None = None,
        precisions: Precisions | None = None,
        shards: Shards | None = None,
    ) -> None:
        """Embeddings are looked up in `shards` first. Without `precisions`, all networks compute in float32."""
        self._cache, self._shards = cache, shards or Shards()
        self.device = device or choose_device()
        self.precisions = precisions
        self._batch_size = BATCH_SIZE if self.device.type == "cpu" else GPU_BATCH_SIZE
        self._modules: WeakKeyDictionary[Backbone, dict[torch.dtype, nn.Module]] = WeakKeyDictionary()
        # Images of requests don't wait until those of background work are decoded, either. Decoding a huge image keeps
        # a processor busy for seconds; a thread that answers a request needs one only for a moment.
        self._decoders = [
            ThreadPoolExecutor(decoding_threads(), "decode", initializer=let_requests_go_first)
            for _ in (REQUEST, BACKGROUND)
        ]
        self._queue: queue.PriorityQueue[tuple[int, int, _Waiting | None]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._gave_back_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()
        # If the interpreter exits while a thread computes, torch aborts the process.
        atexit.register(self.close)

    def embed(
        self,
        backbone: Backbone,
        images: Sequence[ImageFile],
        *,
        background: bool = False,
        deadline: float = float("inf"),
        precision: torch.dtype | None = None,
    ) -> list[Embedding | ImageError]:
        """One embedding for each image, in order; an ImageError for an image that can't be decoded.

        An image for which the network computes infinite numbers or NaN, even in float32, is an ImageError too.
        Images of `background` work go after those of requests. Images not done by `deadline` (monotonic seconds) are
        an ImageError too. All embeddings are in this `precision`, if it is given, and infinite or NaN if it is too
        coarse for an image. Otherwise, new ones are in the precision chosen for the network, or in float32 if that one
        is too coarse, and stored ones may be in float32.
        """
        embeddings: dict[str, Embedding | ImageError] = {}
        embeddings.update(self._stored(backbone, [image.digest for image in images], precision))
        precision = precision or self._precision_of(backbone)
        fingerprint = fingerprint_of(backbone, precision)
        missing = list({image.digest: image for image in images if image.digest not in embeddings}.values())
        priority = BACKGROUND if background else REQUEST
        for start in range(0, len(missing), KEPT_TOGETHER):
            some = missing[start : start + KEPT_TOGETHER]
            found = dict(self._embed_missing(backbone, precision, some, priority, deadline))
            fresh = [
                (digest, vector)
                for digest, vector in found.items()
                if not isinstance(vector, ImageError) and np.isfinite(vector).all()
            ]
            self._cache.put(fingerprint, fresh)
            embeddings.update(found)
        return [embeddings[image.digest] for image in images]

    def known(self, backbone: Backbone, digests: Sequence[str], *, counted: bool = True) -> list[Embedding]:
        """The stored embeddings of images with these digests, whose files may be gone.

        Unless `counted`, they don't appear in the number of cache lookups.
        """
        return list(self._stored(backbone, digests, counted=counted).values())

    def fingerprint(self, backbone: Backbone) -> str:
        """Names the embeddings of a network in the precision that is chosen for it on this machine."""
        return fingerprint_of(backbone, self._precision_of(backbone))

    def _stored(
        self,
        backbone: Backbone,
        digests: Sequence[str],
        precision: torch.dtype | None = None,
        *,
        counted: bool = True,
    ) -> dict[str, Embedding]:
        chosen = precision or self._precision_of(backbone)
        fingerprint, fallback = fingerprint_of(backbone, chosen), ""
        if precision is None and chosen not in (torch.float32, torch.int8):
            # Half precision was chosen because predictions hardly differ, so the images of a whole project needn't be
            # embedded again.
            fallback = fingerprint_of(backbone, torch.float32)
        # Shards come first, so that all hosts give the same answers: they have fewer digits than the cache.
        found = self._shards.get(fingerprint, digests)
        missing = [digest for digest in digests if digest not in found]
        return found | self._cache.get(fingerprint, missing, fallback=fallback, counted=counted)

    def thumbnails(self, images: Sequence[ImageFile]) -> Tensor:
        """The thumbnails of images [n, values], by which near-duplicates are found; 0 for images that can't be decoded.

        They don't depend on the network, and are cached like its embeddings.
        """
        digests = [image.digest for image in images]
        found = self._cache.get(THUMBNAILS, digests, counted=False)
        missing = list({image.digest: image for image in images if image.digest not in found}.values())
        at_once = BATCHES_AHEAD * BATCH_SIZE  # in between, the images of requests get their turn
        for start in range(0, len(missing), at_once):
            some = missing[start : start + at_once]
            fresh = {
                image.digest: values
                for image, values in zip(some, self._decoders[BACKGROUND].map(_thumbnail_of, some), strict=True)
            }
            self._cache.put(THUMBNAILS, ((digest, values) for digest, values in fresh.items() if values.any()))
            found |= fresh
        return torch.from_numpy(np.stack([found[digest] for digest in digests]))

    def warm_up(self, backbone: Backbone) -> None:
        """Prepares the network, so that the first image doesn't wait for it."""
        # While it waits, the caller holds no tensor: freeing one while the interpreter exits aborts the process.
        self._put(BACKGROUND, backbone, self._precision_of(backbone), _blank(backbone.preprocessing.crop_size)).result()

    def _precision_of(self, backbone: Backbone) -> torch.dtype:
        if backbone.int8:
            return torch.int8
        return self.precisions(backbone, self.device) if self.precisions else torch.float32

    def _embed_missing(
        self,
        backbone: Backbone,
        precision: torch.dtype,
        images: Sequence[ImageFile],
        priority: int,
        deadline: float,
    ) -> Iterator[tuple[str, Embedding | ImageError]]:
        in_flight: deque[tuple[str, _Decoded]] = deque()
        for image in images:
            if len(in_flight) >= BATCHES_AHEAD * self._batch_size:
                yield _outcome(*in_flight.popleft(), deadline)
            decoded = self._decoders[priority].submit(self._enter, priority, backbone, precision, image, deadline)
            in_flight.append((image.digest, decoded))
        while in_flight:
            yield _outcome(*in_flight.popleft(), deadline)

    def _enter(
        self, priority: int, backbone: Backbone, precision: torch.dtype, image: ImageFile, deadline: float
    ) -> Future[Embedding]:
        if time.monotonic() > deadline:
            raise _too_late()
        pixels = image.decoded(lambda path: backbone.preprocessing(path, deadline))
        return self._put(priority, backbone, precision, pixels)

    def _put(self, priority: int, backbone: Backbone, precision: torch.dtype, pixels: Tensor) -> Future[Embedding]:
        waiting = _Waiting(backbone, precision, pixels, Future())
        self._queue.put((priority, next(self._numbers), waiting))
        return waiting.embedding

    def _run(self) -> None:
        while self._embed_next():
            pass  # keep no references here, so that unused networks are freed

    def _embed_next(self) -> bool:
        batch = self._next_batch()
        groups: dict[tuple[int, torch.dtype], list[_Waiting]] = {}
        for waiting in batch:
            groups.setdefault((id(waiting.backbone), waiting.precision), []).append(waiting)
        for group in groups.values():
            self._embed_batch(group)
        return bool(batch)

    def _next_batch(self) -> list[_Waiting]:
        """The waiting images of one priority, so that requests don't wait for background images in their batch."""
        priority, _, first = self._next()
        batch = [first] if first else []
        while batch and len(batch) < self._batch_size and not self._queue.empty():
            following = self._queue.get()
            if following[0] != priority or following[2] is None:
                self._queue.put(following)
                break
            batch.append(following[2])
        return batch

    def _next(self) -> tuple[int, int, _Waiting | None]:
        if time.monotonic() - self._gave_back_at > BUSY_SECONDS:
            self._give_back_memory()
        try:
            return self._queue.get(timeout=IDLE_SECONDS if self._modules else None)
        except queue.Empty:
            self._give_back_memory()
            return self._queue.get()

    def _give_back_memory(self) -> None:
        forget_what_was_read()
        give_back_memory()
        self._gave_back_at = time.monotonic()

    def _embed_batch(self, batch: list[_Waiting]) -> None:
        backbone, precision = batch[0].backbone, batch[0].precision
        try:
            embeddings = self._compute(batch, precision)
            # The trial of a precision must see what it is too coarse for.
            is_trial = precision not in (torch.float32, self._precision_of(backbone))
            unusable = [] if is_trial else _not_finite(embeddings)
            if unusable and precision != torch.float32:
                embeddings[unusable] = self._compute([batch[row] for row in unusable], torch.float32)
                unusable = _not_finite(embeddings)
        except Exception as error:
            for waiting in batch:
                waiting.embedding.set_exception(error)
            return
        for row, (waiting, embedding) in enumerate(zip(batch, embeddings, strict=True)):
            if row in unusable:  # a single one would destroy a head
                waiting.embedding.set_exception(_overflow(backbone))
            else:
                waiting.embedding.set_result(embedding.copy())

    def _compute(self, batch: Sequence[_Waiting], precision: torch.dtype) -> Embedding:
        """The embeddings of a batch [n, size] in this precision; some may be infinite or NaN."""
        backbone = batch[0].backbone
        # Changing the memory layout is cheapest while the pixels are bytes.
        pixels = torch.stack([waiting.pixels for waiting in batch]).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            module = self._module_of(backbone, precision)
            inputs = backbone.preprocessing.normalize(pixels.to(self.device))
            if precision != torch.int8:  # an 8-bit form rounds them as it was made to
                inputs = inputs.to(precision)
            embeddings: Embedding = module(inputs).float().cpu().numpy()
        return embeddings

    def _module_of(self, backbone: Backbone, precision: torch.dtype) -> nn.Module:
        """The module for a backbone, created at its first use and freed together with it."""
        modules = self._modules.setdefault(backbone, {})
        if precision not in modules:
            modules[precision] = (
                backbone.int8.module
                if backbone.int8 and precision == torch.int8
                else accelerate(backbone.module, self.device, backbone.preprocessing.crop_size, precision)
            )
        if precision == self._precision_of(backbone) != torch.float32:
            modules.pop(torch.float32, None)  # it was only needed until the choice
        return modules[precision]

    def close(self) -> None:
        """Ends the threads; there must be no more callers. Called automatically when the process exits."""
        atexit.unregister(self.close)
        for pool in self._decoders:
            pool.shutdown()
        self._queue.put((END, next(self._numbers), None))
        self._thread.join()


def _outcome(digest: str, decoded: _Decoded, deadline: float) -> tuple[str, Embedding | ImageError]:
    try:
        return digest, decoded.result(_left(deadline)).result(_left(deadline))
    except ImageError as error:
        return digest, error
    except TimeoutError:
        decoded.cancel()
        return digest, _too_late()


def _thumbnail_of(image: ImageFile) -> Embedding:
    try:
        return duplicates.thumbnail(image.decoded(lambda path: open_image(path, duplicates.SIDE)))
    except ImageError:
        return np.zeros(3 * duplicates.SIDE**2, np.float32)


def _blank(size: int) -> Tensor:
    return torch.zeros(3, size, size, dtype=torch.uint8)


def _left(deadline: float) -> float | None:
    return None if deadline == float("inf") else max(0.0, deadline - time.monotonic())


def _not_finite(embeddings: Embedding) -> list[int]:
    """The rows that have a number that is infinite or NaN."""
    rows: list[int] = np.flatnonzero(~np.isfinite(embeddings).all(1)).tolist()
    return rows


def _overflow(backbone: Backbone) -> PerhapsSound:
    return PerhapsSound(
        f"the network {backbone.network} computes infinite numbers or NaN for it: if this happens to many images, use "
        "other weights or another network"
    )


def _too_late() -> TooLate:
    return TooLate("the time limit was reached before the image was embedded: try again")
