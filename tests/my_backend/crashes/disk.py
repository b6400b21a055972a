"""The file-system calls of a block, recorded; any of them can fail, or be the last one of the process.

A killed process is simulated in this one: after the call at which it dies, every further call raises `Killed` and
changes nothing, so no `finally` and no context manager can clean up, as in a process that got SIGKILL.
"""

import builtins
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from errno import EACCES, EIO, EMFILE, ENOSPC
from pathlib import Path
from typing import Any
from unittest.mock import patch

Tree = dict[str, bytes | None]  # relative path → a file's content, or None for a folder

# The errors that each call is tried with.
ERRORS: dict[str, tuple[int, ...]] = {
    "read": (EIO, EACCES, EMFILE),
    "open": (ENOSPC, EIO, EACCES, EMFILE),
    "write": (ENOSPC, EIO),
    "fsync": (ENOSPC, EIO),
    "rename": (ENOSPC, EIO, EACCES),
    "link": (ENOSPC, EIO, EACCES),
    "mkdir": (ENOSPC, EIO, EACCES),
    "unlink": (EIO, EACCES),
    "rmdir": (EIO, EACCES),
}
LASTING = (ENOSPC, EIO)  # a disk that is full, or has been remounted read-only, stays so


class Killed(BaseException):
    """The process is dead."""


@dataclass(frozen=True)
class Fault:
    """What happens at a call, by its number: the process dies after it or in the middle of a write, or it fails."""

    at: int
    errno: int = 0  # 0: the process dies
    half: bool = False  # of the data reaches the file before that
    lasting: bool = False  # all later calls for which this error is possible fail, too

    def concerns(self, number: int) -> bool:
        return number == self.at or (self.lasting and number > self.at)


@dataclass(eq=False)
class File:
    """A file's content, when the block began and now."""

    start: bytes
    content: bytes


@dataclass(eq=False)
class Folder:
    """A folder's entries, when the block began and now."""

    start: dict[str, "File | Folder"] = field(default_factory=dict)
    entries: dict[str, "File | Folder"] = field(default_factory=dict)


@dataclass(frozen=True)
class Named:
    """Entries that changed in one atomic step; None for a name that is gone. The last folder's fsync makes it last."""

    entries: tuple[tuple[Folder, str, File | Folder | None], ...]


@dataclass(frozen=True)
class Written:
    """A file's whole content after a write."""

    file: File
    content: bytes


@dataclass(frozen=True)
class Synced:
    """An fsync."""

    node: File | Folder


class Disk:
    """The folder `root` and the calls that concern it; others pass through unnoticed."""

    def __init__(
        self,
        root: Path,
        fault: Fault | None = None,
        after: Callable[[], None] = lambda: None,
        before: Callable[[str], None] = lambda what: None,
    ) -> None:
        """`before` is called before each call, with its name, and `after` after it."""
        self.root = root
        self.fault = fault
        self.before, self.after = before, after
        self.calls: list[tuple[str, str]] = []  # what was called, and on which path
        self.in_vain: set[int] = set()  # calls that failed by themselves, say because a folder exists
        self.journal: list[Named | Written | Synced] = []
        self.journal_at: list[int] = []  # the journal's length after each call
        self.dead = False
        self.hit = False  # the fault has happened
        self._inodes: dict[int, File | Folder] = {}
        self._open: dict[int, File | Folder] = {}  # by descriptor
        found = self._found(root)
        assert isinstance(found, Folder)
        self.top = found
        self._inodes.clear()

    def _found(self, path: Path) -> File | Folder:
        number = path.stat().st_ino
        if number not in self._inodes:
            if path.is_dir():
                entries = {child.name: self._found(child) for child in path.iterdir()}
                self._inodes[number] = Folder(dict(entries), entries)
            else:
                content = path.read_bytes()
                self._inodes[number] = File(content, content)
        return self._inodes[number]

    # --- calls --------------------------------------------------------------

    @contextmanager
    def watching(self) -> Iterator["Disk"]:
        """Records the calls of the block."""
        replaced: dict[str, Callable[..., Any]] = {
            "open": self._os_open,
            "fsync": self._fsync,
            "mkdir": self._mkdir,
            "rmdir": self._remover("rmdir", os.rmdir),
            "unlink": self._remover("unlink", os.unlink),
            "remove": self._remover("unlink", os.remove),
            "rename": self._renamer(os.rename),
            "replace": self._renamer(os.replace),
            "link": self._link,
            "sendfile": self._sendfile,
            "chmod": self._unless_dead(os.chmod),
            "fchmod": self._unless_dead(os.fchmod),
            "utime": self._unless_dead(os.utime),
        }
        self._real = {name: getattr(os, name) for name in replaced}
        self._real_open = io.open
        with ExitStack() as patches:
            for name, function in replaced.items():
                patches.enter_context(patch.object(os, name, function))
            for module in (io, builtins):
                patches.enter_context(patch.object(module, "open", self._io_open))
            yield self

    def _call(self, what: str, place: Path, real: Callable[[], Any], note: Callable[[Any], None]) -> Any:
        self.before(what)
        if self.dead:
            raise Killed
        number = len(self.calls)
        self.calls.append((what, str(place.relative_to(self.root))))
        fault = self.fault
        try:
            if fault and fault.errno in ERRORS[what] and fault.concerns(number):
                self.hit = True
                raise OSError(fault.errno, os.strerror(fault.errno), str(place))
            result = real()
            note(result)
        except OSError:
            self.in_vain.add(number)
            raise
        finally:
            self.journal_at.append(len(self.journal))
            self.after()
        if fault and not fault.errno and number == fault.at:
            self.dead = self.hit = True
            if isinstance(result, int) and what in ("open", "read"):
                os.close(result)
            raise Killed
        return result

    def _unless_dead(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if self.dead:
                raise Killed
            return real(*args, **more)

        return call

    def _path(self, path: Any, dir_fd: int | None = None) -> Path | None:
        """The path if it is below `root`."""
        if isinstance(path, int):
            return None
        found = Path(os.fsdecode(path))
        if dir_fd is not None:
            found = _opened(dir_fd) / found
        found = Path(os.path.normpath(Path.cwd() / found))
        return found if found == self.root or self.root in found.parents else None

    def _node(self, path: Path) -> File | Folder | None:
        node: File | Folder | None = self.top
        for name in path.relative_to(self.root).parts:
            node = node.entries.get(name) if isinstance(node, Folder) else None
        return node

    def _folder(self, path: Path) -> Folder:
        node = self._node(path)
        assert isinstance(node, Folder), f"{path} was made by a call that isn't recorded"
        return node

    def _name(self, *entries: tuple[Folder, str, File | Folder | None]) -> None:
        for folder, name, node in entries:
            if node is None:
                folder.entries.pop(name, None)
            else:
                folder.entries[name] = node
        self.journal.append(Named(entries))

    def _write_down(self, file: File, content: bytes) -> None:
        file.content = content
        self.journal.append(Written(file, content))

    def _os_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        place = self._path(path, dir_fd)
        real = self._real["open"]
        if place is None or flags & os.O_TMPFILE == os.O_TMPFILE:
            return int(self._unless_dead(real)(path, flags, mode, dir_fd=dir_fd))
        before = self._node(place)
        changes = flags & (os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_RDWR)

        def note(descriptor: int) -> None:
            node = before
            if node is None:
                assert flags & os.O_CREAT, f"{place} was made by a call that isn't recorded"
                node = File(b"", b"")
                self._name((self._folder(place.parent), place.name, node))
            elif flags & os.O_TRUNC and isinstance(node, File):
                self._write_down(node, b"")
            self._open[descriptor] = node

        what = "open" if changes else "read"
        return int(self._call(what, place, lambda: real(path, flags, mode, dir_fd=dir_fd), note))

    def _io_open(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        below = isinstance(file, int) or self._path(file) is not None
        if not below:
            return self._real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        through = opener or (None if isinstance(file, int) else lambda name, flags: os.open(name, flags, 0o666))
        if not set(mode) & set("wax+"):
            return self._real_open(file, mode, buffering, encoding, errors, newline, closefd, through)
        raw = _Raw(self, file, mode.replace("b", "").replace("t", ""), closefd, through)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def write(self, descriptor: int, data: bytes, real: Callable[[Any], int]) -> int:
        """A write of a file object."""
        node = self._open.get(descriptor)
        if not isinstance(node, File):
            return real(data)
        if self.dead:
            return len(data)  # of the buffer of a file that is closed when its process is dead
        fault = self.fault
        if fault and fault.half and fault.at == len(self.calls):
            data = data[: len(data) // 2]
        place = _opened(descriptor)
        return int(
            self._call("write", place, lambda: real(data), lambda _: self._write_down(node, self._content(descriptor)))
        )

    def _content(self, descriptor: int) -> bytes:
        with self._real_open(f"/proc/self/fd/{descriptor}", "rb") as file:
            return bytes(file.read())

    def _sendfile(self, target: int, source: int, offset: int, count: int) -> int:
        return self.write(target, b"", lambda _: self._real["sendfile"](target, source, offset, count))

    def _fsync(self, descriptor: int) -> None:
        node = self._open.get(descriptor)
        real = self._real["fsync"]
        if node is None:
            self._unless_dead(real)(descriptor)
            return
        place = _opened(descriptor)
        # What reaches the disk is decided by the journal, not by this machine's disk.
        self._call("fsync", place, lambda: None, lambda _: self.journal.append(Synced(node)))

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        place, real = self._path(path, dir_fd), self._real["mkdir"]
        if place is None:
            self._unless_dead(real)(path, mode, dir_fd=dir_fd)
            return

        def note(_: None) -> None:
            self._name((self._folder(place.parent), place.name, Folder()))

        self._call("mkdir", place, lambda: real(path, mode, dir_fd=dir_fd), note)

    def _remover(self, what: str, real: Callable[..., None]) -> Callable[..., None]:
        def remove(path: Any, *, dir_fd: int | None = None) -> None:
            place = self._path(path, dir_fd)
            if place is None:
                self._unless_dead(real)(path, dir_fd=dir_fd)
                return

            def note(_: None) -> None:
                self._name((self._folder(place.parent), place.name, None))

            self._call(what, place, lambda: real(path, dir_fd=dir_fd), note)

        return remove

    def _renamer(self, real: Callable[..., None]) -> Callable[..., None]:
        def rename(source: Any, target: Any) -> None:
            old, new = self._path(source), self._path(target)
            if old is None or new is None:
                assert old is new, "renamed across the boundary of the recorded folder"
                self._unless_dead(real)(source, target)
                return

            def note(_: None) -> None:
                self._name((self._folder(old.parent), old.name, None), (self._folder(new.parent), new.name, moved))

            moved = self._node(old)
            self._call("rename", new, lambda: real(source, target), note)

        return rename

    def _link(self, source: Any, target: Any) -> None:
        old, new = self._path(source), self._path(target)
        assert old is not None
        assert new is not None
        node = self._node(old)

        def note(_: None) -> None:
            self._name((self._folder(new.parent), new.name, node))

        self._call("link", new, lambda: self._real["link"](source, target), note)

    # --- the result ---------------------------------------------------------

    def tree(self) -> Tree:
        """The folder as the recorded calls leave it; another tree than `read_tree` if a call wasn't recorded."""
        return tree_of(self.top, lambda folder: folder.entries, lambda file: file.content)


def _opened(descriptor: int) -> Path:
    """The path of an open file or folder."""
    return Path(f"/proc/self/fd/{descriptor}").readlink()


class _Raw(io.FileIO):
    """A file whose writes are calls."""

    def __init__(self, disk: Disk, file: Any, mode: str, closefd: bool, opener: Any) -> None:
        self._disk = disk
        super().__init__(file, mode, closefd, opener)

    def write(self, data: Any) -> int:
        return self._disk.write(self.fileno(), bytes(data), super().write)


def tree_of(
    top: Folder, entries: Callable[[Folder], dict[str, File | Folder]], content: Callable[[File], bytes]
) -> Tree:
    """Lists a folder, by what is in each folder and file."""
    found: Tree = {}

    def add(folder: Folder, prefix: str) -> None:
        for name, node in sorted(entries(folder).items()):
            if isinstance(node, Folder):
                found[prefix + name] = None
                add(node, f"{prefix}{name}/")
            else:
                found[prefix + name] = content(node)

    add(top, "")
    return found


def read_tree(root: Path) -> Tree:
    """Reads a folder into memory."""
    paths = sorted(root.rglob("*"))
    return {str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in paths}


def write_tree(root: Path, tree: Tree) -> None:
    """Makes an empty folder contain a tree."""
    for name, content in tree.items():
        if content is None:
            (root / name).mkdir(parents=True, exist_ok=True)
        else:
            (root / name).write_bytes(content)
