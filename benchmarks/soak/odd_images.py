"""Images that cost a decoder much more than their size says, and odd ones that browsers show."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

LARGEST = 13_376  # pixels a side, just within the default of MAX_IMAGE_PIXELS
SCANS = 130


@dataclass(frozen=True)
class OddImage:
    """`predicted`: whether it must be; None if that depends on the memory that is free just then."""

    name: str
    mime: str
    data: bytes
    predicted: bool | None


def odd_images() -> list[OddImage]:
    """One of each kind; what follows the end of such a file makes a new one of it."""
    made: dict[str, tuple[str, Callable[[], bytes], bool | None]] = {
        "tiny WebP of 179 megapixels": ("webp", lambda: _webp(LARGEST), None),
        "tiny WebP of 36 megapixels": ("webp", lambda: _webp(6000), None),
        "tiny PNG of 179 megapixels": ("png", _png, None),
        "tiny TIFF of 64 megapixels": ("tiff", _tiff, None),
        "JPEG with repeated scans": ("jpeg", _repeated_scans, False),
        "PNG with long texts": ("png", _long_texts, True),
    }
    return [OddImage(name, f"image/{kind}", make(), predicted) for name, (kind, make, predicted) in made.items()]


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _webp(side: int) -> bytes:
    return _encoded(Image.new("RGBA", (side, side)), "WEBP", lossless=True, quality=0, method=0)


def _png() -> bytes:
    image = Image.new("P", (LARGEST, LARGEST))
    image.putpalette([0] * 768)
    return _encoded(image, "PNG", transparency=0)


def _tiff() -> bytes:
    return _encoded(Image.new("F", (8000, 8000)), "TIFF", compression="tiff_adobe_deflate")


def _repeated_scans() -> bytes:
    data = _encoded(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    scan = data[max(data.rindex(b"\xff\xc4"), data.rindex(b"\xff\xda")) : -2]
    return data[:-2] + scan * SCANS + data[-2:]


def _long_texts() -> bytes:
    data = _encoded(Image.new("RGB", (64, 64), (200, 30, 30)), "PNG")
    text = _chunk(b"tEXt", b"Comment\0" + b"a" * 2_000_000)
    packed = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000)))
    header = 33  # the signature, and the IHDR chunk
    return data[:header] + text + packed + data[header:]


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
