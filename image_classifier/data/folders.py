"""Folders of images, `folder/<class>/**/<image>`: their contents and their problems."""

import errno
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from image_classifier.data.dataset import Sample
from image_classifier.data.file_kinds import is_cut_short, is_systems_own, looks_like_image
from image_classifier.data.image_file import ImageFile
from image_classifier.data.preprocessing import ImageError, PerhapsSound, open_image
from image_classifier.errors import UsersError
from image_classifier.progress import Progress, counted, ignore

MIN_SIDE = 16  # pixels; smaller images are icons or tracking pixels rather than photos
MAX_FILE_BYTES = 2 << 30  # read into memory; more than an uncompressed image with the maximum number of pixels
READERS = 8  # files that are read at once, since disks and networks are slow to answer

NAME_NOT_UTF8 = "its name is not UTF-8: rename it"
NOT_REGULAR = "isn't a regular file"
_CONTRADICTION = "the same image as {}, which is in another class: remove the wrong one"
_NOTHING = sha256().hexdigest()
_JOINERS = "\u200c\u200d"  # invisible, but part of words and emoji
_VAL = ("val", "valid", "validation")
_PARTS = ("train", "test", *_VAL)  # of a split


@dataclass(frozen=True)
class Surplus:
    """Why a file can go: it is empty or truncated, or the file `kept` has the same content."""

    digest: str
    kept: Path | None = None


@dataclass(frozen=True)
class Finding:
    """A problem with a file; `surplus` if the problem proves that the file can go."""

    path: Path
    problem: str
    surplus: Surplus | None = None

    def __str__(self) -> str:
        return f"{shown(self.path)}: {self.problem}"


@dataclass(frozen=True)
class Listing:
    """The images of each class in a folder, in order; the problems; the number of other files by suffix; and notes."""

    folder: Path
    classes: dict[str, list[Path]]
    findings: list[Finding]
    skipped: Counter[str]
    note: str


@dataclass(frozen=True)
class Split:
    """Image folders with an existing split: each contains a folder for each class."""

    train: Path
    val: Path
    test: Path | None


def find_split(folder: Path) -> Split | None:
    """The split into `train`, `val` (or `valid`, `validation`) and perhaps `test`; None if there are other folders."""
    found = {path.name: path for path in folder.iterdir() if path.is_dir() and not is_systems_own(path.name)}
    train, test = found.pop("train", None), found.pop("test", None)
    if train is None or len(found) != 1:
        return None
    [(name, val)] = found.items()
    return Split(train, val, test) if name in _VAL else None


def shown(path: Path | str) -> str:
    """A name as one line that any terminal can print."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return "".join(c if _can_be_shown(c) else c.encode("unicode_escape").decode() for c in text)


def _can_be_shown(character: str) -> bool:
    """Whether a character is shown as it is, without an escape.

    Python calls no space but the usual one printable, but names have others, such as those of screenshots on macOS.
    """
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"


def list_folder(folder: Path) -> Listing:
    """The images in each class folder and its subfolders; system files are skipped.

    Raises UsersError if there are no classes.
    """
    if not folder.exists():
        raise UsersError(f"{shown(folder)}: no such folder; pass a folder with a subfolder of images for each class")
    if not folder.is_dir():
        raise UsersError(f"{shown(folder)} isn't a folder; pass a folder with a subfolder of images for each class")
    findings: list[Finding] = []
    skipped: Counter[str] = Counter()
    directories: list[Path] = []
    for path in _entries(folder, findings):
        if (mode := _mode(path, findings)) is None:
            continue
        if S_ISDIR(mode):
            directories.append(path)
        elif _is_image(path, mode, skipped):
            findings.append(Finding(path, "is next to the class folders: move it into the folder of its class"))
    if not directories:
        raise UsersError(
            f"{shown(folder)} has no subfolders: put the images of each class into a subfolder named after the class"
        )
    note = _check_nested(folder, directories)
    classes: dict[str, list[Path]] = {}
    seen: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
    for directory in directories:
        name = unicodedata.normalize("NFC", directory.name)  # macOS decomposes é; it's still the same class
        if not is_utf8(name):
            findings.append(Finding(directory, NAME_NOT_UTF8))
            continue
        files = list(images_below(directory, findings, skipped, seen[name]))
        if files:
            classes.setdefault(name, []).extend(files)
        elif name not in classes:
            findings.append(Finding(directory, "contains no images: add images of the class, or remove the folder"))
    notes = [note, differing_only_in_case(classes, "merge their folders")]
    return Listing(folder, classes, findings, skipped, "\n".join(filter(None, notes)))


def differing_only_in_case(classes: Iterable[str], remedy: str) -> str:
    """A note about such classes: two may be one, spelled in two ways, or not, such as the letters a and A."""
    spelled: dict[str, str] = {}
    pairs = [
        f"{shown(first)} and {shown(name)}"
        for name in classes
        if (first := spelled.setdefault(name.lower(), name)) != name  # not `casefold`: it takes ß for ss
    ]
    some = ", ".join(pairs[:3]) + (", …" if len(pairs) > 3 else "")
    return f"Some classes differ only in case: {some}. If two are one class, {remedy}" if pairs else ""


def _entries(folder: Path, findings: list[Finding]) -> list[Path]:
    """The contents of a folder, in order, without system files such as .DS_Store and Thumbs.db."""
    try:
        return sorted(path for path in folder.iterdir() if not is_systems_own(path.name))
    except OSError as error:
        findings.append(Finding(folder, f"can't be read ({error.strerror}): change its permissions"))
        return []


def _mode(path: Path, findings: list[Finding]) -> int | None:
    """The file mode from `stat`, links followed; None, and a finding, if that fails."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP) and path.is_symlink():
            findings.append(Finding(path, "is a dead link"))
        else:
            findings.append(Finding(path, f"can't be read ({error.strerror})"))
        return None


def _is_image(path: Path, mode: int, skipped: Counter[str]) -> bool:
    """Whether to treat the file as an image; if not, counts it as skipped. A file that can't be opened may be one."""
    try:
        if not S_ISREG(mode) or looks_like_image(path):
            return True
    except OSError:
        return True
    skipped[path.suffix.lower()] += 1
    return False


def _check_nested(folder: Path, directories: Sequence[Path]) -> str:
    """A note if class folders have the same subfolders, which may be the classes that were meant; otherwise "".

    Raises UsersError for a split: `train/cat, test/cat` would become the classes train and test.
    """
    insides = [[(path, _mode(path, [])) for path in _entries(directory, [])] for directory in directories]
    found = [(path, mode) for inside in insides for path, mode in inside if mode is not None]
    if any(S_ISREG(mode) and _is_image(path, mode, Counter()) for path, mode in found):
        return ""
    inner = [path for path, mode in found if S_ISDIR(mode)]
    parts = [path for path in directories if path.name.casefold() in _PARTS]
    if inner and (len(parts) > 1 or parts == directories):
        better = next((path for path in parts if path.name.casefold() == "train"), parts[0])
        raise UsersError(
            f"the class folders of {shown(folder)} are one level too deep (for example, "
            f"{shown(inner[0].relative_to(folder))}): pass one of its subfolders, such as {shown(better)}"
        )
    names = Counter(path.name for path in inner)
    if repeated := [name for name, count in names.items() if count > 1]:
        classes = ", ".join([*(shown(path.name) for path in directories[:3]), *("…" for _ in directories[3:4])])
        return (
            f"The classes are the subfolders of {shown(folder)}: {classes}. If {shown(repeated[0])} is meant to be a "
            "class, pass one of these subfolders instead"
        )
    return ""


def images_below(
    directory: Path, findings: list[Finding], skipped: Counter[str], seen: set[tuple[int, int]] | None = None
) -> Iterator[Path]:
    """The images in a folder and its subfolders, links followed; other files are only counted.

    Each folder is visited once, and not at all if it is in `seen`: links may form a circle, and a folder may be mounted
    twice.
    """
    seen = set() if seen is None else seen
    waiting = [directory]
    while waiting:
        current = waiting.pop()
        try:
            found = current.stat()
        except OSError as error:
            findings.append(Finding(current, f"can't be read ({error.strerror})"))
            continue
        if (found.st_dev, found.st_ino) in seen:
            findings.append(Finding(current, "leads to a folder that was already read: left out"))
            continue
        seen.add((found.st_dev, found.st_ino))
        directories = []
        for path in _entries(current, findings):
            if (mode := _mode(path, findings)) is None:
                continue
            if S_ISDIR(mode):
                directories.append(path)
            elif not _is_image(path, mode, skipped):
                continue
            elif not is_utf8(str(path)):
                findings.append(Finding(path, NAME_NOT_UTF8))
            elif S_ISREG(mode):
                yield path
            else:
                findings.append(Finding(path, NOT_REGULAR))
        waiting.extend(reversed(directories))


def is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def refuse_other_names(*names: Path | str) -> None:
    """Raises UsersError if a name isn't UTF-8: the files of a model name its images and weights in UTF-8."""
    for name in names:
        if not is_utf8(str(name)):
            raise UsersError(f"{shown(name)}: {NAME_NOT_UTF8}")


def samples_of(listing: Listing, progress: Progress = ignore) -> list[Sample]:
    """Each image once, named by its absolute path, with its class as label.

    Adds files that can't be used to the listing's findings: unreadable files, and images that are in two classes.
    """
    labeled = [(path, name) for name, files in listing.classes.items() for path in files]
    found: dict[str, Sample] = {}
    contradictory: set[str] = set()
    for (path, name), file in zip(labeled, read_files([path for path, _ in labeled], progress), strict=True):
        if isinstance(file, Finding):
            listing.findings.append(file)
            continue
        first = found.setdefault(file.digest, Sample(file, name, str(path.absolute())))
        if first.label != name:
            contradictory.add(file.digest)
            # If the same error page was saved twice as an image, the problem is the page, not the two classes.
            contradiction = Finding(path, _CONTRADICTION.format(shown(first.image.path)))
            listing.findings.append(problem_of(file) or contradiction)
    return [sample for digest, sample in found.items() if digest not in contradictory]


def read_files(paths: Sequence[Path], progress: Progress = ignore) -> list[ImageFile | Finding]:
    """For each path, the image file with its digest, or why it can't be read."""

    def read(path: Path) -> ImageFile | Finding:
        try:
            found = path.stat()
            if not S_ISREG(found.st_mode):  # reading a pipe would block, and a device never ends
                return Finding(path, "is a folder" if S_ISDIR(found.st_mode) else NOT_REGULAR)
            if not found.st_size:
                return Finding(path, "is empty", Surplus(_NOTHING))
            if found.st_size > MAX_FILE_BYTES:
                return Finding(path, f"is larger than {MAX_FILE_BYTES >> 30} GB: scale it down")
            return ImageFile.of(path)
        except (OSError, MemoryError, ValueError) as error:  # ValueError: not a valid file name
            return Finding(path, f"can't be read ({_reason(error)})")

    with ThreadPoolExecutor(READERS) as readers:
        return list(counted("reading images", readers.map(read, paths), len(paths), progress))


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory"
    return str(getattr(error, "strerror", None) or error)


def examine(listing: Listing, progress: Progress = ignore) -> None:
    """Checks every file: adds findings for files that aren't images, damaged or small images, and duplicates.

    Marks files as surplus only with proof: duplicates of a readable image, and empty or truncated files. Other files
    that this program can't read stay, since other programs may read them. So do all files of an image in two classes,
    since only a person can decide which one is right, and files in linked folders outside the listing's folder, since
    they may belong to something else.
    """
    root = listing.folder.resolve()
    inside = cache(lambda parent: parent.resolve().is_relative_to(root))
    labeled = [(name, path) for name, files in listing.classes.items() for path in files]
    readable: list[tuple[str, ImageFile]] = []
    for (name, _), file in zip(labeled, read_files([path for _, path in labeled], progress), strict=True):
        if isinstance(file, Finding):
            listing.findings.append(file)
        else:
            readable.append((name, file))
    with ThreadPoolExecutor(os.cpu_count()) as decoders:
        checked = decoders.map(lambda pair: problem_of(pair[1]), readable)
        problems = list(counted("checking images", checked, len(readable), progress))
    sound = [(name, file) for (name, file), problem in zip(readable, problems, strict=True) if not problem]
    kept: dict[str, tuple[str, Path]] = {}
    classes: dict[str, set[str]] = {}
    for name, file in sorted(sound, key=lambda pair: (not inside(pair[1].path.parent), _links_to(pair[1].path))):
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
            surplus = Surplus(file.digest, one) if len(classes[file.digest]) == 1 else None
            listing.findings.append(Finding(file.path, f"the same image as {shown(one)}", surplus))
    listing.findings[:] = [
        finding if inside(finding.path.parent) else replace(finding, surplus=None) for finding in listing.findings
    ]


def problem_of(file: ImageFile) -> Finding | None:
    """A problem with the image that doesn't depend on other files."""
    path = file.path
    try:
        # Decode from memory, so that an error can't come from the disk: Pillow reports those under many names.
        data = path.read_bytes()
        width, height = open_image(data, MIN_SIDE).size
    except (OSError, MemoryError) as error:
        return Finding(path, f"can't be read ({_reason(error)})")
    except PerhapsSound as error:
        return Finding(path, str(error))
    except ImageError as error:
        if is_cut_short(data):
            return Finding(path, "is truncated: the end of the file is missing", Surplus(file.digest))
        return Finding(path, str(error))
    if min(width, height) < MIN_SIDE:
        return Finding(path, f"too small: {width}×{height}, but each side needs at least {MIN_SIDE} pixels")
    return None


def _links_to(path: Path) -> int:
    """The number of links to follow to the file: of duplicates, the one with the fewest doesn't need the others."""
    count = 0
    while path.is_symlink():
        path = path.parent / path.readlink()
        count += 1
    return count
