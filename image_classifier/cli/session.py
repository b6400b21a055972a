"""What a command works with: the cached embeddings, and the network's lane over them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import lmdb
import torch

from image_classifier.data.dataset import Sample, classes_of
from image_classifier.data.folders import read_files, shown
from image_classifier.data.image_file import ImageFile
from image_classifier.data.preprocessing import ImageError
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.lane import BATCH_SIZE, InferenceLane
from image_classifier.errors import UsersError
from image_classifier.nets.classifier import Backbone, choose_device
from image_classifier.nets.optimize import accelerate
from image_classifier.progress import Progress
from image_classifier.training.pipeline import TooFewLabels, check_enough

NAMED = 5  # of many classes that lose images, those that lose most


class Workbench:
    """The lane and its cache, which a server on this host may use at the same time."""

    def __init__(self, cache: EmbeddingCache, lane: InferenceLane) -> None:
        self.cache, self.lane = cache, lane

    def embed_ahead(self, backbone: Backbone, images: Sequence[ImageFile], progress: Progress) -> None:
        """Fills the cache, in batches that are always the same ones.

        The last bits of an embedding depend on its batch's size, and the lane's batches on how threads fall: by this
        the same images give the same weights, however often training was interrupted. What cannot be decoded is
        left to whoever asks for it.
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


def still_there(cache: EmbeddingCache, backbone: Backbone, samples: Sequence[Sample]) -> list[Sample]:
    """The samples whose embedding is cached, or whose file is what it was."""
    cached = cache.get(backbone.fingerprint, [sample.image.digest for sample in samples])
    others = [sample for sample in samples if sample.image.digest not in cached]
    unchanged = {
        sample.image.digest
        for sample, file in zip(others, read_files([sample.image.path for sample in others]), strict=True)
        if isinstance(file, ImageFile) and file.digest == sample.image.digest
    }
    return [sample for sample in samples if sample.image.digest in cached or sample.image.digest in unchanged]


def refuse_to_forget(known: Sequence[Sample], left: Sequence[Sample], corrected: Sample) -> None:
    """Raises UsersError where a model that is fitted to what is `left` would no longer be the one that was trained.

    That is where a class has lost more than half of its images, or where all together are too few to learn from. Fewer
    may go: somebody may have deleted them because they were no good.
    """
    before, after = _images_of_classes(known), _images_of_classes(left)
    lost = {name: count - after[name] for name, count in before.items() if after[name] < count}
    if not lost or (all(2 * count <= before[name] for name, count in lost.items()) and _enough([*left, corrected])):
        return
    there = {sample.image.digest for sample in left}
    gone = next((sample.name for sample in known if sample.name and sample.image.digest not in there), "")
    example = shown(gone) if Path(gone).is_absolute() else f"task {shown(gone)}"  # in a version of the backend
    most = sorted(lost, key=lambda name: -lost[name] / before[name])
    named = [f"{lost[name]} of {before[name]} images of {shown(name)}" for name in most[:NAMED]]
    if len(most) > NAMED:
        named.append(f"some of {len(most) - NAMED} more classes")
    raise UsersError(
        f"the model would forget what it knows: {', '.join(named)} are neither cached nor where they were (such as "
        f"{example}): bring them back, set CACHE_DIR to the cache that has them, or train anew"
    )


def _images_of_classes(samples: Sequence[Sample]) -> Counter[str]:
    """Where an image may have several classes, it may also have none: those are counted too."""
    return Counter(name for sample in samples for name in classes_of(sample.label) or ["no class"])


def _enough(samples: Sequence[Sample]) -> bool:
    try:
        check_enough(samples)
    except TooFewLabels:
        return False
    return True


def _decode(backbone: Backbone, image: ImageFile) -> torch.Tensor | None:
    try:
        return backbone.preprocessing(image.path)
    except ImageError:
        return None


@contextmanager
def workbench(cache_dir: Path) -> Iterator[Workbench]:
    """Raises UsersError where the cache cannot be opened."""
    folder = cache_dir.expanduser() / "embeddings"
    try:
        cache = EmbeddingCache(folder)
    except (OSError, lmdb.Error) as error:
        raise UsersError(f"CACHE_DIR={cache_dir} cannot be used ({error}): set CACHE_DIR to a local folder") from error
    lane = InferenceLane(cache)
    try:
        yield Workbench(cache, lane)
    finally:
        lane.close()
        cache.close()
