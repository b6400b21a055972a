"""Random views of images."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from image_classifier.data.dataset import ImageClassifierDataset, Sample
from image_classifier.training.augmentation import Augmentation


def test_views_of_an_image_differ_and_depend_only_on_the_seed_and_name(samples: list[Sample]) -> None:
    paths = [sample.image.path for sample in samples[:20]]

    def looks(seed: str) -> list[Tensor]:
        augmentation = Augmentation(48, seed)
        dataset = ImageClassifierDataset(paths, ["0"] * 20, "0", augmentation)
        return [pixels for pixels, _ in dataset.__getitems__(range(20))]

    first = looks("0 1")
    assert {(look.dtype, look.shape) for look in first} == {(torch.uint8, (3, 48, 48))}
    assert not any(torch.equal(one, other) for one, other in zip(first, looks("0 2"), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(first, looks("0 1"), strict=True))
    alone = Augmentation(48, "0 1")
    assert all(torch.equal(look, alone(path)) for look, path in zip(first, paths, strict=True))


def test_a_look_is_a_part_of_the_image_and_mirrored_half_of_the_time() -> None:
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 200, dtype=np.uint8), (100, 1))).convert("RGB")
    file = io.BytesIO()
    ramp.save(file, "PNG")
    looks = [Augmentation(32, str(seed))(file.getvalue())[0].float() for seed in range(200)]
    shares = torch.stack([(look[:, -1] - look[:, 0]).mean() / 255 for look in looks])
    assert 70 < int((shares < 0).sum()) < 130
    assert 0.35**0.5 * 0.85 * 0.5 < float(shares.abs().min()) < 0.6
    assert float(shares.abs().max()) < 1
    middles = torch.stack([look.mean() / 255 for look in looks])
    assert float(middles.min()) < 0.4
    assert float(middles.max()) > 0.6
