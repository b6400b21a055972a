"""Finds the parts of an image file that make up its first picture, and the memory to decode them, without decoding.

Pillow also reads texts, color profiles and EXIF: it rejects a picture if one of them is faulty, and unpacks fields of
any length. So a decoder only gets the parts that browsers need to show the picture.
"""

import re
import struct
import zlib
from dataclasses import dataclass

MAX_PARTS = 200_000  # segments, chunks or blocks of a file, and strips or tiles of its picture
USUAL_SCANS = 20  # of a JPEG: no encoder makes more
MAX_SCANS = 1000
MAX_SCANNED_PIXELS = 2_000_000_000  # of all scans together, if there are more scans than usual
MAX_RLE_PIXELS = 20_000_000  # Pillow decodes run lengths in Python

SAVE_IT, SAVE_IT_AGAIN = "save the image as JPEG or PNG", "save the image again, as JPEG or PNG"
_BRANDS = {
    b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"heis": "HEIC",
    b"hevc": "HEIC", b"hevx": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC", b"crx ": "RAW (CR3)",
}  # fmt: skip
_OTHERS = (
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "PSD"),
    (b"%PDF-", "PDF"),
    (b"FUJIFILMCCD-RAW", "RAW (RAF)"),
    (b"IIRO", "RAW (ORF)"),
    (b"IIRS", "RAW (ORF)"),
    (b"IIU\0", "RAW (RW2)"),
    (b"\x1aE\xdf\xa3", "video (Matroska or WebM)"),
)


class Unreadable(ValueError):
    """A file format that isn't supported, or a file that would take a decoder far too long; says what to do."""


@dataclass(frozen=True)
class Picture:
    """The parts of a file that its picture needs, and the EXIF orientation (1 to 8) to show it in.

    `size` is set if opening the file already takes memory. `buffered` is the peak number of bytes that the decoder
    needs in addition to the decoded picture.
    """

    data: bytes
    orientation: int = 1
    size: tuple[int, int] | None = None
    buffered: int = 0


def read_structure(data: bytes) -> Picture:
    """Reads the structure of a file; raises Unreadable. Truncated or damaged files are left to the decoder."""
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return _gif(data)
        if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
            return _tiff(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data[4:8] == b"ftyp":
            return Picture(_without_exif(data))
    except (struct.error, IndexError, OverflowError):  # BigTIFF's offsets have 64 bits
        return Picture(data)
    return Picture(data)


def kind_of(data: bytes) -> str:
    """The common name of a file format that this process can't decode; "" if it isn't a well-known one."""
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "video (MP4 or QuickTime)")
    if b"<svg" in data[:1000].lower() and data[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "SVG"
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "video (AVI)"
    return next((kind for start, kind in _OTHERS if data.startswith(start)), "")


def remedy_of(kind: str) -> str:
    """How a person can fix a file of that format."""
    return f"install pillow-heif, or {SAVE_IT}" if kind == "HEIC" else SAVE_IT


def _count(parts: int) -> None:
    if parts > MAX_PARTS:
        raise Unreadable(f"it has more than {MAX_PARTS:,} parts: {SAVE_IT_AGAIN}")


# --- JPEG ---------------------------------------------------------------------

_SOI, _EOI, _SOS, _COM, _EXIF = 0xD8, 0xD9, 0xDA, 0xFE, 0xE1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_NEEDED = (0xE0, 0xEE)  # JFIF and Adobe say what the colors mean
_SCAN_OR_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


def _jpeg(data: bytes) -> Picture:
    parts, position, orientation = [data[:2]], 2, 1
    frame, buffered, seen = b"", 0, 0
    while (position := data.find(b"\xff", position)) >= 0:
        _count(seen := seen + 1)
        marker = data[position + 1]
        if marker in (0, 0xFF):
            position += 1
            continue
        if 0xD0 <= marker <= _EOI or marker == 1:  # they have no length
            parts.append(data[position : position + 2])
            position += 2
            continue
        if marker == _SOS:
            break
        end = position + 2 + struct.unpack_from(">H", data, position + 2)[0]
        segment = data[position:end]
        if marker == _EXIF and segment[4:10] == b"Exif\0\0" and orientation == 1:
            orientation = orientation_of(segment[4:])
        if marker in _FRAMES:
            frame = segment
        if marker in _NEEDED or not (0xE0 <= marker <= 0xEF or marker == _COM):
            parts.append(segment)
        position = end
    if position < 0:
        return Picture(b"".join(parts))
    if frame:
        height, width, components = struct.unpack_from(">HHB", frame, 5)
        scans = data.count(b"\xff\xda", position)
        # Multiples of 32 pixels, the largest unit of compression.
        pixels = -(-width // 32) * -(-height // 32) * 1024
        allowed = max(USUAL_SCANS, min(MAX_SCANS, MAX_SCANNED_PIXELS // max(1, pixels)))
        if scans > allowed:
            _check_scans(data, position, allowed)
        if frame[1] in _PROGRESSIVE or scans > 1 or data[position + 4] < components:
            buffered = 2 * components * pixels  # all coefficients, whatever the scale
    return Picture(b"".join([*parts, data[position:]]), orientation, None, buffered)


def _check_scans(data: bytes, position: int, allowed: int) -> None:
    """Counts the scans exactly, up to the end of the picture: other pictures or a video may follow it."""
    scans = 0
    while found := _SCAN_OR_END.search(data, position):
        marker, position = data[found.start() + 1], found.end()
        if marker == _EOI:
            return
        if marker not in (_SOI, 1):
            position += struct.unpack_from(">H", data, position)[0]
        scans += marker == _SOS
        if scans > allowed:
            raise Unreadable(f"it has more than {allowed:,} scans, too many to decode: {SAVE_IT_AGAIN}")


def orientation_of(exif: bytes) -> int:
    """EXIF's orientation; 1 if it is missing or can't be read."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is None:
            return 1
        start = struct.unpack_from(order + "I", exif, 4)[0]
        for entry in range(start + 2, start + 2 + 12 * struct.unpack_from(order + "H", exif, start)[0], 12):
            tag, kind = struct.unpack_from(order + "HH", exif, entry)
            if tag == _ORIENTATION:
                value: int = struct.unpack_from(order + {1: "B", 4: "I"}.get(kind, "H"), exif, entry + 8)[0]
                return value
    except struct.error:
        pass
    return 1


# --- PNG ----------------------------------------------------------------------


def _png(data: bytes) -> Picture:
    parts, position, orientation = [data[:8]], 8, 1
    kind, seen = b"", 0
    while position + 12 <= len(data) and kind != b"IEND":
        _count(seen := seen + 1)
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind == b"eXIf":
            orientation = orientation_of(data[position + 8 : end - 4])
        elif kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND") or (
            kind == b"tRNS" and end <= len(data) and _is_whole(data[position:end])
        ):
            parts.append(data[position:end])
        position = end
    return Picture(b"".join(parts), orientation)


def _is_whole(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]).to_bytes(4, "big") == chunk[-4:]


# --- WebP ---------------------------------------------------------------------


_WEBP_PIXEL = 14  # bytes: two canvases, the decoder's own pixels and those it returns


def _webp(data: bytes) -> Picture:
    """Reads the size first, since WebP's decoder creates its canvases as soon as it is opened."""
    kind, length = struct.unpack_from("<4sI", data, 12)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return _webp_of(data, width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return _webp_of(data, (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind != b"VP8X":
        return Picture(data)
    width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    orientation, frames, seen = 1, 0, 0
    parts = [b"VP8X\x0a\0\0\0" + bytes([data[20] & 0x12]) + data[21:30]]  # of the flags, animation and transparency
    position = 20 + length + length % 2
    while position + 8 <= len(data):
        _count(seen := seen + 1)
        kind, length = struct.unpack_from("<4sI", data, position)
        end = position + 8 + length + length % 2
        if kind == b"EXIF":
            orientation = orientation_of(data[position + 8 : end])
        elif kind in (b"ALPH", b"VP8 ", b"VP8L", b"ANIM") or (kind == b"ANMF" and not frames):
            parts.append(data[position:end])
            frames += kind == b"ANMF"
        position = end
    body = b"".join(parts)
    return _webp_of(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body, width, height, orientation)


def _webp_of(data: bytes, width: int, height: int, orientation: int = 1) -> Picture:
    return Picture(data, orientation, (width, height), _WEBP_PIXEL * width * height)


# --- GIF ----------------------------------------------------------------------


_GIF_BLOCK = re.compile(rb"[!,;]")


def _gif(data: bytes) -> Picture:
    """Removes comments and application data, which Pillow reads block by block."""
    position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    head, control, seen = data[:position], b"", 0
    while (block := _GIF_BLOCK.search(data, position)) and block[0] == b"!":
        start, position = block.start(), block.end() + 1
        while length := data[position]:
            _count(seen := seen + 1)
            position += 1 + length
        position += 1
        if data[start + 1] == 0xF9:
            control = data[start:position]
    return Picture(head + control + (data[block.start() :] if block else b""))


# --- TIFF ---------------------------------------------------------------------

_ORIENTATION, _SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES = 274, 254, 256, 257, 258, 259, 277
_ROWS, _TILE_WIDTH, _TILE_HEIGHT = 278, 322, 323
_STRIPS, _TILES = (273, 279), (324, 325)  # where they are, and their sizes
_SUB_DIRECTORIES, _DNG_VERSION = 330, 50706
_OF_PICTURE = frozenset(
    (
        _SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, 262, 266, *_STRIPS, _SAMPLES, _ROWS, 284, 292, 293, 317, 320,
        _TILE_WIDTH, _TILE_HEIGHT, *_TILES, 332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532, 50674,
    )
)  # fmt: skip
_KINDS = {1: "B", 3: "H", 4: "I", 16: "Q"}


def _tiff(data: bytes) -> Picture:
    """Adds a new directory at the end of the file that lists only the picture's fields."""
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    form, word = (order + "HHQ", order + "Q") if big else (order + "HHI", order + "I")
    head, width = (16, 8) if big else (8, 4)
    start = struct.unpack_from(word, data, head - width)[0]
    number = struct.unpack_from(order + ("Q" if big else "H"), data, start)[0]
    at, each = start + (8 if big else 2), 4 + 2 * width
    entries: dict[int, bytes] = {}
    for position in range(at, at + each * min(number, 65_535), each):
        entries.setdefault(struct.unpack_from(order + "H", data, position)[0], data[position : position + each])

    def values(tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
        if tag not in entries:
            return default
        _, kind, count = struct.unpack_from(form, entries[tag])
        _count(count)
        code = _KINDS.get(kind, "H")
        inside = count * struct.calcsize(code) <= width
        where = 0 if inside else struct.unpack(word, entries[tag][-width:])[0]
        found: tuple[int, ...] = struct.unpack_from(
            f"{order}{count}{code}", entries[tag][-width:] if inside else data, where
        )
        return found or default

    if _DNG_VERSION in entries or (_SUB_DIRECTORIES in entries and values(_SUBFILE, (0,))[0] == 1):
        raise Unreadable(f"camera RAW (such as DNG or NEF) is not supported: {SAVE_IT}")
    if data[8:10] == b"CR" and order == "<" and not big:
        raise Unreadable(f"camera RAW (CR2) is not supported: {SAVE_IT}")
    kept = [entries[tag] for tag in sorted(_OF_PICTURE & entries.keys())]
    for entry in kept:
        _count(struct.unpack_from(form, entry)[2])
    columns, rows = values(_WIDTH, (0,))[0], values(_HEIGHT, (0,))[0]
    orientation = values(_ORIENTATION, (1,))[0]
    bits = values(_BITS, (1,))
    sample_bits = max(bits) * max(len(bits), values(_SAMPLES, (1,))[0])
    if _TILE_WIDTH in entries:
        pixels = values(_TILE_WIDTH, (0,))[0] * values(_TILE_HEIGHT, (0,))[0]
    else:
        pixels = columns * min(rows, values(_ROWS, (rows,))[0])
    places, sizes = (values(tag, ()) for tag in (_TILES if _TILES[0] in entries else _STRIPS))
    if values(_COMPRESSION, (1,))[0] in (6, 7):
        _check_jpegs(data, places, sizes, pixels, columns * rows)
    # One strip or tile as it is stored, and either RGBA or the coefficients of a progressive JPEG.
    buffered = pixels * (-(-sample_bits // 8) + 8) + 1000 * len(places)
    directory = struct.pack(order + ("Q" if big else "H"), len(kept)) + b"".join(kept) + struct.pack(word, 0)
    padding = bytes(len(data) % 2)
    begun = data[: head - width] + struct.pack(word, len(data) + len(padding))
    return Picture(begun + data[head:] + padding + directory, orientation, (columns, rows), buffered)


def _check_jpegs(data: bytes, places: tuple[int, ...], sizes: tuple[int, ...], pixels: int, all_pixels: int) -> None:
    """Raises Unreadable for strips that overlap, which would be decoded again and again, and for too many scans."""
    if len(sizes) < len(places) or sum(sizes) > len(data):
        raise Unreadable(f"its strips or tiles overlap: {SAVE_IT_AGAIN}")
    scans = sum(data.count(b"\xff\xda", place, place + size) for place, size in zip(places, sizes, strict=False))
    if scans * min(pixels, all_pixels) > MAX_SCANNED_PIXELS:
        raise Unreadable(f"its {scans:,} scans would take too long to decode: {SAVE_IT_AGAIN}")


# --- BMP, and AVIF and its kin --------------------------------------------------


def _bmp(data: bytes) -> Picture:
    header = struct.unpack_from("<I", data, 14)[0]
    if header < 40:
        return Picture(data)
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression not in (1, 2):
        return Picture(data)
    pixels = abs(width * height)
    if pixels > MAX_RLE_PIXELS:
        raise Unreadable(f"{width}×{height} run-length encoded pixels would take too long to decode: {SAVE_IT}")
    return Picture(data, buffered=4 * pixels)


def _without_exif(data: bytes) -> bytes:
    """Removes EXIF from the boxes of ISO media; their orientation isn't stored in EXIF."""
    position = 0
    for _ in range(100):
        if position + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        if length == 1:
            length = struct.unpack_from(">Q", data, position + 8)[0]
        if kind == b"meta":
            box = data[position : position + length] if length else data[position:]
            return data[:position] + box.replace(b"Exif", b"none") + data[position + len(box) :]
        if length < 8:
            break
        position += length
    return data
