"""Tells images, truncated images, other files and system files apart."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from image_classifier.data.preprocessing import FORMATS

# Includes photo formats that only other programs decode (HEIC, RAW, …): these files are images that need converting.
_SUFFIXES = """
    .jpg .jpeg .jpe .jfif .png .apng .webp .gif .tif .tiff .bmp .dib .avif .avifs .heic .heics .heif .heifs .hif
    .jp2 .j2k .jpf .jpx .jxl .jxr .ico .tga .pbm .pgm .ppm .pnm .pfm .psd .exr .hdr .qoi
    .raw .dng .cr2 .cr3 .crw .nef .nrw .arw .sr2 .srf .orf .rw2 .raf .pef .srw .x3f .3fr .iiq .rwl .erf .mrw .kdc .dcr
"""
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
_SUFFIX = {"JPEG": ".jpg", "TIFF": ".tif", "HEIF": ".heic"}  # of formats whose suffix isn't their name

# Folders and files that systems, cameras and servers add, in lower case; hidden ones are skipped as well.
_SYSTEMS_OWN = frozenset(
    [
        "__macosx",
        "icon\r",
        "network trash folder",
        "temporary items",
        "$recycle.bin",
        "recycler",
        "recycled",
        "system volume information",
        "found.000",
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "lost+found",
        "lost.dir",
        "@eadir",
        "@tmp",
        "@sharebin",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "~snapshot",
        "__pycache__",
    ]
)

FIRST_BYTES = 32  # enough for every format's signature
KINDS_NAMED = 5

# A JPEG marker followed by a length, or the end marker; all others stand alone, inside a scan.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_JPEG_END = b"\xff\xd9"


def is_systems_own(name: str) -> bool:
    """Whether the file or folder belongs to the system, so it isn't one of the user's images or classes."""
    return name.startswith(".") or name.casefold() in _SYSTEMS_OWN


def suffix_of(data: bytes) -> str:
    """The usual suffix of an image file with this content, such as .jpg; .img if it is in no known format."""
    return next((_SUFFIX.get(name, f".{name.lower()}") for name in _formats(data[:FIRST_BYTES])), ".img")


def looks_like_image(path: Path) -> bool:
    """Whether the file is an image, by its name or else its first bytes; raises OSError."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    with path.open("rb") as file:
        start = file.read(FIRST_BYTES)
    if start.startswith(b"BM") and start[6:10] != bytes(4):
        return False  # a text about a BMW, say
    return any(_formats(start))


def _formats(start: bytes) -> Iterator[str]:
    """The formats of files that begin like this, by Pillow's names."""
    Image.init()
    return (name for name in FORMATS if Image.OPEN[name][1](start))  # type: ignore[misc]  # all of them have a check


def describe_skipped(skipped: Counter[str]) -> str:
    """The number of skipped files by suffix, in one line."""
    named = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in skipped.most_common(KINDS_NAMED)]
    if len(skipped) > KINDS_NAMED:
        named.append("…")
    count = skipped.total()
    return f"{count:,} other {'file' if count == 1 else 'files'} skipped ({', '.join(named)})"


def is_cut_short(data: bytes) -> bool:
    """Whether the end of an image file is certainly missing; False if anything else could be wrong with it."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    if data.startswith(b"\xff\xd8\xff"):
        return not data.rstrip(b"\0").endswith(_JPEG_END) and _jpeg_has_no_end(data)
    if data.startswith(b"RIFF"):
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return data.startswith(b"BM") and len(data) < int.from_bytes(data[2:6], "little")


def _jpeg_has_no_end(data: bytes) -> bool:
    """Goes from segment to segment, since an embedded thumbnail has its own end marker."""
    at = 2
    while marker := _JPEG_MARKER.search(data, at):
        if marker.group() == _JPEG_END:
            return False
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return True
