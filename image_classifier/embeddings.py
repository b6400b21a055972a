"""The embedding of an image, cached on disk by the image's content and the network's fingerprint."""

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray

Embedding = NDArray[np.float32]  # [512]

MAX_ENTRIES = 2_000_000  # at 4.2 KB each: lmdb gives each a page of its own
MAP_SIZE = 16 << 30  # address space that lmdb may use; the file grows only as it fills


class EmbeddingCache:
    """Shared by all processes of a host: lmdb lets many read while one writes.

    Bounded: beyond `max_entries` the oldest entries go. Must lie on a local disk.
    """

    def __init__(self, folder: Path, *, max_entries: int = MAX_ENTRIES) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._max_entries = max_entries
        # A lost cache is only recomputed, so nothing waits for the disk (sync=False).
        self._env = lmdb.open(
            str(folder), map_size=MAP_SIZE, max_dbs=2, sync=False, metasync=False, max_readers=512, mode=0o600
        )
        self._embeddings = self._env.open_db(b"embeddings")
        self._order = self._env.open_db(b"order")  # sequence number → key, to find the oldest

    def get(self, fingerprint: str, digests: Sequence[str]) -> dict[str, Embedding]:
        """The embeddings that are there, by the image's digest (hexadecimal SHA-256)."""
        with self._env.begin(self._embeddings) as transaction:
            found = ((digest, transaction.get(_key(fingerprint, digest))) for digest in digests)
            return {digest: np.frombuffer(value, np.float32) for digest, value in found if value is not None}

    def put(self, fingerprint: str, embeddings: Iterable[tuple[str, Embedding]]) -> None:
        """Adds embeddings by the image's digest."""
        with self._env.begin(write=True) as transaction:
            last = transaction.cursor(self._order)
            sequence = struct.unpack(">Q", last.key())[0] if last.last() else 0
            for digest, embedding in embeddings:
                key = _key(fingerprint, digest)
                value = np.ascontiguousarray(embedding, np.float32).tobytes()
                if transaction.put(key, value, db=self._embeddings, overwrite=False):
                    sequence += 1
                    transaction.put(struct.pack(">Q", sequence), key, db=self._order, append=True)
            self._drop_oldest(transaction)

    def _drop_oldest(self, transaction: lmdb.Transaction) -> None:
        surplus = transaction.stat(self._order)["entries"] - self._max_entries
        oldest = transaction.cursor(self._order)
        for _ in range(surplus):
            oldest.first()
            transaction.delete(oldest.value(), db=self._embeddings)
            oldest.delete()

    def __len__(self) -> int:
        with self._env.begin() as transaction:
            entries: int = transaction.stat(self._embeddings)["entries"]
            return entries

    def close(self) -> None:
        self._env.close()


def _key(fingerprint: str, digest: str) -> bytes:
    return bytes.fromhex(fingerprint) + bytes.fromhex(digest)
