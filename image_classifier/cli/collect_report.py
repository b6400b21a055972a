"""What happened to the lines of a list of URLs: a report as a file, and a summary in one line."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from image_classifier.cli.url_list import Line
from image_classifier.files import written_aside
from safe_http.session import url_without_secrets

COLUMNS = ("line", "url", "class", "file", "problem")
DUPLICATE = "duplicate"

# Reasons in the words of the summary, in its order.
_REASONS = {
    "unusable_line": "without a usable URL or class",
    "not_found": "not found",
    "refused": "refused by the server",
    "forbidden_address": "at an address that isn't allowed",
    "unreachable": "not reachable",
    "timeout": "too slow",
    "server_error": "failed on the server",
    "too_many_requests": "rate-limited by the server",
    "too_many_redirects": "redirected too often",
    "too_large": "too large",
    "not_an_image": "not an image",
    "unreadable": "not readable",
    "contradiction": "in two classes",
    "other": "failed",
}


@dataclass(frozen=True)
class Outcome:
    """What happened to a line: its image's file, or why there is none, with a reason code to count."""

    line: Line
    file: Path | None = None
    problem: str = ""
    reason: str = ""

    @property
    def failed(self) -> bool:
        """Whether the line's image is missing; that of a duplicate isn't."""
        return self.file is None and self.reason != DUPLICATE

    @property
    def url(self) -> str:
        """The URL without secrets; "" if it isn't one, since nobody knows what is secret in it."""
        return url_without_secrets(self.line.url) if self.line.is_address else ""

    def __str__(self) -> str:
        return ": ".join(part for part in (f"line {self.line.number}", self.url, self.problem) if part)


def write_outcomes(file: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes a CSV file with a row for each line of the list; names of files are relative to its folder."""
    with written_aside(file) as part, part.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in outcomes:
            place = one.file.relative_to(file.parent).as_posix() if one.file else ""
            writer.writerow([one.line.number, one.url, one.line.label, place, one.problem])


def summarize(outcomes: Sequence[Outcome]) -> str:
    """How many lines have no image, by reason; "" if all have one."""
    counts = Counter(one.reason for one in outcomes if one.failed)
    if not counts:
        return ""
    words = ", ".join(f"{counts[reason]:,} {word}" for reason, word in _REASONS.items() if counts[reason])
    verb = "has" if counts.total() == 1 else "have"
    return f"{counts.total():,} of {len(outcomes):,} lines {verb} no image: {words}"
