"""Embeddings of many images in files that all hosts share and that never change, half as large as in the cache.

A shard has a header, the beginning of each image's digest, and a row for each image; see `_ROW` and `write_shard`. Rows
are read with `read`, not through `mmap`: if another host removes a file on NFS, or its disk fails, a mapped page would
kill the process.
"""

import contextlib
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from image_classifier.embedding.cache import Embedding

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0  # between two looks for new files; a look in between would find little
UNUSED_SECONDS = 3600.0  # after which a folder is forgotten: each version with all layers trained has its own network

_MAGIC = b"EMBSHRD1"
_HEADER = struct.Struct("<8sIII")  # the magic number, rows, numbers in each, and the checksum of these and the keys
_KEY = np.dtype("<u8")  # the first 8 bytes of a digest

# The inode and time (ns) of a file tell it from a later one with the same name; that one may get the same inode.
_Made = tuple[int, int]


@lru_cache(maxsize=8)
def _row_type(size: int) -> np.dtype[np.void]:
    """A row: a checksum of the rest, the image's SHA-256, and the embedding, divided by its largest absolute value.

    Half precision then neither overflows nor loses small embeddings.
    """
    return np.dtype([("checksum", "<u4"), ("digest", "u1", 32), ("scale", "<f4"), ("values", "<f2", size)])


@dataclass(frozen=True)
class _Shard:
    path: Path
    made: _Made
    size: int  # numbers in each embedding
    rows_at: int  # bytes before the first row
    keys: NDArray[np.uint64]


@dataclass
class _Folder:
    """The shards of one folder, all of one network, and an index of their images."""

    looked: float = float("-inf")  # (monotonic)
    looking: threading.Lock = field(default_factory=threading.Lock)
    shards: dict[tuple[str, _Made], _Shard] = field(default_factory=dict)  # by name
    index: "_Index" = field(default_factory=lambda: _Index(()))


class _Index:
    """Where the images of some shards are: 24 bytes of memory for each, with the keys of the shards."""

    def __init__(self, shards: Sequence[_Shard]) -> None:
        self.shards = shards
        counts = [len(shard.keys) for shard in shards]
        keys = np.concatenate([np.empty(0, _KEY), *(shard.keys for shard in shards)])
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._shard = np.repeat(np.arange(len(shards), dtype=np.uint32), counts)[order]
        self._row = np.concatenate([np.empty(0, np.uint32), *(np.arange(n, dtype=np.uint32) for n in counts)])[order]

    def find(self, digests: Sequence[str]) -> list[tuple[int, int, str]]:
        """The shard and the row that probably have an image, and its digest, in the order of the files."""
        keys = np.fromiter((_key_of(digest) for digest in digests), _KEY, len(digests))
        places = np.searchsorted(self._keys, keys)
        return sorted(
            (int(self._shard[place]), int(self._row[place]), digest)
            for place, key, digest in zip(places, keys, digests, strict=True)
            if place < len(self._keys) and self._keys[place] == key
        )


class Shards:
    """Looks embeddings up in the shards of all watched folders; thread-safe.

    Shards only save time: one that is damaged is logged and removed, so that it can be written again.
    """

    def __init__(self) -> None:
        self._watched: dict[Path, None] = {}
        self._folders: dict[Path, _Folder] = {}
        self._forgot = time.monotonic()
        self._counting = threading.Lock()
        self.hits = 0  # lookups in this process that found something

    def watch(self, folder: Path) -> None:
        """Finds embeddings below this folder from now on; the shards of a network are in a subfolder: see `shards_of`.

        The folder may appear later, and disappear again. Files whose names begin with a dot aren't read.
        """
        self._watched[folder] = None

    def get(self, fingerprint: str, digests: Sequence[str]) -> dict[str, Embedding]:
        """The embeddings of a network that are in shards, by the image's digest (hexadecimal SHA-256)."""
        found: dict[str, Embedding] = {}
        for watched in list(self._watched):
            index = self._index_of(shards_of(watched, fingerprint))
            # Most projects share no embeddings, and must not cost time for each image.
            if index.shards and (missing := [digest for digest in digests if digest not in found]):
                found |= _read_all(index, missing)
        with self._counting:
            self.hits += len(found)
        return found

    def _index_of(self, path: Path) -> _Index:
        if time.monotonic() > self._forgot + LOOK_SECONDS:
            self._forget_unused()
        folder = self._folders.setdefault(path, _Folder())
        # Other callers use the index that there is.
        if time.monotonic() > folder.looked + LOOK_SECONDS and folder.looking.acquire(blocking=False):
            try:
                _look(path, folder)
            finally:
                folder.looking.release()
        return folder.index

    def _forget_unused(self) -> None:
        self._forgot = time.monotonic()
        for path, folder in list(self._folders.items()):
            if float("-inf") < folder.looked < self._forgot - UNUSED_SECONDS:
                self._folders.pop(path, None)


def shards_of(folder: Path, fingerprint: str) -> Path:
    """The subfolder with the shards of one network."""
    return folder / fingerprint


def write_shard(path: Path, embeddings: Mapping[str, Embedding]) -> int:
    """Writes a new file with embeddings of one network, by the image's digest; returns how many it has.

    Embeddings that aren't finite are left out. Raises OSError, for example if the disk is full.
    """
    finite = sorted((digest, vector) for digest, vector in embeddings.items() if np.isfinite(vector).all())
    rows = np.zeros(len(finite), _row_type(len(finite[0][1]) if finite else 0))
    for row, (digest, vector) in zip(rows, finite, strict=True):
        scale = np.abs(vector).max(initial=0) or np.float32(1)
        row["digest"] = np.frombuffer(bytes.fromhex(digest), np.uint8)
        row["scale"], row["values"] = scale, vector / scale
        row["checksum"] = _checksum(row)
    keys = np.fromiter((_key_of(digest) for digest, _ in finite), _KEY, len(finite)).tobytes()
    size = rows.dtype["values"].shape[0]
    with path.open("wb") as file:
        file.write(_header(len(rows), size, keys) + keys)
        file.write(rows.tobytes())
        file.flush()
        os.fsync(file.fileno())  # the name that it gets later must not outlast its content
    return len(rows)


def _header(rows: int, size: int, keys: bytes) -> bytes:
    start = _HEADER.pack(_MAGIC, rows, size, 0)
    return _HEADER.pack(_MAGIC, rows, size, zlib.crc32(start + keys))


def _look(path: Path, folder: _Folder) -> None:
    """Reads the index of new files, and forgets those that are gone."""
    found = set[tuple[str, _Made]]()
    with contextlib.suppress(OSError):  # there are no shards of this network, or the file server is away
        for entry in os.scandir(path):
            if not entry.name.startswith("."):
                with contextlib.suppress(OSError):  # another process has just removed it
                    found.add((entry.name, _made(entry.stat())))
    shards = {key: shard for key, shard in folder.shards.items() if key in found}
    for name, made in sorted(found - shards.keys()):
        try:
            shards[name, made] = _open(path / name)
        except ValueError as error:
            _remove(path / name, error)
        except OSError as error:
            log.warning("can't read embeddings from %s: %s", path / name, error)
    if shards.keys() != folder.shards.keys():
        folder.shards, folder.index = shards, _Index(tuple(shards.values()))
    folder.looked = time.monotonic()


def _made(status: os.stat_result) -> _Made:
    return status.st_ino, status.st_mtime_ns


def _open(path: Path) -> _Shard:
    """Reads a shard's header and keys; raises ValueError if it is damaged."""
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(_MAGIC):
            raise ValueError("it has no valid header")
        _, rows, size, _ = _HEADER.unpack(header)
        rows_at = _HEADER.size + rows * _KEY.itemsize
        status = os.fstat(file.fileno())
        if status.st_size != rows_at + rows * _row_type(size).itemsize:
            raise ValueError("its length differs from the one in its header")
        keys = file.read(rows * _KEY.itemsize)
    if _header(rows, size, keys) != header:
        raise ValueError("the checksum of its index is wrong")
    return _Shard(path, _made(status), size, rows_at, np.frombuffer(keys, _KEY))


def _read_all(index: _Index, digests: Sequence[str]) -> dict[str, Embedding]:
    found: dict[str, Embedding] = {}
    for number, places in groupby(index.find(digests), lambda place: place[0]):
        shard = index.shards[number]
        try:
            found |= _read_rows(shard, [(row, digest) for _, row, digest in places])
        except ValueError as error:
            _remove(shard.path, error)
        except OSError as error:  # perhaps it was removed
            log.debug("can't read embeddings from %s: %s", shard.path, error)
    return found


def _read_rows(shard: _Shard, wanted: Sequence[tuple[int, str]]) -> dict[str, Embedding]:
    """The embeddings of rows that have the digest; raises ValueError if one is damaged."""
    row_type = _row_type(shard.size)
    found: dict[str, Embedding] = {}
    with shard.path.open("rb", buffering=0) as file:
        if _made(os.fstat(file.fileno())) != shard.made:  # another process has replaced it since the look
            return {}
        for row, digest in wanted:
            file.seek(shard.rows_at + row * row_type.itemsize)
            data = file.read(row_type.itemsize)
            [stored] = np.frombuffer(data, row_type) if len(data) == row_type.itemsize else (None,)
            if stored is None or stored["checksum"] != _checksum(stored):
                raise ValueError(f"the checksum of row {row} is wrong")
            if stored["digest"].tobytes().hex() == digest:
                found[digest] = stored["values"].astype(np.float32) * stored["scale"]
    return found


def _checksum(row: np.void) -> int:
    return zlib.crc32(row.tobytes()[4:])


def _key_of(digest: str) -> int:
    return int(digest[:16], 16)


def _remove(path: Path, why: ValueError) -> None:
    log.warning("the embeddings in %s are damaged (%s); removing the file", path, why)
    with contextlib.suppress(OSError):
        path.unlink()
