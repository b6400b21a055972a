"""A folder as a ZIP file, made while it is sent: it needs neither disk space nor memory for the whole."""

from collections.abc import Iterator
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
    """The parts of a ZIP file with the folder in it, uncompressed: weights hardly compress. Raises OSError.

    Two calls give the same bytes as long as the folder doesn't change.
    """
    sink = _Sink()
    with ZipFile(sink, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                info = ZipInfo.from_file(path, path.relative_to(folder.parent))
                with path.open("rb") as source, archive.open(info, "w") as target:
                    while part := source.read(CHUNK):
                        target.write(part)
                        yield sink.take()
    yield sink.take()
