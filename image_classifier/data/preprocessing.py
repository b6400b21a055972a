"""Turns a file or bytes into a tensor, in the same way for training, evaluation and serving."""

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from image_classifier.data.image_structure import SAVE_IT, Picture, Unreadable, kind_of, read_structure, remedy_of
from image_classifier.data.memory import MemoryBudget, NotInTime, OverBudget

Source = Path | bytes

# Formats that browsers show; others (EPS, FITS, PSD, …) only give hostile files more to attack.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
with suppress(ImportError):
    import pillow_heif  # type: ignore[import-not-found, unused-ignore]

    pillow_heif.register_heif_opener()
    FORMATS = (*FORMATS, "HEIF")

# Pillow's names of formats that `kind_of` also finds in files that are damaged or that Pillow can't read
_NAMES = {"AVIF": "AVIF", "HEIC": "HEIF", "TIFF": "TIFF"}

MAX_PIXELS = 178_956_970  # default: Pillow's limit, above which an image counts as a decompression bomb
# Default for all images that a process decodes at the same time: a server with its network then stays below the 3 GiB
# that docker-compose.yml and deploy/kubernetes give it.
MAX_MEMORY = 1_500_000_000

# Pillow's own check already warns at half of this; `open_image` has its own check, which also says what to do.
Image.MAX_IMAGE_PIXELS = None
# One block of memory for each image. The C library returns blocks of more than 32 MB to the system as soon as they are
# free; those of 16 MB, Pillow's default, it keeps for the next image, separately for each thread.
Image.core.set_block_size(2**30)  # type: ignore[attr-defined]
_max_pixels = MAX_PIXELS
_FILES_SHARE = 6  # a sixth of the memory is for the files themselves
_for_files, _for_pixels = MemoryBudget(0), MemoryBudget(0)
REDUCING_GAP = 2  # a JPEG is decoded at least this many times larger than needed
RESIZING_GAP = 3  # other images are first reduced by a whole number, to at least this many times the needed size
DEPTHS = (8, 12, 16)  # bits that the values of a 16-bit grayscale image may use
BLOCK = 1024  # pixels: the side of the squares in which large images are converted
KEPT = 16_000_000  # bytes: a larger decoded image stays in the budget as long as it is in use
# Bytes per pixel in Pillow's memory (4 in other modes), in a row that decoders work on, and in a block being converted.
_IN_MEMORY = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
_IN_DECODER = {"AVIF": 20, "HEIF": 20}  # bytes per pixel, in addition to the picture
_IN_ROW = 32
_IN_BLOCK = 32


# More threads of a process don't decode faster, because they take turns in the interpreter, and delay all others.
MOST_THREADS = 8


class ImageError(ValueError):
    """An image that can't be decoded; the message says why."""


class PerhapsSound(ImageError):
    """The image itself may be fine: it is too large for this process, or can't be read at the moment."""


class FileGone(PerhapsSound):
    """The file was there when it was listed, and no longer is."""


class TooLate(PerhapsSound):
    """The deadline has passed."""


def decoding_threads() -> int:
    """How many threads of a process decode images fastest."""
    return max(2, min(MOST_THREADS, os.cpu_count() or 2))


def limit_pixels(max_pixels: int) -> None:
    """Sets the maximum number of pixels for this process; like Pillow's own limit, it protects its memory."""
    global _max_pixels
    _max_pixels = max_pixels


def limit_memory(total: int) -> None:
    """Sets how many bytes all images that this process decodes at the same time may take."""
    _for_files.resize(total // _FILES_SHARE)
    _for_pixels.resize(total - total // _FILES_SHARE)


limit_memory(MAX_MEMORY)


def open_image(source: Source, wanted: int | None = None, deadline: float = float("inf")) -> Image.Image:
    """The image's first frame, upright (EXIF), in RGB, transparency on white.

    If only `wanted` pixels of its short side are needed, a JPEG may be decoded at a half, a quarter or an eighth of its
    size, but at least twice the wanted size: this is that much faster, and after scaling it differs by less than 1 of
    255 on average. Other large images are reduced by a whole number, to at least three times the wanted size.

    The memory of all images that are decoded at the same time is limited, and the image waits for its share until
    `deadline` (monotonic seconds). Raises ImageError if the bytes aren't an image in a known format or are truncated;
    PerhapsSound if the image takes too much memory or time, or can't be read, and FileGone if there is no such file.
    """
    try:
        return _open(source, wanted, deadline)
    except ImageError:
        raise
    except Unreadable as error:
        raise PerhapsSound(str(error)) from error
    except MemoryError as error:
        raise PerhapsSound("not enough memory to decode it: free some, or scale the image down") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them raise
        if isinstance(error, OSError) and error.errno is not None:  # from the system; Pillow's own have no number
            kind = FileGone if isinstance(error, FileNotFoundError) else PerhapsSound
            raise kind(f"can't be read: {error}") from error
        raise ImageError(f"damaged image: {error}") from error


def _open(source: Source, wanted: int | None, deadline: float) -> Image.Image:
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    # The file's share is always reserved before the pixels' share, so that no two threads wait for each other.
    with _reserved(_for_files, 2 * size, deadline):  # for a moment, there are two copies
        picture = read_structure(source if isinstance(source, bytes) else source.read_bytes())
        if picture.size:  # opening such a file may take as much memory as decoding it
            _check_pixels(picture.size)
            needed = _memory_for(picture.size, "RGBA", "WEBP", _factor(picture.size, wanted), picture)
            with _reserved(_for_pixels, needed, deadline) as share:
                return share.keep(_decoded(_parsed(picture), _factor(picture.size, wanted), picture.orientation))
        image = _parsed(picture)
        _check_pixels(image.size)
        if image.format in _IN_DECODER:  # ISO media store the orientation outside of EXIF
            picture = replace(picture, orientation=image.getexif().get(ExifTags.Base.Orientation, 1))
        factor = _factor(image.size, wanted)
        if image.format == "JPEG" and wanted:
            scale = REDUCING_GAP * wanted / min(image.size)
            image.draft(None, (ceil(image.width * scale), ceil(image.height * scale)))
            factor = 1
        needed = _memory_for(image.size, image.mode, image.format or "", factor, picture)
        with _reserved(_for_pixels, needed, deadline) as share:
            return share.keep(_decoded(image, factor, picture.orientation))


class _Share:
    """Reserved bytes of a budget; some of them may stay reserved as long as an image is in use."""

    def __init__(self, budget: MemoryBudget, size: int) -> None:
        self._budget, self.size = budget, size

    def keep(self, image: Image.Image) -> Image.Image:
        taken = min(self.size, 4 * image.width * image.height)
        if taken > KEPT:
            weakref.finalize(image, self._budget.release, taken).atexit = False
            self.size -= taken
        return image


@contextmanager
def _reserved(budget: MemoryBudget, size: int, deadline: float) -> Iterator[_Share]:
    try:
        budget.reserve(size, deadline)
    except OverBudget as error:
        raise PerhapsSound(
            f"decoding it takes {size // 1_000_000:,} MB of memory, but only {budget.total // 1_000_000:,} MB is "
            "allowed: scale it down or raise MAX_IMAGE_MEMORY"
        ) from error
    except NotInTime as error:
        raise TooLate("not enough memory became free in time to decode it: try again") from error
    share = _Share(budget, size)
    try:
        yield share
    finally:
        budget.release(share.size)


def _parsed(picture: Picture) -> Image.Image:
    """Opens the image to get its size and mode, without decoding it."""
    try:
        return Image.open(BytesIO(picture.data), formats=FORMATS)
    except UnidentifiedImageError as error:
        kind = kind_of(picture.data)
        if _NAMES.get(kind) in FORMATS:
            raise PerhapsSound(f"the {kind} file can't be read; it may be damaged: {SAVE_IT}") from error
        if kind:
            raise PerhapsSound(f"{kind} is not supported: {remedy_of(kind)}") from error
        raise ImageError(f"not an image (supported formats: {', '.join(FORMATS)})") from error


def _check_pixels(size: tuple[int, int]) -> None:
    if size[0] * size[1] > _max_pixels:
        raise PerhapsSound(
            f"{size[0]}×{size[1]} is more than {_max_pixels:,} pixels: scale it down or raise MAX_IMAGE_PIXELS"
        )


def _factor(size: tuple[int, int], wanted: int | None) -> int:
    """The whole number to divide both sides by, the same as in `Image.resize` with this reducing gap."""
    return max(1, int(min(size) / wanted / RESIZING_GAP)) if wanted else 1


def _memory_for(size: tuple[int, int], mode: str, kind: str, factor: int, picture: Picture) -> int:
    """The peak memory of decoding, reducing and turning an image, in bytes."""
    pixels = size[0] * size[1]
    result = 4 * -(-size[0] // factor) * -(-size[1] // factor)
    decoded = pixels * (_IN_MEMORY.get(mode, 4) + _IN_DECODER.get(kind, 0)) + picture.buffered + _IN_ROW * size[0]
    converted = 0 if mode == "RGB" and factor == 1 else result + _IN_BLOCK * min(pixels, BLOCK * BLOCK)
    turned = 0 if picture.orientation == 1 else 2 * result
    return max(decoded + converted, turned)


def _decoded(image: Image.Image, factor: int, orientation: int) -> Image.Image:
    image.load()
    image = _to_rgb(image, factor)
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


_PHOTOMETRIC, _WHITE_IS_ZERO = ExifTags.Base.PhotometricInterpretation, 0


def _to_rgb(image: Image.Image, factor: int) -> Image.Image:
    """Converts a block at a time, so that a large image is never in memory in several modes."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image if factor == 1 else image.reduce(factor)
    convert = _converter(image)
    if image.width <= BLOCK and image.height <= BLOCK:
        return _reduced(convert(image), factor)
    result = Image.new("RGB", (ceil(image.width / factor), ceil(image.height / factor)))
    for block in _blocks(image, max(1, BLOCK // factor) * factor):
        left, top = block[0] // factor, block[1] // factor
        result.paste(_reduced(convert(image.crop(block)), factor), (left, top))
    return result


def _blocks(image: Image.Image, side: int) -> Iterator[tuple[int, int, int, int]]:
    for top in range(0, image.height, side):
        for left in range(0, image.width, side):
            yield left, top, min(image.width, left + side), min(image.height, top + side)


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    return image if factor == 1 else image.reduce(factor)


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """A function that converts a part of the image to RGB."""
    # In TIFF files, 0 may be white. Pillow inverts only those with up to 8 bits.
    flip = np.uint8(255 if image.format == "TIFF" and image.getexif().get(_PHOTOMETRIC) == _WHITE_IS_ZERO else 0)
    if image.mode.startswith("I;16"):
        # convert() would clip 16 bits to 8 instead of scaling them
        surplus = _significant_bits(image) - 8
        return lambda part: Image.fromarray((np.asarray(part) >> surplus).astype(np.uint8) ^ flip).convert("RGB")
    if image.mode in ("I", "F"):
        ends = [
            (float(part.min()), float(part.max()))
            for part in (_numbers(image.crop(block)) for block in _blocks(image, BLOCK))
        ]
        low, high = min(end[0] for end in ends), max(end[1] for end in ends)
        scale = 255 / max(high - low, 1e-6)
        return lambda part: Image.fromarray(((_numbers(part) - low) * scale).astype(np.uint8) ^ flip).convert("RGB")
    if image.has_transparency_data:
        return _on_white
    return lambda part: part.convert("RGB")


def _significant_bits(image: Image.Image) -> int:
    """How many of the 16 bits the image uses: cameras and scanners with 12 bits leave the highest ones at zero.

    Files don't say so reliably: PNG's sBIT chunk, for example, is about values that were then scaled to 16 bits.
    """
    highest = max(int(np.asarray(image.crop(block)).max()) for block in _blocks(image, BLOCK))
    return next(bits for bits in DEPTHS if highest < 1 << bits)


def _numbers(image: Image.Image) -> NDArray[np.float32]:
    return np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


@dataclass(frozen=True)
class Preprocessing:
    """Resizes the short side, crops the center, and normalizes with the statistics of the pretrained weights."""

    resize_size: int = 224
    crop_size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"  # or bicubic

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Preprocessing":
        statistics = tuple(record["mean"]), tuple(record["std"])
        return cls(record["resize_size"], record["crop_size"], *statistics, record.get("interpolation", "bilinear"))

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def __call__(self, source: Source, deadline: float = float("inf")) -> Tensor:
        """uint8 [3, crop_size, crop_size]; raises ImageError. Waits for memory until `deadline` (monotonic seconds)."""
        return self.crop(open_image(source, self.resize_size, deadline))

    def crop(self, image: Image.Image) -> Tensor:
        """uint8 [3, crop_size, crop_size] from an RGB image of any size."""
        scale = self.resize_size / min(image.size)
        width, height = (max(self.crop_size, round(side * scale)) for side in image.size)
        left, top = (width - self.crop_size) // 2, (height - self.crop_size) // 2
        # One resampling of just the square that is kept: a 1×20000 strip must not become a huge image.
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + self.crop_size) * across, (top + self.crop_size) * down)
        resampling = Image.Resampling[self.interpolation.upper()]
        square = image.resize((self.crop_size, self.crop_size), resampling, box=box, reducing_gap=RESIZING_GAP)
        return to_tensor(square)

    def normalize(self, batch: Tensor) -> Tensor:
        """uint8 [n, 3, h, w] → float32 of the same shape, on the same device."""
        mean, std = (torch.tensor(values, device=batch.device)[:, None, None] for values in (self.mean, self.std))
        return torch.addcmul(-mean / std, batch.float(), 1 / (255 * std))  # one pass instead of three


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as uint8 [3, h, w]."""
    # NumPy copies in this thread. torch would use all cores for each image, while other threads decode on them.
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
