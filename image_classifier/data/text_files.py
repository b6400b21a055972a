"""Text files as people have them: in any Unicode encoding, with or without a byte-order mark."""

import json
from pathlib import Path

from image_classifier.data.folders import shown
from image_classifier.errors import UsersError

MAX_TEXT_BYTES = 1 << 30  # read into memory at once; exports are larger only with images in them
READ_AT_ONCE = 1 << 20


def read_text(file: Path) -> str:
    """Raises UsersError for what is no text, OSError for what cannot be read."""
    data = bytearray()
    with file.open("rb") as opened:
        while read := opened.read(READ_AT_ONCE):
            data += read
            if len(data) > MAX_TEXT_BYTES:
                raise UsersError(f"{shown(file)} has more than 1 GB: split it, or take the images out of it")
    encoding = json.detect_encoding(data)  # by the mark, or by where its first bytes are 0
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsersError(
            f"{shown(file)} is no text in {encoding.removesuffix('-sig').upper()} (line {line}): save it as UTF-8"
        ) from None
