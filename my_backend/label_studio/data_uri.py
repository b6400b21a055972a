"""The content of data: URIs, as browsers read them."""

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from my_backend.errors import MediaError
from safe_http.session import TooLarge, explain

DECODED_AT_ONCE = 1 << 16  # characters
_IS_BASE64 = re.compile(r"; *base64\s*$", re.IGNORECASE | re.ASCII)


def content_of(url: str, max_bytes: int) -> bytes:
    """The content of a data: URI, as browsers read it (Fetch Standard, data: URLs)."""
    header, comma, data = url.partition("#")[0].partition(",")
    if not comma:
        raise MediaError("it has no comma between its header and its data")
    raw = _percent_decoded(data.encode())
    if _IS_BASE64.search(header):
        raw = _base64_decoded(raw, max_bytes)
    if len(raw) > max_bytes:
        raise TooLarge(f"more than {max_bytes:,} bytes")
    return raw


def _percent_decoded(text: bytes) -> bytes:
    """Decodes in pieces, because the library creates an object for each escape."""
    if b"%" not in text:
        return text
    decoded = bytearray()
    start = 0
    while start < len(text):
        end = start + DECODED_AT_ONCE
        if (escape := text.find(b"%", end - 2, end)) >= 0:
            end = escape  # don't cut it in two
        decoded += unquote_to_bytes(text[start:end])
        start = end
    return bytes(decoded)


def _base64_decoded(text: bytes, max_bytes: int) -> bytes:
    """Decodes base64 with or without whitespace and padding (Infra Standard, forgiving-base64 decode)."""
    text = text.translate(None, b"\t\n\f\r ")
    if len(text) // 4 * 3 > max_bytes + 3:
        raise TooLarge(f"more than {max_bytes:,} bytes")
    if len(text) % 4 == 0:
        text = text.removesuffix(b"=").removesuffix(b"=")
    if b"=" in text:
        raise MediaError("its base64 is invalid: unexpected = padding")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise MediaError(f"its base64 is invalid: {explain(error)}") from error
