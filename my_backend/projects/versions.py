"""The versions of a project: immutable directories, and a pointer per project that names the live version."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import uuid4

from pydantic import TypeAdapter

from my_backend import context, files
from my_backend.errors import Conflict, NotFound
from my_backend.files import Damaged, Moment
from my_backend.projects.deleted import unless_deleted
from my_backend.projects.model_card import CARD_FILE, model_card
from my_backend.projects.version_metrics import like_the_newest, read_figures
from my_backend.projects.version_names import is_version_name, number_of, second_of, version_name
from safe_http.redaction import redact

log = logging.getLogger(__name__)

STAGING_SECONDS = 24 * 3600  # publishing never takes this long
KEPT_VERSIONS = 10
UNTRAINED = "untrained"
VERSION_FILE = "version.json"
VERSIONS_FOLDER = "versions"
EXPORTS_FOLDER = "exports"  # versions in formats of other programs; they can be made again
POINTER_FILE = "live"
MOVED_FILE = ".moved"  # next to the projects' folders: its content changes whenever a pointer moves
PINNED_FILE = "pinned.json"
# The last version number and its time, which outlive every version; the file's name is historical.
GIVEN_FILE = "removed.json"
REMOVED = ".removed-"  # prefix of a removed version's folder, whose name counts until its number is noted
TEXTS = ("warning", "summary", "held_back")  # keys of a train_output that a person reads
# Stands for the version's directory in a stored train_output, so that MODEL_DIR can be moved.
HERE = "{version}"

Json = dict[str, Any]


@dataclass(frozen=True)
class Version:
    """A published model: what `fit` returned, and how it was created."""

    name: str
    folder: Path
    created: float  # seconds since 1970
    cause: str
    choices: tuple[str, ...]  # of the labeling config at the time of publishing
    train_output: Json  # with the actual paths of its files
    held_back: str = ""  # why it didn't go live automatically
    grew_from: str = ""
    made_by: dict[str, str] = field(default_factory=dict)  # ids of the job and the HTTP request that created it
    labeling_history: Json = field(default_factory=dict)  # how its labels were made: a LabelingHistory
    epochs: list[Any] = field(default_factory=list)  # of its training: phase, epoch, loss and accuracy

    @property
    def is_first_guess(self) -> bool:
        """Whether its predictions aren't learned from labels."""
        return bool(self.train_output.get("first_guess"))

    @property
    def has_learned(self) -> bool:
        """Whether labels were used to make it, if only to calibrate a first guess."""
        return not self.is_first_guess or bool(self.train_output.get("figures"))

    @property
    def number(self) -> int:
        """The number in the name: 7 for v7-20261120T132501."""
        return number_of(self.name)

    def record(self) -> Json:
        """The version as JSON values."""
        output = self.train_output
        return {
            "version": self.name,
            "created_at": self.created,
            "cause": self.cause,
            "held_back": self.held_back or None,
            "first_guess": self.is_first_guess,
            "grew_from": self.grew_from or None,
            "figures": output.get("figures"),
            "labels": output.get("labels"),
            "sources": output.get("sources"),
            "annotations": output.get("annotations"),
            "labeling_history": self.labeling_history,
            "unknown_choices": output.get("unknown_choices"),
            "summary": output.get("summary"),
            "warning": output.get("warning") or None,
            "made_by": self.made_by,
        }


@dataclass(frozen=True)
class _Record:
    """The contents of a version's file."""

    created: Moment
    cause: str
    choices: tuple[str, ...]
    train_output: Json
    held_back: str = ""
    grew_from: str = ""
    made_by: dict[str, str] = field(default_factory=dict)
    labeling_history: Json = field(default_factory=dict)
    epochs: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class _Provenance:
    """How a new version came about, as its file says next to what `fit` returned."""

    cause: str
    choices: Sequence[str]
    held_back: str = ""
    labeling_history: Json = field(default_factory=dict)
    epochs: Sequence[Any] = ()


_RECORD = TypeAdapter(_Record)
_PINNED = TypeAdapter(list[str])
_GIVEN = TypeAdapter(tuple[int, Moment])


class Versions:
    """The versions of one project, in its folder. Any number of processes can read; writers take a lock.

    A version with a damaged record keeps its number and can be deleted; otherwise it is treated as missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._versions = folder / VERSIONS_FOLDER
        self.pointer = folder / POINTER_FILE

    def live_name(self) -> str:
        """The live version's name; `untrained` if there is none or the pointer is damaged."""
        name = self.read_pointer()
        return UNTRAINED if isinstance(name, Damaged) else name

    def read_pointer(self) -> str | Damaged:
        """Like `live_name`, but distinguishes a damaged pointer from a project without a version."""
        name = files.examine(self.pointer, _parse_pointer)
        if name is None:
            if not self._has_lost_pointer():
                return UNTRAINED
            name = files.examine(self.pointer, _parse_pointer)  # the first version may have gone live meanwhile
        return files.note_missing(self.pointer) if name is None else name

    def _has_lost_pointer(self) -> bool:
        """Whether a version was live before; the first version's number is noted only after it goes live."""
        return (self._folder / GIVEN_FILE).exists() and any(not version.held_back for version in self.all())

    def live(self) -> Version | None:
        """The live version, None if there is none; raises NotFound if it is gone or damaged."""
        name = self.live_name()
        return None if name == UNTRAINED else self.get(name)

    def has_learned(self) -> bool:
        """Whether labels made the live version; also if it is damaged, because a training run renews it."""
        try:
            live = self.live()
        except NotFound:
            return True
        return live is not None and live.has_learned

    def get(self, name: str) -> Version:
        """Raises NotFound."""
        record: _Record | Damaged | None = None
        folder = self._versions / name
        if is_version_name(name):
            file = folder / VERSION_FILE
            record = files.examine(file, files.json_of(_RECORD))
            if record is None and os.path.lexists(folder):
                record = files.note_missing(file)
        if isinstance(record, Damaged):
            raise NotFound(f"version {name} is damaged ({VERSION_FILE}: {record.why})")
        if record is None:
            raise NotFound(f"there is no version {name}; existing versions: {', '.join(self.names()) or 'none'}")
        return Version(
            name=name,
            folder=folder,
            created=record.created,
            cause=record.cause,
            choices=record.choices,
            train_output=without_secrets(_with_paths(record.train_output, HERE, str(folder))),
            held_back=redact(record.held_back),
            grew_from=record.grew_from,
            made_by=record.made_by,
            labeling_history=record.labeling_history,
            epochs=record.epochs,
        )

    def names(self) -> list[str]:
        """The names from the oldest to the newest, including damaged versions."""
        try:
            found = [path.name for path in self._versions.iterdir()]
        except OSError:  # no such folder, or something else in its place, so nothing can be published there
            return []
        return sorted((name for name in found if is_version_name(name)), key=number_of)

    def all(self) -> list[Version]:
        """The readable versions, from the oldest to the newest."""
        found = []
        for name in self.names():
            with suppress(NotFound):  # damaged, or thinned out meanwhile
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
        labeling_history: Json | None = None,
        epochs: Sequence[Any] = (),
        confirm: Callable[[], None] = lambda: None,
    ) -> Version:
        """Makes a version of what `fit` returned, and makes it live unless the model class holds it back.

        Files and folders below `workdir` that `train_output` names are moved into the version. `confirm` is called
        while nobody else can publish, and raises if this version must not be published. Raises NotFound if the project
        was deleted.
        """
        with self._staging() as staging:
            for name in _names_under(train_output, workdir):
                os.replace(workdir / name, staging / name)
            stored = _with_paths(train_output, str(workdir), HERE)
            provenance = _Provenance(cause, choices, held_back, labeling_history or {}, epochs)
            return self._finish(staging, stored, provenance, confirm)

    def publish_first(self, train_output: Json, *, cause: str, choices: Sequence[str]) -> Version | None:
        """Publishes a version without files if there is none yet; returns None if there is one."""

        def confirm_there_is_none() -> None:
            if self.names() or self.read_pointer() != UNTRAINED:
                raise Conflict("there is a version")

        try:
            return self.publish(train_output, self._folder, cause=cause, choices=choices, confirm=confirm_there_is_none)
        except Conflict:
            return None

    def renew_live(self, *, cause: str, choices: Sequence[str]) -> Version | None:
        """Republishes the live version under a new name, so that Label Studio asks for predictions again.

        Returns None if there is no live version, another process has already done this for the same choices, or another
        version has gone live meanwhile.
        """
        with unless_deleted(self._folder), files.locked(self._folder / ".renew"):
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
        """Makes a live version with the same files, hard-linked if the file system supports it.

        `confirm` is as in `publish`.
        """
        with self._staging() as staging:
            shutil.copytree(version.folder, staging, copy_function=files.link_or_copy, dirs_exist_ok=True)
            (staging / VERSION_FILE).unlink()
            stored = _with_paths(version.train_output, str(version.folder), HERE)
            provenance = _Provenance(cause, choices, labeling_history=version.labeling_history, epochs=version.epochs)
            return self._finish(staging, stored, provenance, confirm)

    @contextmanager
    def workdir(self) -> Iterator[Path]:
        """A folder for files to `publish`, removed at the end; if the process is killed, by a publisher a day later."""
        with self._staging() as folder:
            inner = folder / "work"  # a model class may set its time, which must not make the outer one look abandoned
            inner.mkdir()
            yield inner
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        """A folder in which a version is prepared; removed after an error. Raises NotFound."""
        with unless_deleted(self._folder):
            staging = self._stage()
            try:
                yield staging
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise

    def _stage(self) -> Path:
        for left in (*self._versions.glob(".staging-*"), *self._removed()):  # by a process that was killed
            with suppress(FileNotFoundError):  # another process has just finished with it
                if time.time() - left.stat().st_mtime > STAGING_SECONDS:
                    _empty(left)
                    if self._is_noted(left.name.removeprefix(REMOVED)):
                        _remove_whatever(left)
        staging = self._versions / f".staging-{uuid4().hex}"
        files.create_folder(self._versions)
        staging.mkdir()
        return staging

    def _finish(self, staging: Path, stored: Json, provenance: _Provenance, confirm: Callable[[], None]) -> Version:
        with self.unchanging():
            confirm()
            name, created = self._new_name()
            before = self.live_name()
            record: Json = {
                "name": name,
                "created": created,
                "cause": provenance.cause,
                "choices": list(provenance.choices),
                "train_output": without_secrets(stored),
                "held_back": redact(provenance.held_back),
                "grew_from": "" if before == UNTRAINED else before,
                "made_by": {name: context.ids()[name] for name in ("job", "request_id") if name in context.ids()},
                "labeling_history": provenance.labeling_history,
                "epochs": list(provenance.epochs),
            }
            files.write_json(staging / VERSION_FILE, record)
            files.write(staging / CARD_FILE, model_card(name, created, record["train_output"], record["held_back"]))
            files.sync_tree(staging)
            files.move(staging, self._versions / name)
            if not provenance.held_back:
                self._point_to(name)
            try:
                self._thin_out()
                self._note_given(number_of(name), created)
            except OSError:  # the version is published all the same
                log.exception("published %s in %s, but the cleanup afterwards failed", name, self._versions)
        return self.get(name)

    def _thin_out(self) -> None:
        """Removes old versions, except the live one, pinned ones, the newest ones, and the most accurate one.

        The most accurate one of those whose accuracy was measured like the newest version's: others can't be compared.
        Removes nothing while the pointer or the list of pins is damaged: any version could be live or pinned.
        """
        versions, live, pinned = self.all(), self.read_pointer(), self._read_pinned()
        if isinstance(live, Damaged) or isinstance(pinned, Damaged):
            return
        best = _best(versions)
        for version in versions[:-KEPT_VERSIONS]:
            if version.name not in (best, live, *pinned):
                self._remove(version.folder)

    def _remove(self, version: Path) -> None:
        """Removes a version's folder, or whatever is in its place; works on a full disk."""
        gone = self._versions / f"{REMOVED}{version.name}"
        if os.path.lexists(gone):  # left by a process that was killed
            _remove_whatever(gone)
        # Atomically, and on the disk before its files go: no version is ever half removed.
        files.move(version, gone)
        _remove_whatever(self.exported(version.name))
        _empty(gone)
        try:
            self._ensure_noted(version.name)
        except OSError as error:  # until its number is noted, the empty folder keeps it from being given again
            log.warning("removed version %s, but can't note its number, so its empty folder stays: %s", gone, error)
        else:
            _remove_whatever(gone)

    def _removed(self) -> list[Path]:
        """What is left of removed versions."""
        return list(self._versions.glob(f"{REMOVED}*"))

    def pinned(self) -> list[str]:
        """The names of pinned versions, which are never removed automatically; empty if the list is damaged."""
        pinned = self._read_pinned()
        return [] if isinstance(pinned, Damaged) else pinned

    def _read_pinned(self) -> list[str] | Damaged:
        return files.examine(self._folder / PINNED_FILE, files.json_of(_PINNED)) or []

    def _known_pins(self) -> list[str]:
        """The names of pinned versions; raises Conflict if the list is damaged."""
        pinned = self._read_pinned()
        if isinstance(pinned, Damaged):
            raise Conflict(
                f"can't tell which versions are pinned: can't use {pinned.path} ({pinned.why}); "
                "restore that file from a backup, or remove it and pin the versions again"
            )
        return pinned

    def pin(self, name: str, pinned: bool = True) -> None:
        """Pins or unpins a version; raises NotFound, and Conflict if the list of pins is damaged."""
        with self.unchanging():
            known = self._known_pins()
            if pinned or name not in known:  # a damaged or missing version can be unpinned
                self.get(name)
            names = {*known, name} if pinned else set(known) - {name}
            files.write_json(self._folder / PINNED_FILE, sorted(names, key=number_of))

    def delete(self, name: str) -> None:
        """Deletes a version permanently; raises NotFound, and Conflict if it is live or pinned.

        A live version can be deleted if it is damaged, since nothing can load it: then no version is live.
        """
        with self.unchanging():
            self.check_known(name)
            live, loads = self.read_pointer(), not self._is_damaged(name)
            if isinstance(live, Damaged) and loads:
                raise Conflict(
                    f"can't tell which version is live: can't use {live.path} ({live.why}); activate a version first"
                )
            if name == live and loads:
                raise Conflict(f"{name} is live: activate another version first")
            if name in self._known_pins():
                raise Conflict(f"{name} is pinned: unpin it first")
            exists = os.path.lexists(self._versions / name)
            if not exists:  # so only the pointer has its number
                self._ensure_noted(name)
            if name == live:
                files.remove(self.pointer)
                self._tell_of_move()
            if exists:
                self._remove(self._versions / name)

    def damages(self) -> list[Damaged]:
        """The project's files that this process found damaged, including those of its versions."""
        return files.damages(self._folder)

    def look(self) -> None:
        """Reads all records, which lists the damaged ones."""
        self.all()
        self._newest()

    def check_known(self, name: str) -> None:
        """Raises NotFound unless there is a version with that name, or remains of one."""
        if name not in self.names() and (name == UNTRAINED or name != self.live_name()):
            self.get(name)

    def _is_damaged(self, name: str) -> bool:
        try:
            self.get(name)
        except NotFound:
            return True
        return False

    def export(self, name: str, target: Path) -> None:
        """Copies a version's folder, which is self-contained; raises NotFound and Conflict."""
        version = self.get(name)
        if target.exists():
            raise Conflict(f"{target} already exists: choose a new folder")
        part = target.with_name(f".{target.name}.{uuid4().hex}")
        try:
            shutil.copytree(version.folder, part)
            files.sync_tree(part)
            files.move(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def exported(self, name: str) -> Path:
        """The folder of a version's ONNX module; if it exists, it is complete."""
        return self._folder / EXPORTS_FOLDER / f"{name}-onnx"

    def keep_exported(self, name: str, part: Path) -> None:
        """Moves a finished export into its place, instead of a damaged one; raises NotFound."""
        with self.unchanging():
            self.get(name)
            files.sync_tree(part)
            _remove_whatever(self.exported(name))
            files.move(part, self.exported(name))

    @contextmanager
    def unchanging(self) -> Iterator[None]:
        """Blocks other threads and processes from adding, removing or activating versions until the block ends.

        Raises NotFound if the project was deleted.
        """
        with unless_deleted(self._folder), files.locked(self._folder / ".versions"):
            yield

    def _new_name(self) -> tuple[str, float]:
        """A new name and its time.

        No name is used twice, even if MODEL_DIR was emptied or the clock was set back: the second always increases.
        """
        number, newest = self._newest()
        created = max(time.time(), newest + 1)
        return version_name(number + 1, created), created

    def _newest(self) -> tuple[int, float]:
        """The highest number and the latest second used so far, from all sources, since each may be lost."""
        removed = [path.name.removeprefix(REMOVED) for path in self._removed()]
        names = [*self.names(), *removed, self.live_name(), *self.pinned()]
        given = self._given()
        return max([given[0], *map(number_of, names)]), max([given[1], *map(second_of, names)])

    def _given(self) -> tuple[int, float]:
        """The noted number and second."""
        return files.read_record(self._folder / GIVEN_FILE, _GIVEN) or (0, 0.0)

    def _is_noted(self, name: str) -> bool:
        number, second = self._given()
        return number >= number_of(name) and second >= second_of(name)

    def _ensure_noted(self, name: str) -> None:
        """Notes the version's number, unless that is done; raises OSError."""
        if not self._is_noted(name):
            self._note_given(*self._newest())

    def _note_given(self, number: int, created: float) -> None:
        files.write_json(self._folder / GIVEN_FILE, [number, created])

    def activate(self, name: str) -> Version:
        """Makes a version live, possibly an older one; raises NotFound."""
        with self.unchanging():
            version = self.get(name)
            self._point_to(name)
        return version

    def _point_to(self, name: str) -> None:
        files.write(self.pointer, name + "\n")
        self._tell_of_move()

    def _tell_of_move(self) -> None:
        try:
            files.write(self._folder.parent / MOVED_FILE, token_hex(8), sync="data")
        except OSError as error:  # servers also read all pointers from time to time
            log.warning("servers will notice the new live version a little later: %s", error)


def last_move(projects_folder: Path) -> str:
    """A text that changes whenever a pointer of any project moves."""
    told = files.examine(projects_folder / MOVED_FILE, lambda content: content.hex())
    return told if isinstance(told, str) else ""


def _parse_pointer(content: bytes) -> str:
    name = content.decode("utf-8-sig").strip()  # people edit it, and editors on Windows write a byte-order mark
    if not is_version_name(name):
        raise ValueError("it doesn't contain the name of a version")
    return name


def _best(versions: Sequence[Version]) -> str:
    """The name of the most accurate version, "" if the model class reports no accuracy."""
    figures = [read_figures(version.train_output.get("figures")) for version in versions]
    alike = like_the_newest(figures)
    judged = [
        (one.accuracy or 0.0, number_of(version.name), version.name)
        for version, one, comparable in zip(versions, figures, alike, strict=True)
        if comparable
    ]
    return max(judged)[2] if judged else ""


def _remove_whatever(path: Path) -> None:
    """Removes a folder, or whatever is in its place, as far as possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _empty(folder: Path) -> None:
    """Removes what is in a folder, as far as possible; nothing if this isn't a folder."""
    with suppress(OSError):
        for path in list(folder.iterdir()) if not folder.is_symlink() else ():
            with suppress(OSError):
                _remove_whatever(path)


def _with_paths(value: Any, old: str, new: str) -> Any:
    """A copy of a JSON value in which paths below `old` are moved to `new`."""
    if isinstance(value, str):
        return new + value.removeprefix(old) if value == old or value.startswith(old + "/") else value
    if isinstance(value, list):
        return [_with_paths(item, old, new) for item in value]
    if isinstance(value, dict):
        return {key: _with_paths(item, old, new) for key, item in value.items()}
    return value


def without_secrets(train_output: Json) -> Json:
    """A train_output whose texts for people are redacted: they may quote an exception of a library."""
    texts = {key: redact(text) for key, text in train_output.items() if key in TEXTS and isinstance(text, str)}
    return {**train_output, **texts}


def _names_under(value: Any, folder: Path) -> set[str]:
    """The names of the direct children of `folder` that paths in a JSON value refer to."""
    if isinstance(value, str):
        prefix = f"{folder}/"
        return {value.removeprefix(prefix).split("/")[0]} if value.startswith(prefix) else set()
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*(_names_under(item, folder) for item in items))
