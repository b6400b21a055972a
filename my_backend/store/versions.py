"""Model versions: immutable directories, and for each project one pointer that names the live one."""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import uuid4

from my_backend import context, files
from my_backend.errors import Conflict, NotFound

STAGING_SECONDS = 24 * 3600  # publishing takes less
KEPT_VERSIONS = 10
UNTRAINED = "untrained"
VERSION_FILE = "version.json"
VERSIONS_FOLDER = "versions"
POINTER_FILE = "live"
MOVED_FILE = ".moved"  # beside the projects' folders: another text whenever one of their pointers was moved
PINNED_FILE = "pinned.json"
REMOVED_FILE = "removed.json"  # the newest of those removed by hand: its number is not given again
# Stands for the version's own directory in a stored train_output, so that MODEL_DIR can be moved.
HERE = "{version}"

Json = dict[str, Any]


@dataclass(frozen=True)
class Version:
    """A published model: what `fit` returned, and how it came about."""

    name: str
    folder: Path
    created: float  # seconds since 1970
    cause: str
    choices: tuple[str, ...]  # of the labeling config when it was published
    train_output: Json  # with the paths of its files as they are here
    held_back: str = ""  # why it did not go live by itself
    grew_from: str = ""
    made_by: dict[str, str] = field(default_factory=dict)  # ids of the job and the HTTP request that it came of

    @property
    def number(self) -> int:
        """7 for v7-20261120T132501."""
        return _number(self.name)

    def record(self) -> Json:
        """For programs."""
        output = self.train_output
        return {
            "version": self.name,
            "created_at": self.created,
            "cause": self.cause,
            "held_back": self.held_back or None,
            "grew_from": self.grew_from or None,
            "figures": output.get("figures"),
            "labels": output.get("labels"),
            "annotations": output.get("annotations"),
            "unknown_choices": output.get("unknown_choices"),
            "summary": output.get("summary"),
            "warning": output.get("warning") or None,
            "made_by": self.made_by,
        }


class Versions:
    """The versions of one project, under its folder. Any number of processes may read; writers take a lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._versions = folder / VERSIONS_FOLDER
        self.pointer = folder / POINTER_FILE

    def live_name(self) -> str:
        """The live version's name, `untrained` before the first."""
        try:
            return files.read_text(self.pointer).strip()
        except FileNotFoundError:
            return UNTRAINED

    def live(self) -> Version | None:
        name = self.live_name()
        return None if name == UNTRAINED else self.get(name)

    def get(self, name: str) -> Version:
        """Raises NotFound."""
        record = files.read_json(self._versions / name / VERSION_FILE) if _NAME.fullmatch(name) else None
        if record is None:
            raise NotFound(f"there is no version {name}; there are: {', '.join(self.names()) or 'none'}")
        folder = self._versions / name
        record["train_output"] = _with_paths(record["train_output"], HERE, str(folder))
        record["choices"] = tuple(record["choices"])
        return files.from_record(Version, {**record, "folder": folder})

    def names(self) -> list[str]:
        """From the oldest to the newest."""
        folders = self._versions.glob(f"v*/{VERSION_FILE}")
        return sorted((path.parent.name for path in folders), key=_number)

    def all(self) -> list[Version]:
        """From the oldest to the newest."""
        found = []
        for name in self.names():
            with suppress(NotFound):  # thinned out meanwhile
                found.append(self.get(name))
        return found

    def publish(
        self,
        train_output: Json,
        workdir: Path,
        *,
        cause: str,
        choices: Sequence[str],
        held_back: str = "",
        confirm: Callable[[], None] = lambda: None,
    ) -> Version:
        """Makes a version of what `fit` returned, and the live one unless it is held back.

        Files and folders under `workdir` that `train_output` names become the version's own (they are moved there).
        `confirm` is called when nobody else can publish any more, and raises where this one must not either.
        """
        staging = self._stage()
        try:
            for name in _names_under(train_output, workdir):
                os.replace(workdir / name, staging / name)
            stored = _with_paths(train_output, str(workdir), HERE)
            return self._finish(staging, stored, cause=cause, choices=choices, held_back=held_back, confirm=confirm)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise

    def renew_live(self, *, cause: str, choices: Sequence[str]) -> Version | None:
        """Gives the live version a new name, so that Label Studio asks for predictions again.

        None where there is no live version, another process has renewed it for the same choices already, or another
        version has become live meanwhile.
        """
        with files.locked(self._folder / ".renew"):
            live = self.live()
            if live is None or live.choices == tuple(choices):
                return None

            def confirm_it_is_live() -> None:
                if self.live_name() != live.name:
                    raise Conflict(f"{live.name} is no longer live")

            try:
                return self.copy_from(live, cause=cause, choices=choices, confirm=confirm_it_is_live)
            except Conflict:
                return None

    def copy_from(
        self, version: Version, *, cause: str, choices: Sequence[str], confirm: Callable[[], None] = lambda: None
    ) -> Version:
        """Makes a live version with the same files, which are linked where the file system can.

        `confirm` as in `publish`.
        """
        staging = self._stage()
        try:
            shutil.copytree(version.folder, staging, copy_function=_link_or_copy, dirs_exist_ok=True)
            (staging / VERSION_FILE).unlink()
            stored = _with_paths(version.train_output, str(version.folder), HERE)
            return self._finish(staging, stored, cause=cause, choices=choices, confirm=confirm)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise

    def _stage(self) -> Path:
        for left in (
            *self._versions.glob(".staging-*"),
            *self._versions.glob(".removed-*"),
        ):  # by a process that was killed
            with suppress(FileNotFoundError):  # another process is just done with it
                if time.time() - left.stat().st_mtime > STAGING_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
        staging = self._versions / f".staging-{uuid4().hex}"
        staging.mkdir(parents=True)
        return staging

    def _finish(
        self,
        staging: Path,
        stored: Json,
        *,
        cause: str,
        choices: Sequence[str],
        held_back: str = "",
        confirm: Callable[[], None] = lambda: None,
    ) -> Version:
        with files.locked(self._folder / ".versions"):
            confirm()
            name, created = self._new_name()
            before = self.live_name()
            record = {
                "name": name,
                "created": created,
                "cause": cause,
                "choices": list(choices),
                "train_output": stored,
                "held_back": held_back,
                "grew_from": "" if before == UNTRAINED else before,
                "made_by": {name: context.ids()[name] for name in ("job", "request_id") if name in context.ids()},
            }
            files.write_json(staging / VERSION_FILE, record)
            _sync_tree(staging)
            os.replace(staging, self._versions / name)
            files.sync_folder(self._versions)
            if not held_back:
                self._point_to(name)
            self._thin_out()
        return self.get(name)

    def _thin_out(self) -> None:
        """Removes all versions but the live one, the newest, those pinned, and the one with the best accuracy."""
        versions = self.all()
        best = max(versions, key=lambda version: (_accuracy(version), _number(version.name)))
        for version in versions[:-KEPT_VERSIONS]:
            if version.name not in (best.name, self.live_name(), *self.pinned()):
                self._remove(version.folder)

    def _remove(self, version: Path) -> None:
        gone = self._versions / f".removed-{version.name}"
        os.replace(version, gone)  # in one step: no version is ever half there
        shutil.rmtree(gone, ignore_errors=True)

    def pinned(self) -> list[str]:
        """The versions that stay however many come after them."""
        return list(files.read_json(self._folder / PINNED_FILE) or [])

    def pin(self, name: str, pinned: bool = True) -> None:
        """Keeps a version from being removed, or no longer; raises NotFound."""
        with files.locked(self._folder / ".versions"):
            self.get(name)
            names = {*self.pinned(), name} if pinned else set(self.pinned()) - {name}
            files.write_json(self._folder / PINNED_FILE, sorted(names, key=_number))

    def delete(self, name: str) -> None:
        """Removes a version for good; raises NotFound, and Conflict where it is live or pinned."""
        with files.locked(self._folder / ".versions"):
            version = self.get(name)
            if name == self.live_name():
                raise Conflict(f"{name} is live: activate another version first")
            if name in self.pinned():
                raise Conflict(f"{name} is pinned: unpin it first")
            if name == self.names()[-1]:
                files.write_json(self._folder / REMOVED_FILE, [_number(name), version.created])
            self._remove(version.folder)

    def export(self, name: str, target: Path) -> None:
        """Copies a version's folder, which needs nothing beside it; raises NotFound and Conflict."""
        version = self.get(name)
        if target.exists():
            raise Conflict(f"{target} is there already: name a folder that is not")
        part = target.with_name(f".{target.name}.{uuid4().hex}")
        try:
            shutil.copytree(version.folder, part)
            os.replace(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    @contextmanager
    def unchanging(self) -> Iterator[None]:
        """No version comes or goes meanwhile, and none becomes live: whoever wants that waits."""
        with files.locked(self._folder / ".versions"):
            yield

    def _new_name(self) -> tuple[str, float]:
        """`v7-20261120T132501`: a number that grows, and the UTC second, so that no name comes twice.

        Not even where MODEL_DIR was emptied, or the clock set back: the second is always after the newest one's.
        """
        names = self.names()
        number, newest = (_number(names[-1]), self.get(names[-1]).created) if names else (0, 0.0)
        removed, when = files.read_json(self._folder / REMOVED_FILE) or (0, 0.0)
        number, newest = max(number, removed), max(newest, when)
        created = max(time.time(), newest + 1)
        return f"v{number + 1}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(created))}", created

    def activate(self, name: str) -> Version:
        """Makes a version live, an older one too; raises NotFound."""
        with files.locked(self._folder / ".versions"):
            version = self.get(name)
            self._point_to(name)
        return version

    def _point_to(self, name: str) -> None:
        files.write(self.pointer, name + "\n")
        files.write(self._folder.parent / MOVED_FILE, token_hex(8), durable=False)


def last_move(projects_folder: Path) -> str:
    """A text that is another one whenever a pointer of any of the projects has been moved."""
    try:
        return files.read_text(projects_folder / MOVED_FILE)
    except FileNotFoundError:
        return ""


_NAME = re.compile(r"v(\d+)-\d{8}T\d{6}")


def is_version_name(name: str) -> bool:
    """Whether it is named as versions are, whoever made it."""
    return bool(_NAME.fullmatch(name))


def is_newer(name: str, other: str) -> bool:
    """Whether a version came after another one of the same project, by their names."""
    return _number(name) > _number(other)


def _accuracy(version: Version) -> float:
    """As far as the model class says."""
    figures = version.train_output.get("figures")
    accuracy = figures.get("accuracy") if isinstance(figures, dict) else None
    return accuracy if isinstance(accuracy, int | float) else -1.0


def _number(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else 0


def _with_paths(value: Any, old: str, new: str) -> Any:
    """A JSON value in which paths below `old` are below `new`."""
    if isinstance(value, str):
        return new + value.removeprefix(old) if value == old or value.startswith(old + "/") else value
    if isinstance(value, list):
        return [_with_paths(item, old, new) for item in value]
    if isinstance(value, dict):
        return {key: _with_paths(item, old, new) for key, item in value.items()}
    return value


def _names_under(value: Any, folder: Path) -> set[str]:
    """The first names below `folder` of the paths in a JSON value."""
    if isinstance(value, str):
        prefix = f"{folder}/"
        return {value.removeprefix(prefix).split("/")[0]} if value.startswith(prefix) else set()
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*(_names_under(item, folder) for item in items))


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    files.sync_folder(folder)
