"""Images: an image is decoded, or refused with ImageError."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from image_classifier.data.image_structure import Unreadable, read_structure
from image_classifier.data.preprocessing import (
    MAX_MEMORY,
    MAX_PIXELS,
    ImageError,
    Preprocessing,
    limit_memory,
    limit_pixels,
)
from tests.fuzzing.target import Read, Target
from tests.image_classifier.corrupted_images import wholes

PIXELS = 1_000_000  # so that the largest image is decoded within the limit of time
MEMORY = 60_000_000
PREPROCESSING = Preprocessing()
WORDS = ("Exif", "IHDR", "IDAT", "PLTE", "tRNS", "eXIf", "IEND", "VP8X", "VP8L", "ALPH", "ANMF", "GIF89a", "ftypavif")


@contextmanager
def _open() -> Iterator[Read]:
    limit_pixels(PIXELS)
    limit_memory(MEMORY)
    try:
        yield _read
    finally:
        limit_pixels(MAX_PIXELS)
        limit_memory(MAX_MEMORY)


def _read(data: bytes) -> None:
    try:
        read_structure(data)
        assert PREPROCESSING(data).shape == (3, 224, 224)
    except (Unreadable, ImageError) as error:
        assert str(error)


def _seeds() -> Iterable[bytes]:
    return wholes((16, 12)).values()


TARGET = Target(_open, _seeds, WORDS, memory=2 * MEMORY)
