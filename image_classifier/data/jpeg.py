"""Images made small enough to show them."""

from io import BytesIO
from pathlib import Path

from image_classifier.data.preprocessing import open_image

QUALITY = 82


def as_jpeg(path: Path, side: int) -> bytes:
    """The image as a JPEG of at most `side` pixels in width and height, never enlarged; raises ImageError."""
    image = open_image(path, side)
    image.thumbnail((side, side))
    data = BytesIO()
    image.save(data, "JPEG", quality=QUALITY)
    return data.getvalue()
