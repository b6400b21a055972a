"""The parts that all models of a process share: the inference lane, and one copy of each network."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from weakref import WeakValueDictionary

from image_classifier.data.preprocessing import limit_memory, limit_pixels
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.lane import InferenceLane
from image_classifier.embedding.precisions import Precisions
from image_classifier.embedding.shards import Shards
from image_classifier.first_guess.imagenet_guess import guess_from_imagenet
from image_classifier.first_guess.text_guess import ChoiceTexts, guess_from_texts
from image_classifier.nets.classifier import (
    Backbone,
    Classifier,
    Head,
    choose_device,
    load_backbone,
    load_classifier,
    load_saved_backbone,
    read_record,
)
from image_classifier.nets.int8 import fingerprint_of_form, is_supported, read_form
from image_classifier.nets.on_disk import keep_on_disk
from image_classifier.settings import ClassifierSettings

BASE = ""  # instead of the base network's fingerprint, which isn't known before it is loaded


class SharedNetworks:
    """Loads networks on demand and only once; thread-safe."""

    def __init__(self, settings: ClassifierSettings) -> None:
        self._settings = settings
        self.shards = Shards()
        # Of the base network
        self._imagenet: Head | None = None
        self._texts: ChoiceTexts | None = None
        self._backbones: WeakValueDictionary[str, Backbone] = WeakValueDictionary()
        # A lock for each network, because loading one may hang, for example on a network drive.
        self._loading: WeakValueDictionary[str, Lock] = WeakValueDictionary()
        self._changing = Lock()  # for changes to the two dictionaries
        self._opening = Lock()

    @property
    def lane(self) -> InferenceLane:
        with self._opening:  # a second lane could not open the same cache
            return self._lane

    @cached_property
    def _lane(self) -> InferenceLane:
        limit_pixels(self._settings.max_image_pixels)
        limit_memory(self._settings.max_image_memory)
        precisions = Precisions(self._settings.cache_dir / "precisions")
        return InferenceLane(self._cache, precisions=precisions, shards=self.shards)

    @cached_property
    def _cache(self) -> EmbeddingCache:
        return EmbeddingCache(self._settings.cache_dir / "embeddings")

    @property
    def base(self) -> Backbone:
        """The network that first versions start from, according to NETWORK, WEIGHTS and IMAGE_SIZE."""
        with self._only_load_of(BASE):
            return self._base

    @property
    def has_base(self) -> bool:
        """Whether the network that first versions start from is loaded."""
        return "_base" in self.__dict__

    @cached_property
    def _base(self) -> Backbone:
        own = load_backbone(self._settings.weights, self._settings.image_size, self._settings.network)
        # A saved model with the same network has neither of them.
        self._imagenet = own.imagenet
        if own.texts:
            self._texts = ChoiceTexts(own.texts, own.fingerprint, self._settings.cache_dir / "texts")
        return self.share(own)

    def first_guess(self, names: Mapping[str, Sequence[str]], temperature: float | None = None) -> Classifier | None:
        """A classifier for choices with these names that needs no labels; None if there is none.

        `temperature` is that of an earlier calibration.
        """
        base = self.base
        calibration = {} if temperature is None else {"temperature": temperature}
        if self._texts:
            return guess_from_texts(base, self._texts, names, **calibration)
        return guess_from_imagenet(base, self._imagenet, names, **calibration) if self._imagenet else None

    def share(self, backbone: Backbone) -> Backbone:
        """The backbone with the same fingerprint that is already in memory, or this one."""
        if known := self._backbones.get(backbone.fingerprint):
            return known
        if not backbone.int8:  # such a form is made of a network that is already shared
            _ = backbone.size  # computed with all weights, and remembered
            keep_on_disk(backbone.module, self._settings.cache_dir)  # before any other thread computes with them
        with self._changing:
            return self._backbones.setdefault(backbone.fingerprint, backbone)

    def load(self, folder: Path) -> Classifier:
        """Loads a saved classifier; raises WeightsError if that fails.

        If it has an 8-bit form of its network and this machine can compute it, that form computes the embeddings.
        """
        weights = read_record(folder)["weights"]
        network, digest = weights["fingerprint"], weights.get("int8")
        with self._only_load_of(network):
            if not (digest and is_supported(choose_device())):
                return load_classifier(folder, self._saved_backbone(folder, network))
            known = self._backbones.get(fingerprint_of_form(network, digest))
            return load_classifier(folder, known or self._saved_form(folder, network, digest))

    def _only_load_of(self, network: str) -> Lock:
        """The lock of the network with this fingerprint."""
        with self._changing:
            return self._loading.setdefault(network, Lock())

    def _saved_backbone(self, folder: Path, fingerprint: str) -> Backbone:
        return self._backbones.get(fingerprint) or self.share(load_saved_backbone(folder))

    def _saved_form(self, folder: Path, network: str, digest: str) -> Backbone:
        backbone, form = self._saved_backbone(folder, network), read_form(folder, network, digest)
        return self.share(backbone.computed_by(form)) if form else backbone

    @property
    def lookups(self) -> dict[str, int]:
        """How often an embedding was found in shards or in the cache (`hit`), and how often not (`miss`)."""
        cache = self.__dict__.get("_cache")  # don't open the cache just to count
        return {"hit": self.shards.hits + cache.hits, "miss": cache.misses} if cache is not None else {}

    def close(self) -> None:
        """Stops the lane and closes its cache, if they were opened."""
        if "_lane" in self.__dict__:
            self._lane.close()
            self._cache.close()
