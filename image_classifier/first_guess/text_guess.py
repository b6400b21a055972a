"""A first guess from the names of choices, by a network that has learned which texts describe which images."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from image_classifier.data.memory import give_back_memory
from image_classifier.files import written_aside
from image_classifier.first_guess.guess import FEWEST, GuessHead
from image_classifier.nets.classifier import Backbone, Classifier
from image_classifier.nets.open_clip_networks import TextEncoder
from image_classifier.nets.state_dicts import read_tensors
from image_classifier.nets.weights import WeightsError

log = logging.getLogger(__name__)

MOST = 100  # choices: with ViT-B-32, they take 8 s of processor time
TEXTS = 3  # of a choice, at most
RETRY_SECONDS = 600.0  # after a failure
LONGEST = 200  # characters of a text; the networks cut texts earlier


@dataclass(frozen=True)
class TextHead(GuessHead):
    """A choice's logit is the product of its vector and the direction of the network's own part of an embedding.

    weight [choices, own size], bias [choices] of zeros.
    """

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Embeddings [n, size] → logits [n, choices]."""
        return normalize(embeddings[:, : self.weight.shape[1]]) @ self.weight.T / self.temperature


class ChoiceTexts:
    """Vectors of choices, by a network's text encoder; kept on disk for other processes. Thread-safe."""

    def __init__(self, encoder: TextEncoder, fingerprint: str, folder: Path) -> None:
        """`fingerprint` is that of the network."""
        self._encoder, self._fingerprint, self._folder = encoder, fingerprint, folder
        self._known: dict[str, Tensor] = {}
        self._one_at_a_time = Lock()  # each time, the whole network is in memory
        self._failed_at = float("-inf")

    def vectors(self, names: Mapping[str, Sequence[str]]) -> Tensor | None:
        """A vector for each choice [choices, own size], the mean of those of its texts; None if that isn't possible.

        The reason is logged. After a failure, nothing is computed for ten minutes.
        """
        texts = [_texts(called) for called in names.values()]
        key = json.dumps([self._fingerprint, self._encoder.identity, texts])
        digest = hashlib.sha256(key.encode()).hexdigest()[:32]
        file = self._folder / f"{digest}.safetensors"
        with self._one_at_a_time:
            try:
                if digest not in self._known and (found := _read(file, len(texts))) is not None:
                    self._known[digest] = found
                if digest not in self._known and time.monotonic() > self._failed_at + RETRY_SECONDS:
                    self._known[digest] = self._computed(texts)
                    _write(file, self._known[digest])
            except WeightsError as error:
                log.warning("no first guesses: %s", error)
                self._failed_at = time.monotonic()
            return self._known.get(digest)

    def _computed(self, texts: Sequence[Sequence[str]]) -> Tensor:
        try:
            found = self._encoder([text for some in texts for text in some])
        finally:
            give_back_memory()  # of the text encoder
        each = torch.split(found, [len(some) for some in texts])
        # Each vector's length is the network's scale.
        return torch.stack([normalize(some.mean(0), dim=0) * some[0].norm() for some in each])


def guess_from_texts(
    backbone: Backbone, texts: ChoiceTexts, names: Mapping[str, Sequence[str]], temperature: float = 1.0
) -> Classifier | None:
    """The classifier for choices with these names; None if they are too few or too many, or can't be embedded.

    `names` has the names of each choice: its own, then its value if the own one is an alias, then others.
    """
    if not FEWEST <= len(names) <= MOST or (vectors := texts.vectors(names)) is None:
        return None
    head = TextHead(vectors, torch.zeros(len(vectors)), temperature)
    return Classifier(backbone, head, head, tuple(names), {})


def _texts(called: Sequence[str]) -> list[str]:
    """The texts of a choice. An alias, such as a number, isn't one: the names after it include the value."""
    texts = (" ".join(name[:LONGEST].replace("_", " ").split()) for name in called[1:] or called)
    return list(dict.fromkeys(texts))[:TEXTS]


def _read(file: Path, choices: int) -> Tensor | None:
    try:
        # A copy, because a memory-mapped file kills the process if the file disappears.
        found = read_tensors(file)[0]["vectors"].clone()
    except Exception:  # missing or damaged
        return None
    fits = found.dtype == torch.float32 and found.ndim == 2 and len(found) == choices and found.isfinite().all()
    return found if fits else None


def _write(file: Path, vectors: Tensor) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with written_aside(file) as part:
            save_file({"vectors": vectors}, part)
    except (OSError, SafetensorError) as error:  # other processes then compute their own
        log.warning("can't write %s: %s", file, error)
