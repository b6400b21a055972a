"""The embeddings of all images of a pool in two files: nearest neighbors without an index structure."""

import fcntl
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_classifier.embedding.cache import Embedding

DIGEST = 32  # bytes of a SHA-256
BLOCK = 65_536  # rows that are compared at once, 64 MB: other threads get the processor in between
# Half precision rounds to a thousandth: this many candidates for each neighbor are compared again, more exactly.
CANDIDATES = 4


class PoolIndex:
    """Unit vectors of images in half precision, in the order in which they were added; 1 KB an image for ResNet18.

    The vectors are mapped into memory, so all processes of a host share them and the system may drop them. They belong
    to one network: another fingerprint has other files. Any process may add; the others see it after `refresh`. Rows
    that aren't complete in both files, as after a crash, don't count and are overwritten. The index only saves time:
    anything in it can be added again. The folder must be on a local disk.
    """

    def __init__(self, folder: Path, fingerprint: str, size: int) -> None:
        """`size` is the number of values of an embedding."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._vectors_file = folder / f"{fingerprint}-{size}.vectors"
        self._digests_file = folder / f"{fingerprint}-{size}.digests"
        self._size = size
        self._adding = threading.Lock()
        self._rows: dict[bytes, int] = {}
        self._digests: list[str] = []
        self._vectors = torch.empty(0, size, dtype=torch.float16)
        for file in (self._vectors_file, self._digests_file):
            file.touch(mode=0o600)
        self.refresh()

    def refresh(self) -> None:
        """Takes in what was added to the files, by this process or others."""
        rows = self._complete_rows()
        known = len(self._digests)
        with self._digests_file.open("rb") as file:
            file.seek(known * DIGEST)
            added = file.read((rows - known) * DIGEST)
        for start in range(0, len(added), DIGEST):
            digest = added[start : start + DIGEST]
            self._rows.setdefault(digest, len(self._digests))
            self._digests.append(digest.hex())
        if rows:
            mapped = np.memmap(self._vectors_file, np.float16, "c", shape=(rows, self._size))
            self._vectors = torch.from_numpy(mapped)

    def _complete_rows(self) -> int:
        vectors, digests = self._vectors_file.stat().st_size, self._digests_file.stat().st_size
        return min(vectors // self._row_bytes, digests // DIGEST)

    @property
    def _row_bytes(self) -> int:
        return 2 * self._size

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def digests(self) -> Sequence[str]:
        """The digest of each row's image."""
        return self._digests

    @property
    def vectors(self) -> Tensor:
        """Unit vectors [rows, size] in half precision, mapped from the file: don't change them."""
        return self._vectors

    def add(self, embeddings: Iterable[tuple[str, Embedding]]) -> None:
        """Adds embeddings by their image's digest (hexadecimal SHA-256); those that are there stay as they are."""
        with self._adding, _locked(self._digests_file):
            self.refresh()
            new = {
                key: embedding for digest, embedding in embeddings if (key := bytes.fromhex(digest)) not in self._rows
            }
            if not new:
                return
            values = np.nan_to_num(np.stack(list(new.values())).astype(np.float32), posinf=0, neginf=0)
            norms = np.linalg.norm(values, axis=1, keepdims=True)
            values /= np.maximum(norms, np.finfo(np.float32).tiny)
            rows = len(self)
            # The digests come last: a row without its digest doesn't count, and is overwritten.
            _write_at(self._vectors_file, rows * self._row_bytes, values.astype(np.float16).tobytes())
            _write_at(self._digests_file, rows * DIGEST, b"".join(new))
            self.refresh()

    def rows_of(self, digests: Iterable[str]) -> list[int | None]:
        """The row of each image; None if it hasn't been added."""
        return [self._rows.get(bytes.fromhex(digest)) for digest in digests]

    def nearest(
        self, embedding: Embedding | Tensor, count: int, among: NDArray[np.bool_] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The rows whose images look most like an embedding [size], and the cosine of each, the most alike first.

        `among` [rows] limits them to some images. Every row is compared, block by block.
        """
        vectors = self._vectors  # rows that are added meanwhile don't count
        query = torch.nn.functional.normalize(torch.as_tensor(embedding, dtype=torch.float32), dim=0)
        half = query.half()
        cosines = torch.cat([half.new_empty(0), *(torch.mv(block, half) for block in _blocks(vectors))])
        if among is not None:
            cosines[~torch.from_numpy(among)[: len(cosines)]] = -torch.inf
        found = cosines.topk(min(CANDIDATES * count, len(cosines)))
        rows = found.indices[found.values > -torch.inf]
        exact = vectors[rows].float() @ query
        order = exact.argsort(descending=True, stable=True)[:count]
        return rows[order], exact[order]


def _blocks(vectors: Tensor) -> Iterator[Tensor]:
    return (vectors[start : start + BLOCK] for start in range(0, len(vectors), BLOCK))


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Waits until no other process holds the file's lock; it is released when the holder ends."""
    with file.open("rb") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _write_at(file: Path, start: int, content: bytes) -> None:
    with file.open("r+b") as opened:
        opened.truncate(start)
        opened.seek(start)
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
