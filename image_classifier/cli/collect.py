"""Fetches the images in a list of URLs into a folder for each class; images already there aren't fetched again."""

import os
import re
import threading
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from image_classifier.cli.collect_report import DUPLICATE, Outcome, write_outcomes
from image_classifier.cli.url_list import REPORT_FILE, Line
from image_classifier.data.file_kinds import suffix_of
from image_classifier.data.folders import problem_of, shown
from image_classifier.data.image_file import ImageFile
from image_classifier.errors import UsersError
from image_classifier.progress import Progress
from image_classifier.settings import ClassifierSettings
from safe_http.download import Downloader, DownloadError
from safe_http.settings import FetchSettings

PARALLEL = 16  # images that are fetched at once
STATE_FOLDER = ".collect"  # hidden, so that no command takes it for a class
KNOWN_FILE = "known.csv"
PART = "part-"  # prefix of a file that isn't whole

_NAME = re.compile(r"[0-9a-f]{32}\.[a-z]{3,4}")
_KNOWN = re.compile(r"([0-9a-f]{64}),([0-9a-f]{32}\.[a-z]{3,4}),([0-9]{1,12})\n")


class CollectSettings(ClassifierSettings, FetchSettings):
    """The classifier's settings, and the backend's about hosts, the proxy and limits."""


@dataclass(frozen=True)
class _Known:
    """A fetched image: the name of its file, from the digest of its content, and its size in bytes."""

    name: str
    size: int


def collect(lines: Sequence[Line], folder: Path, settings: CollectSettings, progress: Progress) -> list[Outcome]:
    """Fetches the images of all lines into `folder/<class>/`, and writes the report; one outcome for each line.

    A file's name is the digest of its content, so duplicates in a class are one file. An image with two classes is in
    neither. Raises UsersError if another process collects into the folder, OSError if the disk is full.
    """
    with _claimed(folder) as state:
        collection = _Collection(folder, state, lines)
        wanted = collection.wanted()
        with _downloader(settings) as (downloader, stopped):
            _fetch_all(collection, wanted, downloader, stopped, progress)
        outcomes = collection.settle()
        write_outcomes(folder / REPORT_FILE, outcomes)
        return outcomes


@contextmanager
def _claimed(folder: Path) -> Iterator[Path]:
    """The folder for what the next run needs, locked for this process; raises UsersError."""
    if folder.exists() and not folder.is_dir():
        raise UsersError(f"{shown(folder)} isn't a folder: choose a folder for the images")
    state = folder / STATE_FOLDER
    if (folder / REPORT_FILE).is_dir():
        raise UsersError(f"{shown(folder / REPORT_FILE)} is a folder, but the report needs this name: rename it")
    if state.is_symlink():  # files are removed in it
        raise UsersError(f"{shown(state)} is a link to another folder: remove the link")
    state.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(state / "lock", timeout=0):
            for part in state.glob(f"{PART}*"):  # of a process that was killed
                part.unlink()
            yield state
    except Timeout:
        raise UsersError(f"another process is collecting images into {shown(folder)}: wait until it is done") from None


@contextmanager
def _downloader(settings: FetchSettings) -> Iterator[tuple[Downloader, threading.Event]]:
    stopped = threading.Event()
    downloader = Downloader(settings, stopped)
    try:
        yield downloader, stopped
    finally:
        downloader.close()


def _fetch_all(
    collection: "_Collection",
    wanted: Sequence[Line],
    downloader: Downloader,
    stopped: threading.Event,
    progress: Progress,
) -> None:
    """Fetches the images in threads; after Ctrl-C, or if the disk is full, those that have begun are finished."""
    waiting: set[Future[None]] = set()
    done = 0
    with ThreadPoolExecutor(PARALLEL) as threads:
        try:
            for line in wanted:
                progress({"phase": "fetching images", "image": done, "images": len(wanted)})
                waiting.add(threads.submit(collection.fetch, line, downloader))
                if len(waiting) >= 2 * PARALLEL:
                    done += _finish_one(waiting)
            while waiting:
                progress({"phase": "fetching images", "image": done, "images": len(wanted)})
                done += _finish_one(waiting)
        except BaseException:
            stopped.set()
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _finish_one(waiting: set[Future[None]]) -> int:
    """Waits for at least one and returns how many are done; raises what one of them raised."""
    finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
    waiting -= finished
    for future in finished:
        future.result()
    return len(finished)


class _Collection:
    """The images of a list in a folder: those that are there, and what happened to the others."""

    def __init__(self, folder: Path, state: Path, lines: Sequence[Line]) -> None:
        self._folder, self._state, self._lines = folder, state, lines
        self._usable = [line for line in lines if not line.problem]
        self._known = _read_known(state / KNOWN_FILE)
        self._failed: dict[str, tuple[str, str]] = {}  # key → problem and reason
        self._lock = threading.Lock()
        self._before = _classes_of_images(folder)

    def wanted(self) -> list[Line]:
        """The first line of each image that must be fetched: it isn't there, and has one class only."""
        several = self._with_several_classes()
        missing = {
            line.key: line
            for line in reversed(self._usable)
            if self._identity(line) not in several and not self._elsewhere(line) and self._place(line) is None
        }
        return sorted(missing.values(), key=lambda line: line.number)

    def fetch(self, line: Line, downloader: Downloader) -> None:
        """Fetches an image and checks it; a file gets its name when it is whole. Raises OSError if it can't be kept."""
        try:
            body = downloader(line.url)
        except DownloadError as error:
            self._failed[line.key] = (str(error), error.reason)
            return
        digest = sha256(body).hexdigest()
        part = self._state / f"{PART}{line.key}"
        try:
            part.write_bytes(body)
            if problem := problem_of(ImageFile(part, digest)):
                self._failed[line.key] = (problem.problem, "unreadable")
                return
            known = _Known(digest[:32] + suffix_of(body), len(body))
            place = self._folder / line.label / known.name
            try:
                place.parent.mkdir(exist_ok=True)
            except FileExistsError:  # a file, or a link that leads nowhere
                self._failed[line.key] = (f"{shown(place.parent)} isn't a folder: move it elsewhere", "unusable_line")
                return
            os.replace(part, place)
        finally:
            part.unlink(missing_ok=True)
        with self._lock:
            self._known[line.key] = known
            with (self._state / KNOWN_FILE).open("a", encoding="utf-8") as file:
                file.write(f"{line.key},{known.name},{known.size}\n")

    def settle(self) -> list[Outcome]:
        """The outcome of each line; removes the files of images that turned out to have several classes."""
        several = self._with_several_classes()
        first: dict[tuple[str, str], Line] = {}
        outcomes = []
        for line in self._lines:
            if line.problem:
                outcomes.append(Outcome(line, problem=line.problem, reason="unusable_line"))
            elif line.key in self._failed:
                problem, reason = self._failed[line.key]
                outcomes.append(Outcome(line, problem=problem, reason=reason))
            elif (others := several.get(self._identity(line))) or self._elsewhere(line):
                self._remove(line)
                outcomes.append(Outcome(line, problem=self._contradiction(line, others or {}), reason="contradiction"))
            elif (one := first.setdefault((self._identity(line), line.label), line)) is line:
                outcomes.append(Outcome(line, self._place(line)))
            else:
                outcomes.append(Outcome(line, problem=f"the same image as line {one.number}", reason=DUPLICATE))
        return outcomes

    def _identity(self, line: Line) -> str:
        """The same for lines with the same image, as far as that is known."""
        known = self._known.get(line.key)
        return known.name if known else line.key

    def _with_several_classes(self) -> dict[str, dict[str, Line]]:
        """The images that have several classes, with the first line of each class."""
        lines: defaultdict[str, dict[str, Line]] = defaultdict(dict)
        for line in self._usable:
            lines[self._identity(line)].setdefault(line.label, line)
        return {one: found for one, found in lines.items() if len(found) > 1}

    def _elsewhere(self, line: Line) -> list[str]:
        """The other classes in whose folders the image was before."""
        others = self._before.get(self._identity(line), set()) - {line.label}
        return sorted(other for other in others if not _is_same(self._folder / other, self._folder / line.label))

    def _contradiction(self, line: Line, others: Mapping[str, Line]) -> str:
        if other := next((one for label, one in others.items() if label != line.label), None):
            return f"the same image as line {other.number}, whose class is {shown(other.label)}: remove the wrong line"
        place = self._folder / self._elsewhere(line)[0] / self._identity(line)
        return f"the same image as {shown(place)}: remove that file, or correct the class"

    def _place(self, line: Line) -> Path | None:
        """The image's whole file; None if it isn't there."""
        known = self._known.get(line.key)
        if known is None:
            return None
        place = self._folder / line.label / known.name
        try:
            return place if place.stat().st_size == known.size else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _remove(self, line: Line) -> None:
        if place := self._place(line):
            place.unlink()


def _is_same(one: Path, other: Path) -> bool:
    """Whether both are the same folder, as two spellings are on a file system that ignores case."""
    try:
        return one.samefile(other)
    except FileNotFoundError:
        return False


def _classes_of_images(folder: Path) -> dict[str, set[str]]:
    """The classes in whose folders each fetched image is, by the name of its file."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for directory in folder.iterdir():
        if directory.is_dir() and directory.name != STATE_FOLDER:
            for file in directory.iterdir():
                if _NAME.fullmatch(file.name):
                    found[file.name].add(unicodedata.normalize("NFC", directory.name))
    return found


def _read_known(file: Path) -> dict[str, _Known]:
    """The images that earlier runs fetched, by key; lines that a killed process has cut don't count."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    return {found[1]: _Known(found[2], int(found[3])) for found in _KNOWN.finditer(text)}
