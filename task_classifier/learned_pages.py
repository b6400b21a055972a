"""Which pages of a project's tasks a version has learned, and which of its samples came from each."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from label_studio_format.training_report import Tally
from my_backend import files


@dataclass(frozen=True)
class LearnedPage:
    """A page of `PackedTasks`, by the digest of its content.

    All its labels were learned: they are the version's samples from `first` on. `tally` counts its tasks.
    """

    page: str
    first: int
    count: int
    tally: Tally


@dataclass(frozen=True)
class _Record:
    """The file of a version: what its pages were read with, its number of samples, and its pages."""

    read_with: str
    samples: int
    pages: list[LearnedPage] = field(default_factory=list)


_RECORD = TypeAdapter(_Record)


def write_learned_pages(path: Path, read_with: str, samples: int, pages: Sequence[LearnedPage]) -> None:
    """Keeps the pages next to the list of samples; `read_with` is everything else that their labels depend on."""
    files.write_json(path, asdict(_Record(read_with, samples, list(pages))), sync="none")


def read_learned_pages(path: Path, read_with: str, samples: int) -> dict[str, LearnedPage]:
    """The pages by digest; none if they were read with something else, or the file is missing or damaged."""
    record = files.read_record(path, _RECORD)
    if record is None or (record.read_with, record.samples) != (read_with, samples):
        return {}
    return {page.page: page for page in record.pages}


def find_learned_pages(
    names: Sequence[str], page_of: Mapping[str, int], pages: Sequence[tuple[str, int, Tally]]
) -> list[LearnedPage]:
    """The pages of which all labels are among the samples with these names, one after another.

    `page_of` gives a sample's page, by its name, and `pages` each page's digest, number of labels and tally.
    """
    rows: dict[int, list[int]] = {}
    for row, name in enumerate(names):
        if (page := page_of.get(name)) is not None:
            rows.setdefault(page, []).append(row)
    found = [(digest, count, tally, rows.get(number, [])) for number, (digest, count, tally) in enumerate(pages)]
    return [
        LearnedPage(digest, some[0] if some else 0, count, tally)
        for digest, count, tally, some in found
        if len(some) == count and _are_consecutive(some)
    ]


def _are_consecutive(rows: Sequence[int]) -> bool:
    return not rows or rows[-1] - rows[0] == len(rows) - 1


def joined(kept: Collection[LearnedPage], following: Sequence[LearnedPage]) -> list[LearnedPage]:
    """The pages of a list of samples that starts with those of the `kept` pages, in their order."""
    moved, first = [], 0
    for page in kept:
        moved.append(replace(page, first=first))
        first += page.count
    return [*moved, *(replace(page, first=first + page.first) for page in following)]
