"""A folder as a ZIP file, made while it is sent: it needs neither disk space nor memory for the whole."""

import errno
import os
from collections.abc import Callable, Iterator
from io import RawIOBase
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

CHUNK = 1 << 20  # bytes


class _Sink(RawIOBase):
    """What the archive has written since the last call of `take`."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, part: Any) -> int:
        self._parts.append(bytes(part))
        return len(self._parts[-1])

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def zipped(folder: Path) -> Iterator[bytes]:
    """The parts of a ZIP file with the folder in it, uncompressed: weights hardly compress.

    Raises OSError, also if the folder is removed meanwhile, so that nobody takes a part of it for the whole.
    """
    return _zipped(folder, _content)


def zipped_size(folder: Path) -> int:
    """How many bytes `zipped` gives, without reading the files; raises OSError."""
    return sum(map(len, _zipped(folder, _blanks)))


def _zipped(folder: Path, pieces: Callable[[Path, int], Iterator[bytes]]) -> Iterator[bytes]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if not paths:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    sink = _Sink()
    with ZipFile(sink, "w") as archive:
        for path in paths:
            info = ZipInfo.from_file(path, path.relative_to(folder.parent), strict_timestamps=False)
            with archive.open(info, "w") as target:
                for piece in pieces(path, info.file_size):
                    target.write(piece)
                    yield sink.take()
    yield sink.take()


def _content(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as source:
        while piece := source.read(CHUNK):
            yield piece


def _blanks(path: Path, size: int) -> Iterator[bytes]:
    for start in range(0, size, CHUNK):
        yield bytes(min(CHUNK, size - start))
