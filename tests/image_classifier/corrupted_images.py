"""Decodes corrupted images in a process of its own; prints what came of them and the peak of memory, as JSON.

`python -m tests.image_classifier.corrupted_images COUNT SEED`
"""

import io
import json
import random
import resource
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from image_classifier.data.preprocessing import ImageError, Preprocessing

SIZE = (96, 72)


def wholes(size: tuple[int, int] = SIZE) -> dict[str, bytes]:
    """A valid image of each kind that is read, of that width and height."""
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    rgb = Image.fromarray(pixels)
    sixteen = Image.fromarray((pixels[..., 0].astype(np.uint16) << 8) + 7)
    alpha = rgb.copy()
    alpha.putalpha(rgb.getchannel(0))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames: dict[str, Any] = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    kinds: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "JPEG": (rgb, "JPEG", {"exif": exif}),
        "JPEG progressive": (rgb, "JPEG", {"progressive": True}),
        "JPEG CMYK": (rgb.convert("CMYK"), "JPEG", {}),
        "JPEG grey": (rgb.convert("L"), "JPEG", {}),
        "PNG": (rgb, "PNG", {"exif": exif}),
        "PNG palette": (rgb.convert("P"), "PNG", {"transparency": 3}),
        "PNG 16 bits": (sixteen, "PNG", {}),
        "PNG alpha": (alpha, "PNG", {}),
        "WebP": (rgb, "WEBP", {}),
        "WebP lossless alpha": (alpha, "WEBP", {"lossless": True}),
        "WebP animated": (rgb, "WEBP", frames),
        "GIF": (rgb, "GIF", {}),
        "GIF animated": (rgb, "GIF", frames),
        "TIFF": (rgb, "TIFF", {}),
        "TIFF LZW": (rgb, "TIFF", {"compression": "tiff_lzw"}),
        "TIFF deflate": (alpha, "TIFF", {"compression": "tiff_deflate"}),
        "TIFF JPEG": (rgb, "TIFF", {"compression": "jpeg"}),
        "TIFF fax": (rgb.convert("1"), "TIFF", {"compression": "group4"}),
        "TIFF 16 bits": (sixteen, "TIFF", {}),
        "TIFF pages": (rgb, "TIFF", frames),
        "BMP": (rgb, "BMP", {}),
        "BMP palette": (rgb.convert("P"), "BMP", {}),
    }
    encoded = {}
    for name, (image, kind, options) in kinds.items():
        file = io.BytesIO()
        image.save(file, kind, **options)
        encoded[name] = file.getvalue()
    return encoded


def damage(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Flips bytes (half of the time in the head, where sizes stand), cuts, repeats or mixes."""
    damaged = bytearray(data)
    reach = 128 if chance.random() < 0.5 else len(damaged)
    for _ in range(chance.choice((1, 1, 2, 3, 5, 10, 50))):
        damaged[chance.randrange(min(reach, len(damaged)))] = chance.choice((0, 255, 127, 128, chance.randrange(256)))
    start, end = sorted(chance.randrange(len(damaged) + 1) for _ in range(2))
    how = chance.random()
    if how < 0.2:
        return bytes(damaged[:start])
    if how < 0.3:
        return bytes(damaged[:start] + damaged[end:])
    if how < 0.4:
        return bytes(damaged[:end] + damaged[start:])
    if how < 0.5:
        return bytes(damaged[:start] + chance.choice(others)[start:])
    return bytes(damaged)


def peak_kb() -> int:
    """The most memory that this process ever had; getrusage would tell that of its parent, where it was larger."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def main(count: int, seed: int) -> None:
    chance, preprocessing = random.Random(seed), Preprocessing()
    images = wholes()
    others, names = list(images.values()), list(images)
    for data in others:
        preprocessing(data)  # what is whole can be read
    before = peak_kb()
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for turn in range(count):
        data = damage(images[names[turn % len(names)]], others, chance)
        begun = time.monotonic()
        try:
            assert preprocessing(data).shape == (3, 224, 224)
            outcomes["read"] += 1
        except ImageError as error:
            assert str(error)
            outcomes["refused"] += 1
        slowest = max(slowest, time.monotonic() - begun)
    print(json.dumps({**outcomes, "slowest_seconds": round(slowest, 2), "before_kb": before, "peak_kb": peak_kb()}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]), int(sys.argv[2]))
