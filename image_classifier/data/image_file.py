"""An image on disk, identified by the digest of its content."""

from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path


@dataclass(frozen=True)
class ImageFile:
    """An image on disk and the SHA-256 of its content (hexadecimal), which is the key of its cached embedding."""

    path: Path
    digest: str

    @classmethod
    def of(cls, path: Path) -> "ImageFile":
        with path.open("rb") as file:
            return cls(path, file_digest(file, "sha256").hexdigest())
