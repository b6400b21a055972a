"""Folders of images, `folder/<class>/**/<image>`: what they hold, and what is amiss with them."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from image_classifier.dataset import Sample
from image_classifier.inference import ImageFile
from image_classifier.preprocessing import ImageError, PerhapsSound, open_image
from image_classifier.recipes.errors import UsersError

MIN_SIDE = 16  # pixels; what is smaller is an icon or a tracking pixel rather than a photo
READERS = 8  # files that are read at once, since disks and networks answer slowly

NAME_NOT_UTF8 = "its name is not UTF-8: rename it"
_CONTRADICTION = "the same image as {}, of another class: remove the wrong one"


@dataclass(frozen=True)
class Finding:
    """What is amiss with a file; `surplus` where the set of images is better without it."""

    path: Path
    problem: str
    surplus: bool = False

    def __str__(self) -> str:
        return f"{shown(self.path)}: {self.problem}"


@dataclass(frozen=True)
class Listing:
    """The files of each class, in order, and what is amiss beside them."""

    classes: dict[str, list[Path]]
    findings: list[Finding]


@dataclass(frozen=True)
class Split:
    """Folders of images that somebody has split: each holds a folder for each class."""

    train: Path
    val: Path
    test: Path | None


def find_split(folder: Path) -> Split | None:
    """`folder/train`, `folder/val` (or `valid`, `validation`) and perhaps `folder/test`; None for any others."""
    found = {path.name: path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    train, test = found.pop("train", None), found.pop("test", None)
    if train is None or len(found) != 1:
        return None
    [(name, val)] = found.items()
    return Split(train, val, test) if name in ("val", "valid", "validation") else None


def shown(path: Path | str) -> str:
    """A name on one line that every terminal can print."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def list_folder(folder: Path) -> Listing:
    """The files of each class folder and of the folders in it; hidden ones are passed over.

    Raises UsersError where there are no classes to be found.
    """
    if not folder.exists():
        raise UsersError(f"{shown(folder)}: there is no such folder; give one with a folder of images for each class")
    if not folder.is_dir():
        raise UsersError(f"{shown(folder)} is no folder; give one with a folder of images for each class")
    findings: list[Finding] = []
    directories: list[Path] = []
    for path in _entries(folder, findings):
        if path.is_dir():
            directories.append(path)
        else:
            findings.append(Finding(path, "lies beside the class folders: move it into the folder of its class"))
    if not directories:
        raise UsersError(f"{shown(folder)} has no folders: put the images of each class into a folder with its name")
    _refuse_nested(folder, directories)
    classes: dict[str, list[Path]] = {}
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for directory in directories:
        name = unicodedata.normalize("NFC", directory.name)  # macOS decomposes é; that is no other class
        if not _is_utf8(name):
            findings.append(Finding(directory, NAME_NOT_UTF8))
            continue
        files = list(files_below(directory, findings, seen[name]))
        if files:
            classes.setdefault(name, []).extend(files)
        elif name not in classes:
            findings.append(Finding(directory, "holds no files: put images of the class into it, or remove it"))
    return Listing(classes, findings)


def _entries(folder: Path, findings: list[Finding]) -> list[Path]:
    """What is in a folder, in order; not what is hidden, such as .DS_Store and .ipynb_checkpoints."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        findings.append(Finding(folder, f"cannot be read ({error.strerror}): change its permissions"))
        return []


def _refuse_nested(folder: Path, directories: Sequence[Path]) -> None:
    """`train/cat, test/cat` would become the classes train and test."""
    insides = [_entries(directory, []) for directory in directories]
    if any(path.is_file() for inside in insides for path in inside):
        return
    repeated = [
        name for name, count in Counter(path.name for inside in insides for path in inside).items() if count > 1
    ]
    if repeated:
        raise UsersError(
            f"{shown(folder)} holds {shown(directories[0].name)}/{shown(repeated[0])} and the like, folders of "
            f"classes in folders: give one of them, such as {shown(directories[0])}"
        )


def files_below(directory: Path, findings: list[Finding], seen: set[str] | None = None) -> Iterator[Path]:
    """The regular files, links followed, but no folder twice, nor what is `seen`: links may lead in a circle."""
    seen = set() if seen is None else seen
    waiting = [directory]
    while waiting:
        current = waiting.pop()
        real = os.path.realpath(current)
        if real in seen:
            findings.append(Finding(current, "leads to a folder that has been seen already: left out"))
            continue
        seen.add(real)
        inside = _entries(current, findings)
        for path in inside:
            if path.is_dir():
                continue
            if not _is_utf8(str(path)):
                findings.append(Finding(path, NAME_NOT_UTF8))
            elif path.is_file():
                yield path
            elif path.is_symlink():
                findings.append(Finding(path, "is a link to nothing", surplus=True))
            else:
                findings.append(Finding(path, "is no regular file", surplus=True))
        waiting.extend(path for path in reversed(inside) if path.is_dir())


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def samples_of(listing: Listing) -> list[Sample]:
    """Each image once, named by its absolute path, with its class as label.

    What cannot be used is noted in the listing: files that cannot be read, and images that lie in two classes.
    """
    labelled = [(path, name) for name, files in listing.classes.items() for path in files]
    found: dict[str, Sample] = {}
    contradictory: set[str] = set()
    for (path, name), file in zip(labelled, read_files([path for path, _ in labelled]), strict=True):
        if isinstance(file, Finding):
            listing.findings.append(file)
            continue
        first = found.setdefault(file.digest, Sample(file, name, str(path.absolute())))
        if first.label != name:
            contradictory.add(file.digest)
            listing.findings.append(Finding(path, _CONTRADICTION.format(shown(first.image.path))))
    return [sample for digest, sample in found.items() if digest not in contradictory]


def read_files(paths: Sequence[Path]) -> list[ImageFile | Finding]:
    """The content's digest for each path, or why it cannot be read."""

    def read(path: Path) -> ImageFile | Finding:
        try:
            return ImageFile.of(path)
        except (OSError, MemoryError, ValueError) as error:  # ValueError: no file can have such a name
            return Finding(path, f"cannot be read ({_reason(error)})")

    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(read, paths))


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "there is too little memory"
    return str(getattr(error, "strerror", None) or error)


def examine(listing: Listing) -> None:
    """Looks into every file: notes what is no image, broken, too small, or there twice.

    Only what is known to be surplus is marked so: not what may be sound, and nothing of an image in two classes, since
    any of its files may be the one that a person decides for.
    """
    labelled = [(name, path) for name, files in listing.classes.items() for path in files]
    readable: list[tuple[str, ImageFile]] = []
    for (name, _), file in zip(labelled, read_files([path for _, path in labelled]), strict=True):
        if isinstance(file, Finding):
            listing.findings.append(file)
        else:
            readable.append((name, file))
    with ThreadPoolExecutor(os.cpu_count()) as decoders:
        problems = list(decoders.map(lambda pair: _problem_of(pair[1].path), readable))
    sound = [(name, file) for (name, file), problem in zip(readable, problems, strict=True) if not problem]
    kept: dict[str, tuple[str, Path]] = {}
    classes: dict[str, set[str]] = {}
    for name, file in sorted(sound, key=lambda pair: _links_to(pair[1].path)):
        kept.setdefault(file.digest, (name, file.path))
        classes.setdefault(file.digest, set()).add(name)
    for (name, file), problem in zip(readable, problems, strict=True):
        if problem:
            listing.findings.append(problem)
            continue
        kept_class, one = kept[file.digest]
        if name != kept_class:
            listing.findings.append(Finding(file.path, _CONTRADICTION.format(shown(one))))
        elif file.path != one:
            surplus = len(classes[file.digest]) == 1
            listing.findings.append(Finding(file.path, f"the same image as {shown(one)}", surplus))


def _problem_of(path: Path) -> Finding | None:
    """What is amiss with an image by itself."""
    try:
        # Decoded from memory: what fails then is no failure of the disk, which Pillow calls by many names.
        width, height = open_image(path.read_bytes()).size
    except (OSError, MemoryError) as error:
        return Finding(path, f"cannot be read ({_reason(error)})")
    except ImageError as error:
        return Finding(path, str(error), surplus=not isinstance(error, PerhapsSound))
    if min(width, height) < MIN_SIDE:
        return Finding(path, f"too small: {width}×{height}, where {MIN_SIDE} pixels are the least", surplus=True)
    return None


def _links_to(path: Path) -> int:
    """How many links lead to the file: of the same images the one with the fewest needs none of the others."""
    count = 0
    while path.is_symlink():
        path = path.parent / path.readlink()
        count += 1
    return count


def remove(findings: Iterable[Finding]) -> None:
    """Deletes what is surplus."""
    for finding in findings:
        finding.path.unlink()


def move(findings: Sequence[Finding], folder: Path, target: Path) -> None:
    """Moves what is surplus from `folder` to `target`, with the folders it lies in; raises UsersError."""
    places = [(finding.path, target / finding.path.relative_to(folder)) for finding in findings]
    if target.resolve().is_relative_to(folder.resolve()):
        raise UsersError(f"{shown(target)} is inside {shown(folder)}, where it would be a class: choose another folder")
    for _, place in places:
        if place.exists():
            raise UsersError(f"{shown(place)} is there already: choose an empty folder")
    for path, place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
