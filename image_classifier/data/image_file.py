"""An image on disk, identified by the digest of its content."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import TypeVar

from image_classifier.data.preprocessing import PerhapsSound

Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class ImageFile:
    """An image on disk and the SHA-256 of its content (hexadecimal), which is the key of its cached embedding."""

    path: Path
    digest: str
    state: tuple[int, int] | None = field(default=None, compare=False)  # when the digest was computed; None if unknown

    @classmethod
    def of(cls, path: Path) -> "ImageFile":
        with path.open("rb") as file:
            state = _state(os.fstat(file.fileno()))
            return cls(path, file_digest(file, "sha256").hexdigest(), state)

    def decoded(self, decode: Callable[[Path], Decoded]) -> Decoded:
        """What `decode` makes of the file; raises PerhapsSound if the file has changed since its digest was computed.

        Otherwise, another image's embedding would be cached for this digest.
        """
        found = decode(self.path)
        if self.state is not None and not self._is_unchanged():
            raise PerhapsSound("it changed while it was read: try again")
        return found

    def _is_unchanged(self) -> bool:
        try:
            return _state(self.path.stat()) == self.state or ImageFile.of(self.path).digest == self.digest
        except OSError:
            return False


def _state(found: os.stat_result) -> tuple[int, int]:
    return found.st_mtime_ns, found.st_size
