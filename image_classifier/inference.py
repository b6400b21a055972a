"""The one lane to the network: images are decoded in parallel and embedded in batches, whoever asks."""

import os
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from image_classifier.acceleration import accelerate
from image_classifier.embeddings import Embedding, EmbeddingCache
from image_classifier.network import Backbone, choose_device
from image_classifier.preprocessing import ImageError

BATCH_SIZE = 32
BACKGROUND_IMAGES = 16  # of a training or an import that are ahead of a request's
KEPT_TOGETHER = 512  # images after which embeddings are put into the cache
WAITING_IMAGES = 128  # decoded images in memory at 150 KB each, before those who bring more must wait


@dataclass(frozen=True)
class ImageFile:
    """An image on disk and the SHA-256 (hexadecimal) of its content, by which its embedding is cached."""

    path: Path
    digest: str

    @classmethod
    def of(cls, path: Path) -> "ImageFile":
        return cls(path, sha256(path.read_bytes()).hexdigest())


@dataclass(frozen=True)
class _Waiting:
    backbone: Backbone
    pixels: Tensor
    embedding: Future[Embedding]


class InferenceLane:
    """One thread runs the network, so that requests do not fight over the processor; a pool decodes for it.

    Images of concurrent requests are joined into batches: the lane takes what waits, up to a batch, and never waits
    for more.
    """

    def __init__(self, cache: EmbeddingCache, device: torch.device | None = None) -> None:
        self._cache = cache
        self._device = device or choose_device()
        self._modules: WeakKeyDictionary[Backbone, nn.Module] = WeakKeyDictionary()
        self._decoders = ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix="decode")
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(WAITING_IMAGES)
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def embed(
        self,
        backbone: Backbone,
        images: Sequence[ImageFile],
        *,
        background: bool = False,
        deadline: float = float("inf"),
    ) -> list[Embedding | ImageError]:
        """One embedding for each image, in order; an ImageError for one that cannot be decoded.

        In the `background` only a few images enter at a time, so that those of a request wait behind few.
        What is not done at `deadline` (monotonic seconds) is an ImageError too.
        """
        embeddings: dict[str, Embedding | ImageError] = {}
        embeddings.update(self._cache.get(backbone.fingerprint, [image.digest for image in images]))
        missing = list({image.digest: image for image in images if image.digest not in embeddings}.values())
        at_once = BACKGROUND_IMAGES if background else KEPT_TOGETHER
        for start in range(0, len(missing), at_once):
            embeddings.update(self._embed_missing(backbone, missing[start : start + at_once], deadline))
        return [embeddings[image.digest] for image in images]

    def _embed_missing(
        self, backbone: Backbone, images: Sequence[ImageFile], deadline: float
    ) -> dict[str, Embedding | ImageError]:
        futures = [(image.digest, self._decoders.submit(self._enter, backbone, image, deadline)) for image in images]
        embeddings: dict[str, Embedding | ImageError] = {}
        fresh: list[tuple[str, Embedding]] = []
        for digest, future in futures:
            try:
                embedding = future.result(_left(deadline)).result(_left(deadline))
                embeddings[digest] = embedding
                fresh.append((digest, embedding))
            except ImageError as error:
                embeddings[digest] = error
            except TimeoutError:
                future.cancel()
                embeddings[digest] = _too_late()
        self._cache.put(backbone.fingerprint, fresh)
        return embeddings

    def _enter(self, backbone: Backbone, image: ImageFile, deadline: float) -> Future[Embedding]:
        if time.monotonic() > deadline:
            raise _too_late()
        waiting = _Waiting(backbone, backbone.preprocessing(image.path), Future())
        self._queue.put(waiting)
        return waiting.embedding

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            while len(batch) < BATCH_SIZE and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    self._queue.put(None)
                    break
                batch.append(following)
            for backbone in {id(waiting.backbone): waiting.backbone for waiting in batch}.values():
                self._embed_batch(backbone, [waiting for waiting in batch if waiting.backbone is backbone])

    def _embed_batch(self, backbone: Backbone, batch: list[_Waiting]) -> None:
        try:
            pixels = torch.stack([waiting.pixels for waiting in batch]).to(self._device)
            with torch.inference_mode():
                inputs = backbone.preprocessing.normalize(pixels).contiguous(memory_format=torch.channels_last)
                embeddings = self._module_of(backbone)(inputs).float().cpu().numpy()
        except Exception as error:
            for waiting in batch:
                waiting.embedding.set_exception(error)
            return
        for waiting, embedding in zip(batch, embeddings, strict=True):
            waiting.embedding.set_result(embedding.copy())

    def _module_of(self, backbone: Backbone) -> nn.Module:
        """Made at the backbone's first use; goes when the backbone goes."""
        if backbone not in self._modules:
            self._modules[backbone] = accelerate(backbone.module, self._device)
        return self._modules[backbone]

    def close(self) -> None:
        """Ends the threads; what waits is still embedded."""
        self._decoders.shutdown()
        self._queue.put(None)
        self._thread.join()


def _left(deadline: float) -> float | None:
    return None if deadline == float("inf") else max(0.0, deadline - time.monotonic())


def _too_late() -> ImageError:
    return ImageError("no time was left to embed the image: ask again")
