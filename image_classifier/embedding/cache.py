"""Caches embeddings on disk, by the image's content and the network's fingerprint."""

import contextlib
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Embedding = NDArray[np.float32]  # [960] for ResNet18

MAX_ENTRIES = 2_000_000  # for ResNet18, at 4.2 KB each: lmdb stores each in its own page
MAX_BYTES = 14 << 30  # reached first if embeddings are larger
MOST_FOLDERS = 100  # the most containers that can share a folder
MOST_READERS = 512  # threads that read at the same time, in all processes
_READER = 64  # bytes per reader in lmdb's lock file; its header is smaller than eight readers

# No value spans adjacent pages: after values of other sizes, none might be free, and the map would count as full.
_PIECE = 4080  # bytes; a page of 4096 with lmdb's header
_CHECKSUM = struct.Struct(">I")  # after each embedding: detects pages left empty by a power loss
_DAMAGED = (
    lmdb.BadTxnError,  # lmdb hides the error if it can't read the page that tells where the databases are
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)


class EmbeddingCache:
    """A cache shared by all processes of a host: lmdb lets many read while one writes.

    Beyond `max_entries` or `max_bytes`, the oldest entries are removed. The folder must be on a local disk. The cache
    only saves time: a damaged file is replaced, and if the disk is full, nothing is added; both are logged.

    lmdb tells processes apart by their IDs, but processes in different containers that share the folder can have the
    same ID. The second such process uses the folder with `-2` after its name, and so on.
    """

    def __init__(self, folder: Path, *, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._mending = threading.Lock()
        self._counting = threading.Lock()
        self.hits = self.misses = 0  # lookups in this process
        for number in range(1, MOST_FOLDERS + 1):
            try:
                self._open_in(folder.with_name(f"{folder.name}-{number}") if number > 1 else folder)
                break
            except lmdb.LockError:  # a process in another container is using this folder with the same process ID
                if number == MOST_FOLDERS:
                    raise

    def _open_in(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        try:
            self._open()
        except _DAMAGED as error:
            self._make_anew(error, self._inode())

    def _open(self) -> None:
        # A lost cache is only recomputed, so nothing waits for the disk (sync=False).
        # Dropping needs free pages too, and older releases filled files up to 16 GiB. This is only address space.
        map_size = self._max_bytes + self._max_bytes // 4
        _allocate(self._folder / "lock.mdb")
        env = lmdb.open(
            str(self._folder),
            map_size=map_size,
            max_dbs=2,
            sync=False,
            metasync=False,
            max_readers=MOST_READERS,
            mode=0o600,
        )
        try:
            _fill_up(env, self._folder / "data.mdb")
            self._embeddings = env.open_db(b"embeddings")  # the first piece under its key, others under key + number
            self._order = env.open_db(b"order")  # sequence number → key, to find the oldest
        except BaseException:
            env.close()
            raise
        self._env, self._opened = env, self._inode()

    def _inode(self) -> int:
        """Of the cache's file; 0 if there is none."""
        path = self._folder / "data.mdb"
        return path.stat().st_ino if path.exists() else 0

    def _make_anew(self, error: lmdb.Error, damaged: int) -> None:
        """Replaces the file with that inode, unless another thread or process has already done so."""
        with self._mending:
            if self._inode() == damaged:
                log.warning("the embedding cache in %s is damaged (%s); creating a new one", self._folder, error)
                for name in ("data.mdb", "lock.mdb"):
                    (self._folder / name).unlink(missing_ok=True)
            elif getattr(self, "_opened", damaged) != damaged:
                return
            # The old environment stays open, since other threads may be reading it; the last one frees it.
            self._open()

    @contextlib.contextmanager
    def _mended(self) -> Iterator[None]:
        """Handles errors of the cache, so that only cached embeddings are lost."""
        opened = self._opened
        try:
            yield
        except _DAMAGED as error:
            try:
                self._make_anew(error, opened)
            except (OSError, lmdb.Error) as failure:  # the disk is full; the next lookup tries again
                log.warning("can't create a new embedding cache in %s: %s", self._folder, failure)
        except lmdb.Error as error:
            log.warning("can't cache embeddings in %s: %s", self._folder, error)

    def get(
        self, fingerprint: str, digests: Sequence[str], *, fallback: str = "", counted: bool = True
    ) -> dict[str, Embedding]:
        """The cached embeddings, by the image's digest (hexadecimal SHA-256); `counted` among the lookups.

        If `fallback`, another fingerprint, is given, its embedding is used for an image that has none under the first.
        """
        found: dict[str, Embedding] = {}
        with self._mended(), self._env.begin() as transaction:
            stored = transaction.cursor(self._embeddings)
            names = [name for name in (fingerprint, fallback) if name]
            for digest in digests:
                for name in names:
                    if (embedding := _unpack(_read(stored, _key(name, digest)))) is not None:
                        found[digest] = embedding
                        break
        if counted:
            with self._counting:
                self.hits += len(found)
                self.misses += len(set(digests)) - len(found)
        return found

    def put(self, fingerprint: str, embeddings: Iterable[tuple[str, Embedding]]) -> None:
        """Adds embeddings by the image's digest."""
        with self._mended():
            self._env.reader_check()  # no page is free that a process could see which was killed while it read
        with self._mended(), self._env.begin(write=True) as transaction:
            stored, order = transaction.cursor(self._embeddings), transaction.cursor(self._order)
            sequence = _sequence(order.key()) if order.last() else 0
            for digest, embedding in embeddings:
                key = _key(fingerprint, digest)
                known = _read(stored, key)
                if _unpack(known) is None:
                    _drop(stored, key)
                    _write(stored, key, _pack(embedding))
                if not known:
                    sequence += 1
                    order.put(struct.pack(">Q", sequence), key, append=True)
            while self._is_full(transaction) and order.first():
                _drop(stored, order.value())
                order.delete()

    def _is_full(self, transaction: lmdb.Transaction) -> bool:
        """Whether the cache is over a limit. The file's size doesn't tell: free pages stay in it and are reused."""
        embeddings, order = transaction.stat(self._embeddings), transaction.stat(self._order)
        pages = sum(one["branch_pages"] + one["leaf_pages"] + one["overflow_pages"] for one in (embeddings, order))
        return order["entries"] > self._max_entries or pages * order["psize"] > self._max_bytes

    def __len__(self) -> int:
        with self._env.begin() as transaction:
            entries: int = transaction.stat(self._order)["entries"]
            return entries

    def close(self) -> None:
        self._env.close()


def _key(fingerprint: str, digest: str) -> bytes:
    return bytes.fromhex(fingerprint) + bytes.fromhex(digest)


def _sequence(key: bytes) -> int:
    """The sequence number in a key; raises lmdb.CorruptedError if no cache ever gave it."""
    if len(key) != 8 or key > bytes([127]):
        raise lmdb.CorruptedError("a sequence number is damaged")
    number: int = struct.unpack(">Q", key)[0]
    return number


def _read(stored: lmdb.Cursor, key: bytes) -> bytes:
    """All pieces of an embedding, joined; older releases stored each as one piece."""
    pieces = []
    stored.set_range(key)
    while stored.key()[: len(key)] == key:
        pieces.append(stored.value())
        stored.next()
    return b"".join(pieces)


def _write(stored: lmdb.Cursor, key: bytes, value: bytes) -> None:
    for number, start in enumerate(range(0, len(value), _PIECE)):
        stored.put(key + bytes([number] if number else []), value[start : start + _PIECE])


def _drop(stored: lmdb.Cursor, key: bytes) -> None:
    """Deletes all pieces; nothing for an empty key from a damaged page, which would match every key."""
    stored.set_range(key)
    while key and stored.key()[: len(key)] == key:
        stored.delete()


def _pack(embedding: Embedding) -> bytes:
    value = np.ascontiguousarray(embedding, np.float32).tobytes()
    return value + _CHECKSUM.pack(zlib.crc32(value))


def _unpack(stored: bytes) -> Embedding | None:
    """The embedding, or None if it is missing or damaged."""
    value, checksum = stored[: -_CHECKSUM.size], stored[-_CHECKSUM.size :]
    if not value or len(value) % np.float32().itemsize or _CHECKSUM.pack(zlib.crc32(value)) != checksum:
        return None
    return np.frombuffer(value, np.float32)


def _allocate(path: Path) -> None:
    """Reserves the space of lmdb's lock file; raises OSError if the disk is full.

    lmdb creates it sparse and maps it, so a later write to it would kill the process if the disk is full.
    """
    size = (MOST_READERS + 8) * _READER
    if not hasattr(os, "posix_fallocate") or (path.exists() and path.stat().st_size >= size):
        # Not opened again: closing the file would release the locks that this process already has on it.
        return
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(file, 0, size)
    finally:
        os.close(file)


def _fill_up(env: lmdb.Environment, path: Path) -> None:
    """Extends a truncated file: reading a mapped page that isn't in the file would kill the process."""
    with env.begin(write=True):  # nobody else writes
        needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        if path.stat().st_size < needed:
            os.truncate(path, needed)
