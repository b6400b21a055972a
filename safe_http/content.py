"""Tells images from other files by their first bytes, and explains what another file is."""

import re

LOOKED_AT = 1000  # bytes: declarations and comments may come before the first tag

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# AVIF and HEIC; who decodes it decides whether HEIC can be read.
_BRANDS = (b"avif", b"avis", b"mif1", b"msf1", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_KINDS = (
    (b"%PDF-", "a PDF"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"8BPS", "a PSD image"),
    (b"FUJIFILMCCD-RAW", "a camera's RAW file"),
    (b"IIRO", "a camera's RAW file"),
    (b"IIRS", "a camera's RAW file"),
    (b"IIU\0", "a camera's RAW file"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"PK\x03\x04", "a ZIP archive"),
)
_FIRST_TAG = re.compile(rb"<([a-z][a-z0-9:_-]{0,40})")
_WORD = re.compile(rb"<(code|message)>([^<>]{1,200})<", re.IGNORECASE)


def is_image(body: bytes) -> bool:
    """Whether the content begins as an image does: JPEG, PNG, GIF, WebP, BMP, TIFF, AVIF or HEIC."""
    return body.startswith(_SIGNATURES) or (body[4:8] == b"ftyp" and body[8:12] in _BRANDS)


def what_came(body: bytes) -> str:
    """Describes the content, and says how to fix it if that is known."""
    if not body:
        return "the file is empty"
    if body[4:8] == b"ftyp":
        kind = "a camera's RAW file" if body[8:12] == b"crx " else "a video"
        return f"it is {kind}: save the image as JPEG or PNG"
    if kind := next((kind for start, kind in _KINDS if body.startswith(start)), ""):
        return f"it is {kind}: save the image as JPEG or PNG"
    start = body[:LOOKED_AT].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"<"):
        return _markup(start)
    return "it isn't a supported image (JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF)"


def _markup(start: bytes) -> str:
    lower = start.lower()
    tag = _FIRST_TAG.search(lower)
    name = tag[1] if tag else b""
    if lower.startswith(b"<!doctype html") or name == b"html":
        return "the server returned a web page instead of an image; does it require a login?"
    if name.rpartition(b":")[2] == b"svg":
        return "it is an SVG, a drawing without pixels: save the image as PNG"
    words = [" ".join(word.decode("utf-8", "replace").split()) for _, word in _WORD.findall(start)]
    said = ": ".join(words[:2])  # a code and a message
    if name == b"error" and said:
        return f"its storage returned an error instead of an image: {said}"
    if lower.startswith(b"<?xml") or said:
        return "the server returned an XML document instead of an image"
    return "the server returned a web page instead of an image; does it require a login?"
