"""What every network must do: train all layers, be saved, be loaded, and answer the same, also in its faster form."""

from pathlib import Path

import torch

from image_classifier.data.dataset import Sample
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.lane import InferenceLane
from image_classifier.nets.classifier import load_backbone, load_classifier, load_saved_backbone, read_record
from image_classifier.nets.optimize import accelerate
from image_classifier.training.all_layers import FineTuning, learn_all_layers
from image_classifier.training.classifier_head import embed, learn_head
from image_classifier.training.hyperparameters import Hyperparameters

ONE_EPOCH = Hyperparameters(epochs=1, batch_size=8)


def quiet(record: object) -> None:
    """Progress that nobody looks at."""


def check_training_and_saving(name: str, size: int, some: list[Sample], folder: Path) -> None:
    """Fails if a network of that name, for images of `size` pixels, doesn't."""
    cache = EmbeddingCache(folder / "cache")
    lane = InferenceLane(cache, torch.device("cpu"))
    try:
        backbone = load_backbone("none", size, name)
        first = learn_head(backbone, embed(lane, backbone, some, quiet), ("0", "1", "2"), ONE_EPOCH, quiet)
        trained = learn_all_layers(FineTuning(lane, first, some, ONE_EPOCH, folder / "checkpoint", quiet))
    finally:
        lane.close()
        cache.close()
    assert load_backbone("none", size, name).fingerprint == backbone.fingerprint  # random weights are always the same
    trained.save(folder / "model")
    loaded = load_classifier(folder / "model", load_saved_backbone(folder / "model"))

    assert read_record(folder / "model")["architecture"] == loaded.backbone.network == name
    pixels = torch.stack([backbone.preprocessing(sample.image.path) for sample in some[:5]])
    inputs = backbone.preprocessing.normalize(pixels)
    before, after = (c.head(c.backbone.module(inputs)) for c in (trained, loaded))
    assert torch.equal(before, after)
    assert before.shape == (5, 3)
    faster = accelerate(loaded.backbone.module, torch.device("cpu"), inputs.shape[-1])
    embeddings = loaded.backbone.module(inputs)
    assert (faster(inputs) - embeddings).abs().max() < 1e-4 * embeddings.abs().max()
    assert trained.backbone.fingerprint != backbone.fingerprint
    tuned = trained.backbone.module.state_dict()
    changed = [key for key, tensor in backbone.module.state_dict().items() if not torch.equal(tensor, tuned[key])]
    assert len(changed) > len(list(backbone.module.parameters())) // 2  # all layers have learned
