"""Reads text files in any Unicode encoding, with or without a byte-order mark."""

import json
from pathlib import Path

from image_classifier.data.folders import shown
from image_classifier.errors import UsersError

MAX_TEXT_BYTES = 1 << 30  # read into memory at once; only exports with embedded images are larger
READ_AT_ONCE = 1 << 20


def read_text(file: Path) -> str:
    """The file's text; raises UsersError if it isn't text, OSError if it can't be read."""
    data = bytearray()
    with file.open("rb") as opened:
        while read := opened.read(READ_AT_ONCE):
            data += read
            if len(data) > MAX_TEXT_BYTES:
                raise UsersError(f"{shown(file)} is larger than 1 GB: split it, or remove embedded images")
    encoding = json.detect_encoding(data)  # by the byte-order mark, or by the position of zero bytes
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsersError(
            f"{shown(file)} isn't {encoding.removesuffix('-sig').upper()} text (line {line}): save it as UTF-8"
        ) from None
