"""Every kind of image becomes the same tensor, or an ImageError that says why not."""

import errno
import io
import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, TiffImagePlugin
from sklearn.datasets import load_sample_image
from torchvision.transforms.v2 import functional

from image_classifier.data.preprocessing import (
    MAX_PIXELS,
    ImageError,
    PerhapsSound,
    Preprocessing,
    decoding_threads,
    limit_pixels,
    open_image,
    to_tensor,
)

RED, GREEN, BLUE, YELLOW, WHITE, BLACK = (
    (220, 30, 30), (30, 200, 40), (20, 40, 210), (230, 220, 40), (255, 255, 255), (0, 0, 0),
)  # fmt: skip

# Top left, top right, bottom left, bottom right
AS_STORED = (RED, GREEN, BLUE, YELLOW)


def quadrants(colors: Sequence[tuple[int, ...]] = AS_STORED, size: tuple[int, int] = (64, 32)) -> Image.Image:
    """Four colours, in blocks that JPEG's 16×16 units do not mix."""
    image = Image.new("RGB", size)
    width, height = size[0] // 2, size[1] // 2
    for number, color in enumerate(colors):
        image.paste(
            color, (number % 2 * width, number // 2 * height, (number % 2 + 1) * width, (number // 2 + 1) * height)
        )
    return image


def corners(image: Image.Image) -> np.ndarray:
    """The colours in the middles of the four quadrants."""
    width, height = image.size
    return np.array([image.getpixel((width * x // 4, height * y // 4)) for y in (1, 3) for x in (1, 3)], dtype=int)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey(data: bytes) -> list[list[int]]:
    """The pixels of an image that must be grey."""
    pixels = np.asarray(open_image(data))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0].tolist()


# --- formats and modes ------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95}, 8),
        ("JPEG", {"quality": 95, "progressive": True}, 8),
        ("JPEG", {"quality": 95, "subsampling": 0}, 8),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 90}, 12),
        ("GIF", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
        ("TIFF", {"compression": "jpeg", "quality": 95}, 12),
        ("BMP", {}, 0),
        ("AVIF", {"quality": 90}, 12),
    ],
    ids=str,
)
def test_each_format_keeps_its_pixels(kind: str, options: dict[str, Any], tolerance: int) -> None:
    image = open_image(encode(quadrants(), kind, **options))
    assert (image.mode, image.size) == ("RGB", (64, 32))
    assert np.abs(corners(image) - AS_STORED).max() <= tolerance


def test_heic_keeps_its_pixels_and_is_upright() -> None:
    pytest.importorskip("pillow_heif")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        found, expected = (
            open_image(encode(quadrants(), kind, quality=95, exif=exif.tobytes())) for kind in ("HEIF", "JPEG")
        )
        assert (found.mode, found.size) == ("RGB", expected.size)
        assert np.abs(np.subtract(corners(found), corners(expected))).max() <= 12


@pytest.mark.parametrize(
    ("mode", "kind", "tolerance"),
    [
        ("CMYK", "JPEG", 8),
        ("CMYK", "TIFF", 2),
        ("YCbCr", "TIFF", 3),
        ("P", "PNG", 0),
        ("P", "BMP", 0),
        ("P", "TIFF", 0),
        ("RGBA", "PNG", 0),
        ("RGBA", "TIFF", 0),
    ],
)
def test_each_mode_keeps_its_colors(mode: str, kind: str, tolerance: int) -> None:
    stored = quadrants().quantize(4) if mode == "P" else quadrants().convert(mode)
    data = encode(stored, kind)
    assert Image.open(io.BytesIO(data)).mode == mode
    assert np.abs(corners(open_image(data)) - AS_STORED).max() <= tolerance


def test_lab_colors_are_converted() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(quadrants(), to_lab)
    assert lab is not None
    assert np.abs(corners(open_image(encode(lab, "TIFF"))) - AS_STORED).max() <= 6


@pytest.mark.parametrize(("mode", "kind"), [("1", "PNG"), ("1", "TIFF"), ("L", "PNG"), ("L", "JPEG"), ("L", "GIF")])
def test_black_and_white_stay_black_and_white(mode: str, kind: str) -> None:
    image = Image.new(mode, (16, 8))
    image.paste(255, (8, 0, 16, 8))
    assert grey(encode(image, kind)) == [[0] * 8 + [255] * 8] * 8


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(kind: str) -> None:
    pixels = np.array([[0, 255, 256], [0x80FF, 0xFEFF, 0xFFFF]], np.uint16)
    assert grey(encode(Image.fromarray(pixels), kind)) == [[0, 0, 1], [128, 254, 255]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ([[0, 2048, 4095]], [[0, 128, 255]]),  # a camera or a scanner with 12 bits
        ([[0, 2048, 4096]], [[0, 8, 16]]),
        ([[0, 128, 255]], [[0, 128, 255]]),
        ([[0, 128, 256]], [[0, 8, 16]]),
        ([[0, 0, 0]], [[0, 0, 0]]),
    ],
    ids=["12 bits", "16 bits", "8 bits", "12 bits, dark", "black"],
)
def test_sixteen_bits_with_fewer_significant_ones_are_not_black(
    pixels: list[list[int]], expected: list[list[int]], kind: str
) -> None:
    assert grey(encode(Image.fromarray(np.array(pixels, np.uint16)), kind)) == expected


@pytest.mark.parametrize("compression", [None, "tiff_deflate"])
@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([[0, 2048, 4095]], np.uint16), [[255, 127, 0]]),
        (np.array([[0, 0x8000, 0xFFFF]], np.uint16), [[255, 127, 0]]),
        (np.array([[0, 1, 4]], np.float32), [[255, 192, 0]]),
    ],
    ids=["12 bits", "16 bits", "fractions"],
)
def test_zero_may_be_white_in_a_tiff(pixels: Any, expected: list[list[int]], compression: str | None) -> None:
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "TIFF", tiffinfo={262: 0}, compression=compression)
        assert grey(file.getvalue()) == expected


def test_large_negative_is_inverted_as_a_whole() -> None:
    with io.BytesIO() as file:
        Image.fromarray(np.full((2, 3000), 0xFFFF, np.uint16)).save(file, "TIFF", tiffinfo={262: 0})
        assert grey(file.getvalue()) == [[0] * 3000] * 2


def test_significant_bits_are_those_of_the_whole_image() -> None:
    pixels = np.full((2, 3000), 100, np.uint16)
    pixels[1, 2999] = 4095
    wide = grey(encode(Image.fromarray(pixels), "PNG"))
    assert (wide[0][0], wide[1][2999]) == (6, 255)


def test_twelve_bits_of_a_tiff_are_scaled_to_eight() -> None:
    packed = bytes([0x00, 0x08, 0x00, 0xFF, 0xFF, 0x00])  # 0, 2048, 4095, 3840
    fields = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    head = b"II" + struct.pack("<HI", 42, 8 + len(packed))
    assert grey(head + packed + struct.pack("<H", len(fields)) + entries + bytes(4)) == [[0, 128, 255, 240]]


def test_sixteen_bits_of_each_color_are_scaled_to_eight() -> None:
    rows = b"".join(b"\0" + struct.pack(">6H", *row) for row in ([65535, 0, 256, 0, 65535, 32768], [0] * 6))
    assert np.asarray(open_image(png(2, 2, rows, depth=16, color=2)))[0].tolist() == [[255, 0, 1], [0, 255, 128]]


def png(width: int, height: int, rows: bytes, *, depth: int = 8, color: int = 2) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_numbers_without_a_scale_are_spread_from_black_to_white(kind: type) -> None:
    pixels = np.array([[-1000, 0], [1000, 3000]], kind)
    assert grey(encode(Image.fromarray(pixels), "TIFF")) == [[0, 63], [127, 255]]


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ([[7.5, 7.5]], [[0, 0]]),
        ([[np.nan, 1], [2, 4]], [[0, 63], [127, 255]]),
        ([[np.inf, -np.inf], [0, 1]], [[0, 0], [0, 255]]),
    ],
    ids=["all the same", "not a number", "infinite"],
)
def test_odd_numbers_do_no_harm(pixels: list[list[float]], expected: list[list[int]]) -> None:
    assert grey(encode(Image.fromarray(np.array(pixels, np.float32)), "TIFF")) == expected


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_lies_on_white(kind: str) -> None:
    image = Image.new("RGBA", (48, 16), (*RED, 255))
    image.paste((255, 0, 0, 0), (16, 0, 32, 16))
    image.paste((255, 0, 0, 128), (32, 0, 48, 16))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    opened = open_image(encode(image, kind, **options))
    assert [opened.getpixel((x, 8)) for x in (8, 24, 40)] == [RED, WHITE, (255, 127, 127)]


def test_grey_transparency_lies_on_white() -> None:
    image = Image.new("LA", (3, 1), (60, 255))
    image.putpixel((1, 0), (0, 0))
    image.putpixel((2, 0), (0, 128))
    assert grey(encode(image, "PNG")) == [[60, 255, 127]]


@pytest.mark.parametrize(
    ("kind", "transparency"), [("PNG", 1), ("PNG", bytes([255, 0, 255, 255])), ("GIF", 1)], ids=str
)
def test_a_transparent_palette_lies_on_white(kind: str, transparency: int | bytes) -> None:
    image = Image.new("P", (64, 32))
    image.putpalette([value for color in AS_STORED for value in color])
    for number in range(4):
        left, top = number % 2 * 32, number // 2 * 16
        image.paste(number, (left, top, left + 32, top + 16))
    data = encode(image, kind, transparency=transparency)
    assert corners(open_image(data)).tolist() == [list(color) for color in (RED, WHITE, BLUE, YELLOW)]


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_of_many_frames_counts(kind: str) -> None:
    others = [Image.new("RGB", (64, 32), color) for color in (BLACK, WHITE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(quadrants(), kind, save_all=True, append_images=others, **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert corners(open_image(data)).tolist() == [list(color) for color in AS_STORED]


# --- EXIF -------------------------------------------------------------------

# What a viewer shows of quadrants stored as red, green / blue, yellow.
SHOWN = {
    1: (RED, GREEN, BLUE, YELLOW),
    2: (GREEN, RED, YELLOW, BLUE),
    3: (YELLOW, BLUE, GREEN, RED),
    4: (BLUE, YELLOW, RED, GREEN),
    5: (RED, BLUE, GREEN, YELLOW),
    6: (BLUE, RED, YELLOW, GREEN),
    7: (YELLOW, GREEN, BLUE, RED),
    8: (GREEN, YELLOW, RED, BLUE),
}


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
    ids=str,
)
def test_images_stand_upright(kind: str, options: dict[str, Any], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_image(encode(quadrants(), kind, exif=exif, **options))
    assert opened.size == ((32, 64) if orientation in (5, 6, 7, 8) else (64, 32))
    assert np.abs(corners(opened) - SHOWN[orientation]).max() <= 8


@pytest.mark.parametrize("mode", ["P", "L", "CMYK", "I;16"])
def test_images_stand_upright_in_every_mode(mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    if mode == "P":
        stored = quadrants().quantize(4)
    elif mode == "I;16":
        stored = Image.fromarray(np.asarray(quadrants().convert("L")).astype(np.uint16) << 8)
    else:
        stored = quadrants().convert(mode)
    upright = open_image(encode(stored, "TIFF" if mode == "CMYK" else "PNG", exif=exif))
    flat = open_image(encode(stored, "TIFF" if mode == "CMYK" else "PNG"))
    assert np.array_equal(np.asarray(upright), np.rot90(np.asarray(flat), -1))


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [(0x0103, 2, "x"), (0x010F, 5, 5), (0x010F, 12, 5.0), (0x0100, 7, b"a"), (0x011A, 2, "a")],
    ids=["compression", "maker as a fraction", "maker as a number", "width", "resolution"],
)
def test_an_odd_field_of_exif_does_not_hide_the_orientation(tag: int, kind: int, value: object) -> None:
    fields = TiffImagePlugin.ImageFileDirectory_v2()
    fields.tagtype[tag] = kind
    fields[0x0112], fields[tag] = 6, value
    exif = b"Exif\0\0II*\0\x08\0\0\0" + fields.tobytes(8)
    opened = open_image(encode(quadrants(), "JPEG", quality=95, exif=exif))
    assert np.abs(corners(opened) - SHOWN[6]).max() <= 8


@pytest.mark.filterwarnings("ignore")  # Pillow says what is broken
@pytest.mark.parametrize("exif", [b"", b"nonsense", b"II*\0\x08\0\0\0\xff\xff", b"MM\0*\xff\xff\xff\xff", b"II*\0"])
def test_broken_exif_does_not_break_the_image(exif: bytes) -> None:
    opened = open_image(encode(quadrants(), "JPEG", quality=95, exif=b"Exif\0\0" + exif))
    assert np.abs(corners(opened) - AS_STORED).max() <= 8


# --- what is refused --------------------------------------------------------

NO_IMAGE = r"not an image \(supported formats: JPEG, PNG, WEBP, GIF, TIFF, BMP, AVIF(, HEIF)?\)"


def noise(width: int = 64, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a cat on a mat",
        b"<!DOCTYPE html><html><body>Log in</body></html>",
        encode(noise(), "EPS"),
        encode(noise(), "PPM"),
        encode(noise(), "ICO"),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"PK\x03\x04" + bytes(100),
        bytes(range(256)) * 4,
    ],
    ids=["empty", "text", "html", "eps", "ppm", "ico", "png's start", "jpeg's start", "gif's start",
         "zip", "noise"],
)  # fmt: skip
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match=NO_IMAGE):
        open_image(data)


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
    ],
    ids=str,
)
def test_a_file_that_is_cut_short_is_refused(kind: str, options: dict[str, Any], share: float) -> None:
    data = encode(noise(), kind, **options)
    open_image(data)
    with pytest.raises(ImageError, match=r"^(damaged image: .+|not an image .+)$"):
        open_image(data[: int(len(data) * share)])


def test_more_pixels_than_memory_holds_are_refused_before_they_are_decoded() -> None:
    side = 20_000
    with pytest.raises(ImageError, match=r"^20000×20000 is more than 178,956,970 pixels: .*MAX_IMAGE_PIXELS$"):
        open_image(png(side, side, b""))  # decoded, it would be called broken
    assert side * side > MAX_PIXELS


@pytest.fixture
def own_limit() -> Iterator[None]:
    yield
    limit_pixels(MAX_PIXELS)


def test_as_many_pixels_as_allowed_are_read(own_limit: None) -> None:
    limit_pixels(12)
    open_image(encode(noise(4, 3), "PNG"))
    with pytest.raises(PerhapsSound, match="scale it down"):
        open_image(encode(noise(13, 1), "PNG"))


@pytest.mark.slow  # it takes 400 MB of memory
def test_a_huge_image_is_read_where_that_is_allowed(own_limit: None) -> None:
    side = 20_000
    limit_pixels(side * side)
    data = png(side, side, bytes(1 + side // 8) * side, depth=1, color=0)
    assert open_image(data, 224).size == (690, 690)


def test_a_missing_file_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(PerhapsSound, match=r"^can't be read: .*No such file"):
        open_image(tmp_path / "gone.png")


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (OSError(errno.EIO, "Input/output error"), "can't be read: .*Input/output error"),
        (OSError(errno.EMFILE, "Too many open files"), "can't be read: .*Too many open files"),
        (MemoryError(), "not enough memory"),
    ],
    ids=repr,
)
def test_what_is_no_fault_of_the_image_is_told_apart(
    trouble: Exception, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(noise(), "PNG"))

    def fail(*arguments: Any) -> None:
        raise trouble

    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(PerhapsSound, match=message):
        open_image(path)


@pytest.mark.parametrize("data", [b"a cat", encode(noise(), "JPEG")[:-900], encode(noise(), "PNG")[:900]])
def test_what_is_broken_is_the_images_own_fault(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(data)
    for source in (data, tmp_path / "a"):
        with pytest.raises(ImageError) as refused:
            open_image(source)
        assert not isinstance(refused.value, PerhapsSound)


def test_a_path_and_its_bytes_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "an image without a suffix"
    path.write_bytes(encode(noise(), "JPEG"))
    preprocess = Preprocessing(32, 32)
    assert torch.equal(preprocess(path), preprocess(path.read_bytes()))


# --- geometry ---------------------------------------------------------------


def smooth(width: int, height: int) -> Image.Image:
    """Waves, as different along both sides as photographs are."""
    x, y = np.meshgrid(np.linspace(0, 5, width), np.linspace(0, 3, height))
    waves = np.stack([np.sin(x + y), np.cos(2 * x), np.sin(3 * y)], axis=-1)
    return Image.fromarray(np.uint8(127.5 + 127 * waves))


SIZES = [(64, 64), (300, 200), (200, 300), (1000, 130), (131, 997), (65, 64), (40, 30), (9, 20)]


@pytest.mark.parametrize(("resize", "crop"), [(64, 64), (73, 64), (224, 224), (256, 224)])
@pytest.mark.parametrize("size", SIZES)
def test_the_crop_is_the_middle_of_the_resized_image(size: tuple[int, int], resize: int, crop: int) -> None:
    image = noise(*size)
    width, height = (round(side * resize / min(size)) for side in size)
    left, top = (width - crop) // 2, (height - crop) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    expected = to_tensor(resized.crop((left, top, left + crop, top + crop)))
    found = Preprocessing(resize, crop).crop(image)
    assert (found.dtype, found.shape) == (torch.uint8, (3, crop, crop))
    assert (found.int() - expected.int()).abs().max() <= 3  # of 255, even for noise


@pytest.mark.parametrize("size", SIZES)
def test_the_crop_is_torchvisions(size: tuple[int, int]) -> None:
    image = smooth(*size)
    resized = functional.resize(image, [224], interpolation=functional.InterpolationMode.BILINEAR)
    expected = to_tensor(functional.center_crop(resized, [224, 224]))
    # It rounds the longer side and the edges otherwise, by less than a pixel.
    assert (Preprocessing(224, 224).crop(image).int() - expected.int()).abs().max() <= 8


def test_an_image_of_the_right_size_is_left_as_it_is() -> None:
    image = noise(64, 64)
    assert torch.equal(Preprocessing(64, 64).crop(image), to_tensor(image))


def test_the_sides_of_a_wide_image_are_cut_off_equally() -> None:
    image = Image.new("RGB", (300, 100), RED)
    image.paste(GREEN, (100, 0, 200, 100))
    cropped = Preprocessing(50, 50).crop(image)
    assert (cropped == torch.tensor(GREEN)[:, None, None]).float().mean() > 0.95
    assert torch.equal(cropped[:, :, 5:-5], torch.tensor(GREEN, dtype=torch.uint8)[:, None, None].expand(3, 50, 40))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_single_pixel_fills_the_square(kind: str) -> None:
    tensor = Preprocessing(64, 64)(encode(Image.new("RGB", (1, 1), RED), kind))
    assert (tensor.int() - torch.tensor(RED)[:, None, None]).abs().max() <= 12


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1)])
def test_of_a_long_strip_the_middle_is_seen(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, BLUE)
    middle = tuple(max(0, side // 2 - 3) for side in size)
    image.paste(RED, (*middle, *(min(side, start + 6) for side, start in zip(size, middle, strict=True))))
    tensor = Preprocessing(224, 224)(encode(image, "PNG"))
    assert torch.equal(tensor, torch.tensor(RED, dtype=torch.uint8)[:, None, None].expand(3, 224, 224))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 80), st.integers(0, 40))
def test_whatever_the_size_nothing_beyond_the_image_is_seen(width: int, height: int, crop: int, margin: int) -> None:
    tensor = Preprocessing(crop + margin, crop).crop(Image.new("RGB", (width, height), YELLOW))
    assert tensor.shape == (3, crop, crop)
    assert (tensor.int() - torch.tensor(YELLOW)[:, None, None]).abs().max() <= 1  # Pillow's rounding


# --- normalization ----------------------------------------------------------


def test_normalizing_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    preprocess = Preprocessing(8, 8)
    batch = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = functional.normalize(batch.float() / 255, list(preprocess.mean), list(preprocess.std))
    torch.testing.assert_close(preprocess.normalize(batch), expected)


def test_the_record_gives_the_same_preprocessing() -> None:
    preprocess = Preprocessing(73, 64, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocessing.from_record(json.loads(json.dumps(preprocess.record()))) == preprocess


# --- JPEG at reduced size ---------------------------------


def photograph(size: tuple[int, int], mode: str = "RGB", orientation: int = 1, **options: Any) -> bytes:
    """A real one, with as much detail at its full size as it has."""
    picture = Image.fromarray(load_sample_image("china.jpg")).resize((640, 480))
    image = Image.new("RGB", size)
    for left in range(0, size[0], 640):
        for top in range(0, size[1], 480):
            image.paste(picture, (left, top))
    data = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.convert(mode).save(data, "JPEG", quality=90, exif=exif, **options)
    return data.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"orientation": 6}], ids=["", "progressive", "turned"])
@pytest.mark.parametrize(("size", "decoded"), [((1280, 960), (640, 480)), ((2560, 3840), (640, 960))])
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(
    size: tuple[int, int], decoded: tuple[int, int], mode: str, options: dict[str, Any]
) -> None:
    data = photograph(size, mode, **options)
    image = open_image(data, 224)
    assert image.size == (decoded[::-1] if "orientation" in options else decoded)

    preprocessing = Preprocessing()
    difference = (preprocessing(data).float() - preprocessing.crop(open_image(data)).float()).abs()
    assert float(difference.mean()) < 1
    assert float(difference.max()) < 24


@pytest.mark.parametrize("size", [(640, 480), (895, 895), (447, 2000)])
def test_a_jpeg_that_is_not_twice_as_large_as_needed_is_decoded_as_it_is(size: tuple[int, int]) -> None:
    assert open_image(photograph(size), 224).size == size


def test_all_of_a_file_is_read_where_it_is_decoded_smaller() -> None:
    with pytest.raises(ImageError, match="truncated"):
        open_image(photograph((1280, 960))[:-5000], 224)


def test_at_most_eight_threads_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for cores in (None, 1, 2, 6, 64):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        found.append(decoding_threads())
    assert found == [2, 2, 2, 6, 8]
