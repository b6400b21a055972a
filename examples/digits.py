"""Writes scikit-learn's 1,797 handwritten digits as images in a folder for each: python examples/digits.py digits

1,400 are for training, under `train/`; the others, mostly by other writers, are for testing, under `test/`.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

try:
    from sklearn.datasets import load_digits
except ModuleNotFoundError:
    sys.exit("scikit-learn has the digits: run `make setup-dev` first")

SIDE = 64  # pixels; the originals have 8
TRAINING = 1400


def write_digits(folder: Path) -> int:
    """`folder/train/<digit>/0001.png`, …; returns how many."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True), start=1):
        grey = np.round(pixels * (255 / 16)).astype(np.uint8)  # the originals have 17 shades
        path = folder / ("train" if number <= TRAINING else "test") / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.NEAREST).save(path)
    return len(digits.target)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/digits.py FOLDER")
    print(f"{write_digits(Path(sys.argv[1]))} digits in {sys.argv[1]}")
