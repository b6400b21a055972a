"""Random views of images, for training all layers."""

import math
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image
from torch import Tensor

from image_classifier.data.preprocessing import Source, open_image, to_tensor


class Augmentation:
    """Turns a source into uint8 [3, size, size]: a random part of the image, mirrored half of the time.

    The part depends only on the seed and the image's name, not on threads or their order.
    """

    SHARE = (0.35, 1.0)  # of the image's area
    LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))  # of its sides

    def __init__(self, size: int, seed: str) -> None:
        self._size, self._seed = size, seed

    def __call__(self, source: Source) -> Tensor:
        name = source.name.encode() if isinstance(source, Path) else source
        choose = np.random.default_rng(crc32(name, crc32(self._seed.encode())))
        image = open_image(source, self._size)
        size = (self._size, self._size)
        part = image.resize(size, Image.Resampling.BILINEAR, box=self._box(image.size, choose), reducing_gap=3.0)
        mirrored = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if choose.random() < 0.5 else part
        return to_tensor(mirrored)

    def _box(self, size: tuple[int, int], choose: np.random.Generator) -> tuple[float, float, float, float]:
        """A random box as in torchvision's RandomResizedCrop, which doesn't accept a generator."""
        width, height = size
        area = width * height * choose.uniform(*self.SHARE)
        ratio = math.exp(choose.uniform(*self.LOG_RATIO))
        across, down = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
        left, top = choose.uniform(0, width - across), choose.uniform(0, height - down)
        return (left, top, left + across, top + down)
