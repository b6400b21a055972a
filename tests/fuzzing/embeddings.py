"""The cache of embeddings: whatever is stored in it, an embedding is found as it was put, or not at all."""

import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import lmdb
import numpy as np

from image_classifier.embedding.cache import EmbeddingCache
from tests.fuzzing.target import Read, Target

NETWORK = "ab" * 16
DIGESTS = [sha256(bytes([number])).hexdigest() for number in range(4)]
KEYS = [bytes.fromhex(NETWORK + digest) for digest in DIGESTS]
_ENTRY = struct.Struct(">BBH")  # which database, which key or how many bytes of one follow, and how many of the value
OWN_KEY = 128  # from this on, the key follows


@contextmanager
def _open() -> Iterator[Read]:
    with tempfile.TemporaryDirectory() as folder:
        cache = EmbeddingCache(Path(folder), max_entries=3)
        embedding = np.arange(1_500, dtype=np.float32)  # two pieces

        def read(data: bytes) -> None:
            """Entries of both databases, one after the other."""
            _store(cache, data)
            before = {digest: found.copy() for digest, found in cache.get(NETWORK, DIGESTS).items()}
            for digest in DIGESTS:
                cache.put(NETWORK, [(digest, embedding)])
            for digest, found in cache.get(NETWORK, DIGESTS).items():
                assert found.tobytes() in (embedding.tobytes(), before.get(digest, embedding).tobytes())
            assert len(cache) <= 3

        try:
            yield read
        finally:
            cache.close()


def _store(cache: EmbeddingCache, data: bytes) -> None:
    with cache._env.begin(write=True) as transaction:
        databases = (cache._embeddings, cache._order)
        for database in databases:
            transaction.drop(database, delete=False)
        while len(data) >= _ENTRY.size:
            number, key_size, size = _ENTRY.unpack_from(data)
            data = data[_ENTRY.size :]
            if key_size >= OWN_KEY:
                key, data = data[: key_size - OWN_KEY], data[key_size - OWN_KEY :]
            else:
                key = KEYS[key_size % len(KEYS)]
            value, data = data[:size], data[size:]
            if key:
                with suppress(lmdb.BadValsizeError):
                    transaction.put(key, value, db=databases[number % 2])


def _seeds() -> Iterable[bytes]:
    value = np.arange(4, dtype=np.float32).tobytes()
    whole = value + struct.pack(">I", crc32(value))
    entries = [_entry(0, key, whole) + _entry(1, struct.pack(">Q", number), key) for number, key in enumerate(KEYS, 1)]
    yield b"".join(entries)
    yield b"".join(entries[:2]) + _entry(1, b"\xff" * 8, KEYS[2]) + _entry(1, b"\0", b"")
    yield _entry(0, KEYS[0], whole[:7]) + _entry(0, KEYS[0] + b"\1", whole[7:]) + _entry(0, KEYS[0] + b"\2", b"")


def _entry(database: int, key: bytes, value: bytes) -> bytes:
    if key in KEYS:
        return _ENTRY.pack(database, KEYS.index(key), len(value)) + value
    return _ENTRY.pack(database, OWN_KEY + len(key), len(value)) + key + value


TARGET = Target(_open, _seeds, longest=2_048)
