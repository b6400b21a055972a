"""A file or bytes → a tensor: the one definition for training, evaluation and serving."""

from dataclasses import asdict, dataclass
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

Source = Path | bytes

# Formats that Label Studio shows; others (EPS, FITS, PSD, …) only widen what a hostile file can reach.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
MAX_PIXELS = 178_956_970  # by default: as many as Pillow decodes before it calls an image a decompression bomb

# Pillow's own check warns at half of this; `open_image` refuses by itself, with the remedy.
Image.MAX_IMAGE_PIXELS = None
_max_pixels = MAX_PIXELS
REDUCING_GAP = 2  # that a JPEG is decoded larger than needed, at least


class ImageError(ValueError):
    """An image that cannot be decoded; the message says why."""


class PerhapsSound(ImageError):
    """Nothing is known against the image itself: it is too large for this process, or could not be read just now."""


def limit_pixels(max_pixels: int) -> None:
    """How large an image this process decodes: like Pillow's own limit it guards the memory of the whole process."""
    global _max_pixels
    _max_pixels = max_pixels


def open_image(source: Source, wanted: int | None = None) -> Image.Image:
    """The image's first frame, upright (EXIF), in RGB, transparency on white.

    Where only `wanted` pixels of its short side are needed, a JPEG may come at a half, a quarter or an eighth of its
    size, with twice as many at least: that much faster, and scaled down it differs by less than one of 255 on average.
    Raises ImageError where the bytes are no image of a known format or are cut short; PerhapsSound where they hold too
    many pixels, or cannot be had.
    """
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            width, height = image.size
            if width * height > _max_pixels:
                raise PerhapsSound(
                    f"{width}×{height} is more than {_max_pixels:,} pixels: scale it down or raise MAX_IMAGE_PIXELS"
                )
            if wanted:
                scale = REDUCING_GAP * wanted / min(width, height)
                image.draft(None, (ceil(width * scale), ceil(height * scale)))
            image.load()
            return _to_rgb(_upright(image))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"not an image ({', '.join(FORMATS)} are read)") from error
    except MemoryError as error:
        raise PerhapsSound("there is too little memory to decode it: free some, or scale the image down") from error
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        if isinstance(error, OSError) and error.errno is not None:  # the system's; Pillow's own have no number
            raise PerhapsSound(f"cannot be read: {error}") from error
        raise ImageError(f"broken image: {error}") from error


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    """As EXIF says; ImageOps.exif_transpose also writes EXIF anew, and fails where another of its fields is odd."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # what cannot be read turns nothing
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # convert() would clip 16 bits to 8 instead of scaling them
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        pixels = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)
        low, high = float(pixels.min()), float(pixels.max())
        return Image.fromarray(((pixels - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side, crop the centre, normalize by the statistics of the pretrained weights."""

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

    def __call__(self, source: Source) -> Tensor:
        """uint8 [3, crop_size, crop_size]; raises ImageError."""
        return self.crop(open_image(source, self.resize_size))

    def crop(self, image: Image.Image) -> Tensor:
        """uint8 [3, crop_size, crop_size] from an RGB image of any size."""
        scale = self.resize_size / min(image.size)
        width, height = (max(self.crop_size, round(side * scale)) for side in image.size)
        left, top = (width - self.crop_size) // 2, (height - self.crop_size) // 2
        # One resampling of just the square that is kept: a 1×20000 strip must not become a huge image.
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + self.crop_size) * across, (top + self.crop_size) * down)
        resampling = Image.Resampling[self.interpolation.upper()]
        square = image.resize((self.crop_size, self.crop_size), resampling, box=box, reducing_gap=3.0)
        return to_tensor(square)

    def normalize(self, batch: Tensor) -> Tensor:
        """uint8 [n, 3, h, w] → float32 of the same shape, on the same device."""
        mean, std = (torch.tensor(values, device=batch.device)[:, None, None] for values in (self.mean, self.std))
        return torch.addcmul(-mean / std, batch.float(), 1 / (255 * std))  # one pass instead of three


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as uint8 [3, h, w]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
