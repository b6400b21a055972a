"""Folders of images to look through."""

from pathlib import Path

import numpy as np
from PIL import Image

from image_classifier.data.folders import Listing, examine, list_folder


def picture(path: Path, seed: int, side: int = 32, kind: str = "PNG") -> Path:
    """Noise, another one for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, kind)
    return path


def two_classes(folder: Path) -> Path:
    """Two images each."""
    for number, name in enumerate(("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")):
        picture(folder / name, number)
    return folder


def looked_through(folder: Path) -> Listing:
    listing = list_folder(folder)
    examine(listing)
    return listing
