"""A first guess from the texts of choices, by a network that has learned which texts describe which images."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from image_classifier.data.memory import give_back_memory
from image_classifier.first_guess.guess import FEWEST, GuessHead
from image_classifier.nets.classifier import Backbone, Classifier
from image_classifier.nets.open_clip_networks import TextEncoder
from image_classifier.nets.weights import WeightsError
from image_classifier.threads import one_thread

log = logging.getLogger(__name__)

MOST = 100  # choices: with ViT-B-32, they take 8 s of processor time
LONGEST = 200  # characters of a text; the networks read fewer


@dataclass(frozen=True)
class TextHead(GuessHead):
    """A choice's logit is the product of its vector and the direction of the network's own part of an embedding.

    weight [choices, own size], bias [choices] of zeros.
    """

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Embeddings [n, size] → logits [n, choices]."""
        return normalize(embeddings[:, : self.weight.shape[1]]) @ self.weight.T / self.temperature


class ChoiceTexts:
    """Vectors of choices, by a network's text encoder; kept on disk, since other processes need the same."""

    def __init__(self, encoder: TextEncoder, fingerprint: str, folder: Path) -> None:
        """`fingerprint` is that of the network."""
        self._encoder, self._fingerprint, self._folder = encoder, fingerprint, folder
        self._failed = False

    def vectors(self, names: Mapping[str, Sequence[str]]) -> Tensor | None:
        """A vector for each choice [choices, own size], the mean of those of its names; None if that isn't possible.

        The reason is logged once.
        """
        texts = [[_text(name) for name in called] for called in names.values()]
        digest = hashlib.sha256(json.dumps([self._fingerprint, texts]).encode()).hexdigest()[:32]
        file = self._folder / f"{digest}.safetensors"
        if (known := _read(file, len(texts))) is not None or self._failed:
            return known
        try:
            with one_thread():  # predictions go on
                found = self._encoder([text for called in texts for text in called])
        except WeightsError as error:
            log.warning("there are no first guesses: %s", error)
            self._failed = True
            return None
        finally:
            give_back_memory()  # of the text tower
        each = torch.split(found, [len(called) for called in texts])
        # All have the same length, that of the network's scale.
        vectors = torch.stack([normalize(some.mean(0), dim=0) * some[0].norm() for some in each])
        _write(file, vectors)
        return vectors


def guess_from_texts(
    backbone: Backbone, texts: ChoiceTexts, names: Mapping[str, Sequence[str]], temperature: float = 1.0
) -> Classifier | None:
    """The classifier for choices with these names; None if they are too few or too many, or can't be embedded."""
    if not FEWEST <= len(names) <= MOST or (vectors := texts.vectors(names)) is None:
        return None
    head = TextHead(vectors, torch.zeros(len(vectors)), temperature)
    return Classifier(backbone, head, head, tuple(names), {})


def _text(name: str) -> str:
    return " ".join(name[:LONGEST].replace("_", " ").split())


def _read(file: Path, choices: int) -> Tensor | None:
    try:
        found = load_file(file)["vectors"].clone()  # what is only mapped kills the process where the file is lost
    except Exception:  # missing or damaged
        return None
    return found if found.ndim == 2 and len(found) == choices and found.isfinite().all() else None


def _write(file: Path, vectors: Tensor) -> None:
    part = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        save_file({"vectors": vectors}, part)
        os.replace(part, file)
    except OSError as error:  # other processes then compute their own
        log.warning("can't write %s: %s", file, error)
