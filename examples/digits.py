"""Writes scikit-learn's 1,797 handwritten digits as images, one folder per digit: python examples/digits.py digits

1,400 images for training are in `train/`; the others, mostly by other writers, are for testing and in `test/`.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

try:
    from sklearn.datasets import load_digits
except ModuleNotFoundError:
    sys.exit("The digits come from scikit-learn, which is not installed: run `make setup-dev`")

SIDE = 64  # pixels; the originals have 8
TRAINING = 1400


def write_digits(folder: Path) -> int:
    """Writes `folder/train/<digit>/0001.png`, …; returns the number of images."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True), start=1):
        gray = np.round(pixels * (255 / 16)).astype(np.uint8)  # the originals have 17 shades
        path = folder / ("train" if number <= TRAINING else "test") / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(gray).resize((SIDE, SIDE), Image.Resampling.NEAREST).save(path)
    return len(digits.target)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/digits.py FOLDER")
    print(f"Wrote {write_digits(Path(sys.argv[1])):,} digits to {sys.argv[1]}")
