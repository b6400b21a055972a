"""A file with the URL and the class of an image in each line: CSV, or separated by tabs or semicolons."""

import csv
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from io import StringIO
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from image_classifier.data.file_kinds import is_systems_own
from image_classifier.data.folders import shown
from image_classifier.data.text_files import read_text
from image_classifier.errors import UsersError
from safe_http.session import Origin, as_browsers_read

URL_NAMES = ("url", "image_url", "image")
CLASS_NAMES = ("label", "class")
DELIMITERS = ("\t", ",", ";")

# What Windows doesn't allow in the name of a folder, since folders of images travel.
_FORBIDDEN = frozenset('<>:"/\\|?*')
_RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$"}
_RESERVED |= {f"{port}{number}" for port in ("com", "lpt") for number in "123456789¹²³"}
REPORT_FILE = "collect.csv"  # what became of each line, next to the classes' folders
LONGEST_NAME = 255  # bytes in UTF-8, on most file systems


@dataclass(frozen=True)
class Line:
    """A line of the file; `problem` says why it can't be used."""

    number: int
    url: str
    label: str
    problem: str = ""

    @property
    def is_address(self) -> bool:
        """Whether the URL is one of http or https."""
        return _is_address(self.url)

    @cached_property
    def key(self) -> str:
        """A hash of the image's address without user and password, so that no file contains a secret query."""
        parts = urlsplit(self.url)
        bare = SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, "")
        return sha256(bare.geturl().encode(errors="backslashreplace")).hexdigest()


def read_lines(file: Path) -> list[Line]:
    """The lines with content, without the header; raises UsersError if there is none that can be used.

    The header may name the columns `url` and `label` or `class`; otherwise, the first two columns count.
    """
    rows = _read_rows(file)
    url, label = _columns(file, rows)
    if rows and _is_header(_cell(rows[0][1], url)):
        rows = rows[1:]
    for number, row in rows:
        if any(end in cell for cell in (_cell(row, url), _cell(row, label)) for end in "\r\n"):
            raise UsersError(f"a cell on line {number} of {shown(file)} has a line break: is a quotation mark missing?")
    lines = list(_checked([_line(number, _cell(row, url), _cell(row, label)) for number, row in rows]))
    if all(line.problem for line in lines):
        why = f" (line {lines[0].number}: {lines[0].problem})" if lines else ""
        raise UsersError(
            f"{shown(file)} has no line with the URL and the class of an image, such as "
            f"https://example.com/1.jpg,cat{why}"
        )
    return lines


def _read_rows(file: Path) -> list[tuple[int, list[str]]]:
    """The rows with content, and the number of the line where each begins."""
    text = read_text(file).removeprefix("\ufeff")
    rows, begin = [], 1
    reader = csv.reader(StringIO(text, newline=""), delimiter=_delimiter(text), skipinitialspace=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((begin, row))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise UsersError(f"{shown(file)} isn't a CSV file (line {begin}: {error})") from None
    return rows


def _delimiter(text: str) -> str:
    """The delimiter on the first line; of several, the one that separates a URL from a class on most lines."""
    lines = [line for line in text.splitlines() if line.strip()]
    found = [one for one in DELIMITERS if lines and one in lines[0]] or [","]

    def separates_two(delimiter: str) -> bool:
        cells = [line.split(delimiter) for line in lines]
        fitting = [row for row in cells if len(row) == 2 and row[1].strip() and not set(row[1]) & {*DELIMITERS, '"'}]
        return len(fitting) * 2 > len(lines)

    return found[0] if len(found) == 1 else next(filter(separates_two, found), found[0])


def _columns(file: Path, rows: Sequence[tuple[int, list[str]]]) -> tuple[int, int]:
    """The positions of the URL and the class; raises UsersError if the header names only one of several columns."""
    names = [cell.strip().casefold() for cell in rows[0][1]] if rows else []
    url = next((names.index(name) for name in URL_NAMES if name in names), None)
    label = next((names.index(name) for name in CLASS_NAMES if name in names), None)
    if url is not None and label is not None:
        return url, label
    if (url is not None or label is not None) and len(names) > 2 and not any(map(_is_address, names)):
        raise UsersError(
            f"{shown(file)} has no column named {'url' if url is None else 'label'}: add that name to the header"
        )
    return (1, 0) if url == 1 or label == 0 else (0, 1)


def _is_header(cell: str) -> bool:
    """Whether the cell above the URLs is a name; a URL with a mistake in it has one of these characters."""
    return not set(cell) & set("/.:")


def _cell(row: Sequence[str], column: int) -> str:
    return row[column].strip() if column < len(row) else ""


def _line(number: int, url: str, label: str) -> Line:
    line = Line(number, as_browsers_read(url), unicodedata.normalize("NFC", label))
    if not url:
        return replace(line, problem="no URL")
    if not _is_address(url):
        return replace(line, problem="not an http:// or https:// URL")
    return replace(line, problem=_problem_with_name(line.label))


def _is_address(url: str) -> bool:
    try:
        Origin.of(as_browsers_read(url))
    except ValueError:
        return False
    return True


def _problem_with_name(label: str) -> str:
    """Why a class can't be the name of a folder on all systems; "" if it can."""
    if not label:
        return "no class"
    found = sorted(_FORBIDDEN & set(label))
    if found:
        why = f"contains {' '.join(found)}"
    elif not label.isprintable():
        why = "contains a character that can't be shown"
    elif is_systems_own(label):
        why = "is the name of a hidden or system folder"
    elif label.endswith("."):
        why = "ends in a period"
    elif label.partition(".")[0].strip().casefold() in _RESERVED:
        why = "is reserved on Windows"
    elif label.casefold() == REPORT_FILE:
        why = "is the name of the report"
    elif len(label.encode()) > LONGEST_NAME:
        why = f"is longer than {LONGEST_NAME} bytes"
    else:
        return ""
    return f"the class {shown(label[:50])} can't be a folder because it {why}: rename it"


def _checked(lines: Sequence[Line]) -> Iterator[Line]:
    """Marks classes that differ from an earlier one only in case: on some systems, both would be one folder."""
    spelled: dict[str, Line] = {}
    for line in lines:
        first = line if line.problem else spelled.setdefault(line.label.casefold(), line)
        if first.label != line.label:
            other = f"{shown(first.label)} on line {first.number}"
            why = f"the class {shown(line.label)} differs from {other} only in case: use one spelling"
            line = replace(line, problem=why)
        yield line
