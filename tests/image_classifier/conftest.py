"""A network, a lane and images, small enough for a processor."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from image_classifier.data.dataset import Sample
from image_classifier.data.image_file import ImageFile
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.lane import InferenceLane
from image_classifier.nets.classifier import Backbone, load_backbone

# On a busy machine threads that wait for each other cost more than they bring.
torch.set_num_threads(1)


def same_weights(module: nn.Module, state: dict[str, Tensor]) -> bool:
    """Whether the backbone is `state` without its last layer."""
    found = module.state_dict()
    expected = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    """A ResNet18 with random weights for images of 64×64."""
    return load_backbone("none", 64)


@pytest.fixture(scope="session")
def samples(digits: list[tuple[Path, str]]) -> list[Sample]:
    """Handwritten zeros, ones and twos in turn."""
    by_label = {label: [path for path, name in digits if name == label] for label in "012"}
    pairs = [
        (path, label)
        for paths in zip(*by_label.values(), strict=False)
        for path, label in zip(paths, "012", strict=True)
    ]
    return [Sample(ImageFile.of(path), label, path.name) for path, label in pairs]


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[InferenceLane]:
    """A lane with its own cache."""
    cache = EmbeddingCache(tmp_path / "embeddings")
    lane = InferenceLane(cache)
    yield lane
    lane.close()
    cache.close()
