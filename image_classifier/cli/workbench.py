"""The resources of a command: the embedding cache and the inference lane."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import lmdb
import torch

from image_classifier.data.image_file import ImageFile
from image_classifier.data.preprocessing import ImageError, limit_memory, limit_pixels
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.lane import InferenceLane
from image_classifier.errors import UsersError
from image_classifier.nets.classifier import Backbone, choose_device
from image_classifier.nets.optimize import BATCH_SIZE, accelerate
from image_classifier.progress import Progress
from image_classifier.settings import ClassifierSettings


class Workbench:
    """The inference lane and its cache, which a server on this host may use at the same time."""

    def __init__(self, cache: EmbeddingCache, lane: InferenceLane) -> None:
        self.cache, self.lane = cache, lane

    def embed_ahead(self, backbone: Backbone, images: Sequence[ImageFile], progress: Progress) -> None:
        """Fills the cache, always with the same batches.

        The last bits of an embedding depend on the batch size, and the lane's batches depend on thread timing. With
        fixed batches, the same images give the same weights however often training was interrupted. Images that can't
        be decoded are skipped here and reported later.
        """
        ordered = list({image.digest: image for image in images}.values())
        device = choose_device()
        module = None
        with ThreadPoolExecutor() as decoders, torch.inference_mode():
            for start in range(0, len(ordered), BATCH_SIZE):
                progress({"phase": "embedding images", "image": start, "images": len(ordered)})
                batch = ordered[start : start + BATCH_SIZE]
                if len(self.cache.get(backbone.fingerprint, [image.digest for image in batch])) == len(batch):
                    continue
                module = module or accelerate(backbone.module, device, backbone.preprocessing.crop_size)
                decoded = list(decoders.map(lambda image: _decode(backbone, image), batch))
                pairs = [(i.digest, pixels) for i, pixels in zip(batch, decoded, strict=True) if pixels is not None]
                if not pairs:
                    continue
                pixels = torch.stack([pixels for _, pixels in pairs]).to(device)
                inputs = backbone.preprocessing.normalize(pixels).contiguous(memory_format=torch.channels_last)
                embeddings = module(inputs).float().cpu().numpy()
                self.cache.put(backbone.fingerprint, zip((digest for digest, _ in pairs), embeddings, strict=True))


def _decode(backbone: Backbone, image: ImageFile) -> torch.Tensor | None:
    try:
        return image.decoded(backbone.preprocessing)
    except ImageError:
        return None


@contextmanager
def workbench(cache_dir: Path) -> Iterator[Workbench]:
    """Opens the cache and the lane, and closes them at the end; raises UsersError if the cache can't be opened."""
    folder = cache_dir / "embeddings"
    try:
        cache = EmbeddingCache(folder)
    except (OSError, lmdb.Error) as error:
        raise UsersError(f"can't use CACHE_DIR={cache_dir} ({error}): set CACHE_DIR to a local folder") from error
    lane = InferenceLane(cache)
    try:
        yield Workbench(cache, lane)
    finally:
        lane.close()
        cache.close()


def open_bench(settings: ClassifierSettings) -> AbstractContextManager[Workbench]:
    """The embedding cache and the inference lane, with the limits of the settings; raises UsersError."""
    limit_pixels(settings.max_image_pixels)
    limit_memory(settings.max_image_memory)
    return workbench(settings.cache_dir)
