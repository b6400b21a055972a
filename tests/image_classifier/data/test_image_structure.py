"""What a picture doesn't need hides no picture, and what would take a decoder minutes is refused before it."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from image_classifier.data import image_structure
from image_classifier.data.image_structure import MAX_PARTS, Unreadable, read_structure
from image_classifier.data.preprocessing import FORMATS, ImageError, PerhapsSound, open_image
from tests.image_classifier.data.test_preprocessing import AS_STORED, corners, encode, quadrants

# --- what a picture does not need -----------------------------------------------


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)
    )


LONG = zlib.compress(b"y" * 3_000_000)
IN_PNG = {
    "long zTXt": chunk(b"zTXt", b"workflow\0\0" + LONG),
    "long iTXt": chunk(b"iTXt", b"prompt\0\1\0\0\0" + LONG),
    "long iCCP": chunk(b"iCCP", b"profile\0\0" + LONG),
    "many long zTXt": b"".join(chunk(b"zTXt", b"%d\0\0" % number + LONG) for number in range(40)),
    "unknown compression": chunk(b"iCCP", b"profile\0\7" + LONG),
    "text that is no Latin-1": chunk(b"tEXt", "ключ\0".encode()),
    **{
        f"wrong checksum in {kind.decode()}": chunk(kind, data, crc=1)
        for kind, data in {
            b"pHYs": struct.pack(">IIB", 2835, 2835, 1),
            b"tEXt": b"a\0b",
            b"iCCP": b"p\0\0",
            b"gAMA": b"\0\0\0\1",
            b"tIME": bytes(7),
            b"eXIf": b"MM\0*",
            b"tRNS": bytes(6),
            b"prVt": b"private",
        }.items()
    },
    "gAMA that is too short": chunk(b"gAMA", b"\0"),
    "fcTL out of order": chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", struct.pack(">I", 7) + bytes(22)),
}


@pytest.mark.parametrize("extra", IN_PNG)
@pytest.mark.parametrize("where", ["before", "after"])
def test_png_is_read_whatever_else_is_in_it(extra: str, where: str) -> None:
    data = encode(quadrants(), "PNG")
    at = 33 if where == "before" else len(data) - 12
    assert corners(open_image(data[:at] + IN_PNG[extra] + data[at:])).tolist() == [list(color) for color in AS_STORED]


def test_png_with_a_damaged_header_is_broken() -> None:
    data = bytearray(encode(quadrants(), "PNG"))
    data[30] ^= 1
    with pytest.raises(ImageError):
        open_image(bytes(data))


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(data)) + data


@pytest.mark.parametrize(
    "extra",
    [
        segment(0xE1, b"Exif\0\0" + b"\xee" * 50),
        segment(0xE2, b"ICC_PROFILE\0\5\1" + b"q" * 10),
        segment(0xE2, b"MPF\0" + b"\xff" * 40),
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM" + b"\xff" * 20),
        segment(0xFE, b"\xff\xda\xff\xd9" * 100),
        b"\xff" * 20,
        segment(0xFE, b"") + b"\0\0\0",
    ],
    ids=["exif", "icc", "mpf", "photoshop", "comment", "fill", "junk"],
)
def test_jpeg_is_read_whatever_else_is_in_it(extra: bytes) -> None:
    data = encode(quadrants(), "JPEG", quality=95)
    assert np.abs(corners(open_image(data[:2] + extra + data[2:])) - AS_STORED).max() <= 8


def test_structure_keeps_the_picture_alone() -> None:
    data = encode(quadrants(), "PNG")
    assert read_structure(data[:33] + b"".join(IN_PNG.values()) + data[33:]).data == data
    data = encode(quadrants(), "JPEG")
    assert read_structure(data[:2] + segment(0xE1, bytes(60_000)) * 9 + data[2:]).data == data
    data = encode(quadrants(), "GIF")
    with_comment = data.replace(b",", b"!\xfe" + b"\xffx" * 128 + b"\0,", 1)
    assert len(read_structure(with_comment).data) <= len(data)


def test_fields_of_a_tiff_that_are_not_its_picture_are_left_out() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270], tags[274] = "a description" * 1000, 6
    data = encode(quadrants(), "TIFF", tiffinfo=tags)
    picture = read_structure(data)
    assert picture.orientation == 6
    with Image.open(io.BytesIO(picture.data)) as image:
        assert not {270, 274} & set(image.tag_v2)


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("profile", [b"", b"a profile" * 50], ids=["", "profile"])
def test_orientation_is_kept(kind: str, profile: bytes) -> None:
    options: dict[str, Any] = {"icc_profile": profile} if profile else {}
    assert open_image(encode(quadrants(), kind, exif=oriented(6), **options)).size == (32, 64)


def test_transparent_animation_shows_its_first_frame() -> None:
    first, second = Image.new("RGBA", (40, 20), (220, 30, 30, 255)), Image.new("RGBA", (40, 20), (0, 0, 255, 255))
    for kind in ("WEBP", "PNG", "GIF"):
        data = encode(first, kind, save_all=True, append_images=[second] * 5, exif=oriented(6))
        assert np.abs(np.asarray(open_image(data))[10, 10].astype(int) - (220, 30, 30)).max() <= 12


# --- what takes too long ----------------------------------------------------------


def repeated(data: bytes, times: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    scan = data.rindex(b"\xff\xc4") if data.rindex(b"\xff\xc4") > data.rindex(b"\xff\xda", 0, -2) else None
    start = scan if scan is not None else data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * times + data[-2:]


@pytest.mark.parametrize(("side", "times"), [(64, 1200), (4000, 130), (9000, 40)])
def test_jpeg_with_repeated_scans_is_refused(side: int, times: int) -> None:
    data = encode(Image.new("L", (side, side)), "JPEG", progressive=True)
    with pytest.raises(PerhapsSound, match="scans, too many to decode"):
        open_image(repeated(data, times))


@pytest.mark.parametrize("hidden", [b"\xff\xd9", b"\xff\xd9" * 50])
def test_end_of_image_in_a_comment_hides_no_scans(hidden: bytes) -> None:
    data = encode(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    scan = data.index(b"\xff\xda")
    data = repeated(data, 130)
    second = data.index(b"\xff\xda", scan + 2)
    with pytest.raises(Unreadable, match="scans"):
        read_structure(data[:second] + segment(0xFE, hidden) + data[second:])


def test_progressive_jpeg_with_others_behind_it_is_read() -> None:
    data = encode(quadrants(size=(4000, 4000)), "JPEG", progressive=True)
    assert open_image(data + b"\xff\xda" * 2000, 224).size == (500, 500)


def test_tiff_with_many_scans_in_its_strips_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.effect_noise((256, 256), 50), "TIFF", compression="jpeg", strip_size=4096)
    open_image(data)
    monkeypatch.setattr(image_structure, "MAX_SCANNED_PIXELS", 256 * 256 - 1)
    with pytest.raises(PerhapsSound, match="scans would take too long"):
        open_image(data)


def test_tiff_whose_strips_share_a_jpeg_is_refused() -> None:
    data = encode(Image.new("L", (256, 256)), "TIFF", compression="jpeg", strip_size=4096)
    with Image.open(io.BytesIO(data)) as image:
        sizes = image.tag_v2[279]
    with pytest.raises(PerhapsSound, match="overlap"):
        open_image(data.replace(struct.pack(f"<{len(sizes)}H", *sizes), struct.pack("<H", 60_000) * len(sizes)))


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + chunk(b"prVt", b"") * (MAX_PARTS + 1),
        b"\xff\xd8" + segment(0xFE, b"") * (MAX_PARTS + 1),
        b"\xff\xd8" + b"\xff" * (MAX_PARTS + 2),
        b"GIF89a" + bytes(7) + b"!\xfe" + b"\1x" * (MAX_PARTS + 1) + b"\0,",
        b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(10) + b"JUNK\0\0\0\0" * (MAX_PARTS + 1),
    ],
    ids=["PNG", "JPEG", "JPEG of fill bytes", "GIF", "WebP"],
)
def test_file_of_very_many_parts_is_refused(data: bytes) -> None:
    with pytest.raises(PerhapsSound, match="more than 200,000 parts"):
        open_image(data)


def test_tiff_of_very_many_strips_is_refused() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    data = encode(Image.new("L", (4, 4)), "TIFF", tiffinfo=tags)
    start = struct.unpack_from("<I", data, 4)[0]
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, entry)[0] == 273:
            many = data[: entry + 2] + struct.pack("<HI", 4, MAX_PARTS + 1) + struct.pack("<I", 0) + data[entry + 12 :]
    with pytest.raises(PerhapsSound, match="parts"):
        open_image(many)


def test_large_bitmap_of_run_lengths_is_refused() -> None:
    head = struct.pack("<IiiHHIIiiII", 40, 9000, 9000, 1, 8, 1, 0, 0, 0, 0, 0)
    with pytest.raises(PerhapsSound, match="run-length encoded pixels"):
        open_image(b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + head + bytes(1024) + b"\0\1")


# A sound TIFF file with one pixel of five channels, which Pillow can't read
FIVE_CHANNELS = (
    b"MM\0*" + struct.pack(">I5B3xH", 16, 1, 2, 3, 4, 5, 7)
    + b"".join(
        struct.pack(">HHIHH", tag, 3, 1, value, 0)
        for tag, value in {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 5}.items()
    )
    + bytes(4)
)  # fmt: skip

# --- what is named ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400),
            "the HEIC file can't be read; it may be damaged"
            if "HEIF" in FORMATS
            else "HEIC is not supported: install pillow-heif, or save",
        ),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1avif" + bytes(400), "the AVIF file can't be read; it may be damaged: save"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG is not supported: save the image as JPEG or PNG"),
        (b'<?xml version="1.0"?>\n<svg/>', "SVG is not supported"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL is not supported"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL is not supported"),
        (encode(quadrants(), "JPEG2000"), "JPEG 2000 is not supported"),
        (encode(quadrants(), "PDF"), "PDF is not supported"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", r"RAW \(CR3\) is not supported"),
        (b"FUJIFILMCCD-RAW 0201", r"RAW \(RAF\) is not supported"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "video .* is not supported"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(60), "RAW .CR2. is not supported"),
        (FIVE_CHANNELS, "the TIFF file can't be read; it may be damaged: save the image as JPEG or PNG"),
    ],
    # Names, as the bytes of a PDF contain the second in which it was made: each worker would have another test.
    ids=["HEIC", "AVIF", "SVG", "SVG as XML", "JXL", "JXL stream", "JP2", "PDF", "CR3", "RAF", "video", "CR2", "TIFF"],
)
def test_what_is_not_read_is_named_and_perhaps_sound(data: bytes, said: str) -> None:
    with pytest.raises(PerhapsSound, match=said):
        open_image(data)


@pytest.mark.parametrize("tags", [{50706: b"\1\4\0\0"}, {254: 1, 330: 8}], ids=["DNG", "NEF"])
def test_preview_of_a_raw_file_is_not_taken_for_the_picture(tags: dict[int, Any]) -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
    with pytest.raises(PerhapsSound, match="camera RAW"):
        open_image(encode(quadrants(), "TIFF", tiffinfo=info))


def test_big_tiff_with_an_offset_that_no_file_has_is_left_to_the_decoder() -> None:
    data = b"II+\0\x08\0\0\0" + b"\xff" * 8

    assert read_structure(data).data == data
    with pytest.raises(ImageError):
        open_image(data)
