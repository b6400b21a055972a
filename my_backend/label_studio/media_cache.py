"""Images on disk, within a limit: their contents by digest, and for each URL a small file that names its digest."""

import errno
import logging
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from secrets import token_hex
from tempfile import NamedTemporaryFile
from typing import Annotated

from pydantic import Field, TypeAdapter

from my_backend import files

log = logging.getLogger(__name__)

MAX_CACHE_BYTES = 20_000_000_000
MAX_URLS = 1_000_000  # whose digests the cache keeps on disk
MAX_KNOWN = 100_000  # of them in memory
SETTLED_SECONDS = 60.0  # after which a new folder has been locked by the process that made it
ROOM_TRIES = 3  # on a full disk: others, too, write where images were removed

Known = dict[str, tuple[str, float]]  # URL's key → digest, fetched at
Stats = list[tuple[Path, os.stat_result]]

_NOTED = TypeAdapter(tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], files.Moment])  # digest, fetched at
_making_room = threading.Lock()  # on a full disk


@dataclass(frozen=True)
class MediaFile:
    """An image in the cache and the SHA-256 (hexadecimal) of its content."""

    path: Path
    digest: str


class MediaCache:
    """The cache that all projects and processes share; URLs are given as keys, which are file names."""

    def __init__(self, folder: Path, known: Known) -> None:
        """`known` are this process's known URLs, which save reading their files."""
        self._contents, self._urls, self._held = folder / "contents", folder / "urls", folder / "held"
        self._make_folders()
        self._known = known

    def _make_folders(self) -> None:
        for directory in (self._contents, self._urls):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def content(self, digest: str) -> Path | None:
        """The image whose content has this SHA-256; None if there is none."""
        path = self._contents / digest
        return path if size_of(path) else None

    def drop_damaged(self, digest: str) -> bool:
        """Removes an image whose file has other content, as after a loss of power; returns False if it is intact."""
        path = self._contents / digest
        try:
            with path.open("rb") as file:
                if file_digest(file, "sha256").hexdigest() == digest:
                    return False
            path.unlink()
        except FileNotFoundError:  # another thread has removed it
            return True
        except OSError:
            return False
        log.warning("the cached image %s is damaged; it is fetched again", path)
        return True

    @contextmanager
    def holding(self, paths: Sequence[Path]) -> Iterator[list[Path | None]]:
        """Paths under which cached files stay until the end, however full the cache gets; None for a missing file.

        This way a training run of several hours keeps its images. If a process is killed, the next one releases its
        files.
        """
        for left in self._held.glob("*"):
            with suppress(OSError, files.InUse):
                if time.time() - left.stat().st_mtime > SETTLED_SECONDS:
                    with files.claimed(left / ".lock"):
                        shutil.rmtree(left, ignore_errors=True)
        folder = self._held / token_hex(8)
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True)
                stack.enter_context(files.claimed(folder / ".lock"))
            except OSError as error:  # the disk is full, for example: they stay where they are
                log.warning("the cache may lose images while they are in use: %s", error)
                held = [path if size_of(path) else None for path in paths]
            else:
                held = [_second_name(path, folder) for path in paths]
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            yield held

    def trusted(self, key: str, seconds: float) -> MediaFile | None:
        """The image if it was fetched less than so many seconds ago."""
        stored = self.stored(key)
        if stored is None or _age(stored[1]) >= seconds:
            self._known.pop(key, None)
            return None
        file, fetched = stored
        self._know(key, file.digest, fetched)
        return file

    def stored(self, key: str) -> tuple[MediaFile, float] | None:
        """The image in the cache, however old, and when it was fetched (seconds since 1970)."""
        noted = self._known.get(key) or files.read_record(self._urls / key, _NOTED)
        if noted is None or not size_of(self._contents / noted[0]):
            return None
        return self._file(noted[0]), noted[1]

    def store(self, key: str, body: bytes) -> MediaFile:
        """Stores an image that was just fetched from the URL with this key; on a full disk, in place of the oldest."""
        file, fetched = self._file(sha256(body).hexdigest()), time.time()
        if not self._has_written(key, body, file, fetched):
            self._write_in_place_of_others(key, body, file, fetched)
        self._know(key, file.digest, fetched)
        self._trim(len(body))
        return file

    def _file(self, digest: str) -> MediaFile:
        return MediaFile(self._contents / digest, digest)

    def _write_in_place_of_others(self, key: str, body: bytes, file: MediaFile, fetched: float) -> None:
        """Writes the image in place of the oldest ones; raises OSError if the disk is still full without them."""
        # One at a time: otherwise, all threads would remove the same images, which make room for only one of them.
        with _making_room:
            for _ in range(ROOM_TRIES):
                if self._has_written(key, body, file, fetched):  # another thread may just have made enough room
                    return
                if not self._make_room(len(body)):
                    break
            self._write(key, body, file, fetched)

    def _has_written(self, key: str, body: bytes, file: MediaFile, fetched: float) -> bool:
        """Writes the image, or returns False if the disk is full."""
        try:
            self._write(key, body, file, fetched)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return False
        return True

    def _write(self, key: str, body: bytes, file: MediaFile, fetched: float) -> None:
        self._make_folders()  # someone may have removed the cache since
        if size_of(file.path) != len(body):
            with NamedTemporaryFile(dir=self._contents, prefix=files.PART, delete=False) as part:
                try:
                    part.write(body)
                    part.flush()
                except OSError:  # the disk is full: don't leave a partial file
                    os.unlink(part.name)
                    raise
            os.replace(part.name, file.path)
        files.write_json(self._urls / key, (file.digest, fetched), mode=0o600, sync="none")

    def _know(self, key: str, digest: str, fetched: float) -> None:
        if len(self._known) >= MAX_KNOWN and key not in self._known:
            self._known.clear()
        self._known[key] = (digest, fetched)

    def _trim(self, added: int) -> None:
        """Removes the oldest files if the cache is too large; checks at random, about once per 1% of its size written.

        It is random because many short-lived processes write to the cache, and none of them could count up to 1%.
        """
        if random.random() >= added / (MAX_CACHE_BYTES / 100):  # noqa: S311  no secret
            return
        notes = sorted((stat.st_mtime, path) for path, stat in _stats(self._urls))
        for _, path in notes[: max(0, len(notes) - MAX_URLS)]:
            path.unlink(missing_ok=True)
        contents = _stats(self._contents)
        _remove_oldest(contents, _size(contents) - MAX_CACHE_BYTES)

    def _make_room(self, size: int) -> bool:
        """Removes the oldest images of so many bytes, and some more: listing all of them for each new image is slow.

        Returns False if there is none to remove.
        """
        contents = [
            (path, stat)
            for path, stat in _stats(self._contents)
            # Removing a file that is held frees no space, and another thread or process is writing the others.
            if stat.st_nlink < 2 and not path.name.startswith(files.PART)
        ]
        _remove_oldest(contents, max(size, min(MAX_CACHE_BYTES // 1000, _size(contents) // 10)))
        return bool(contents)


def _size(contents: Stats) -> int:
    return sum(stat.st_size for _, stat in contents)


def _remove_oldest(contents: Stats, surplus: int) -> None:
    """Removes as many of these files as have so many bytes."""
    for _, path, size in sorted((stat.st_mtime, path, stat.st_size) for path, stat in contents):
        if surplus <= 0:
            return
        path.unlink(missing_ok=True)
        surplus -= size


def _age(fetched: float) -> float:
    """The seconds since this time, as many as there may be if the clock was ahead then."""
    return sys.float_info.max if files.was_set_back_since(fetched) else time.time() - fetched


def size_of(path: Path) -> int:
    """The file's size in bytes; 0 if there is no usable file, for example if a power failure has emptied it."""
    try:
        return path.stat().st_size
    except OSError:  # there is none, or the disk fails: other images must not suffer from it
        return 0


def _second_name(path: Path, folder: Path) -> Path | None:
    name = folder / path.name
    try:
        os.link(path, name)
    except FileExistsError:  # the same image again
        pass
    except FileNotFoundError:
        return None
    except OSError:  # no hard links here, or not a file of the cache: it stays where it is
        return path
    return name


def _stats(folder: Path) -> Stats:
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process trims too
            found.append((path, path.stat()))
    return found
