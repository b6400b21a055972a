"""Real images within seconds and without a download: scikit-learn's 1,797 handwritten digits."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 64  # pixels; the originals have 8

LABELS = tuple("0123456789")

# The number keys select the digit. Without maxWidth, Label Studio would stretch the image across the page.
LABEL_CONFIG = """\
<View>
  <Image name="image" value="$image" maxWidth="320px"/>
  <Choices name="digit" toName="image" choice="single" showInline="true">
{choices}
  </Choices>
</View>
""".format(choices="\n".join(f'    <Choice value="{label}" hotkey="{label}"/>' for label in LABELS))


def write_digits(folder: Path, n: int | None = None) -> list[tuple[Path, str]]:
    """Writes the first `n` digits (all by default) as PNG files; returns the path and label of each, in order.

    Each original pixel becomes a square. Without a smoothing filter, the pixels are the same with every version of
    Pillow.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    written = []
    for number, (pixels, label) in enumerate(zip(digits.images[:n], digits.target[:n], strict=True), start=1):
        gray = np.round(pixels * (255 / 16)).astype(np.uint8)  # the originals have 17 shades
        path = folder / f"digit-{number:04d}.png"
        Image.fromarray(gray).resize((SIDE, SIDE), Image.Resampling.NEAREST).save(path)
        written.append((path, str(label)))
    return written
