"""What the page shows of a project's versions: their metrics, and a comparison of two."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from label_studio_format.labeling_history import LabelingHistory
from my_backend import files
from my_backend.jobs.record import read_epochs
from my_backend.projects.version_metrics import ClassFigures, Figures, read_figures, read_history, read_labels
from my_backend.projects.versions import Version, Versions
from my_backend.web.pages.curves import Curves, Points, curves_of, shown_number

SHADES = 9
MOST_CONFUSED = 25  # classes in the confusion matrix; with 300, it would have 90,000 cells
REMEMBERED = 2000  # versions; they never change
MISTAKES_FILE_BYTES = 5_000_000
# Labels that are less likely to be right are called likely mistakes. docs/project/learning.md has the measurement.
UNLIKELY = 0.01

_RECORDS = TypeAdapter(list[Any])


@dataclass(frozen=True)
class VersionView:
    """A version; `short` is its short name, such as `v7`."""

    name: str
    short: str
    created: float  # seconds since 1970
    cause: str
    figures: Figures
    labels: dict[str, int]
    sources: dict[str, int]  # number of labels by who has looked at the image: person, group or unseen
    held_back: str
    warning: str
    grew_from: str
    mistakes_file: str
    summary: str  # what it learned from, as text
    is_first_guess: bool
    is_untrained: bool  # the model class predicts without training
    history: LabelingHistory
    curves: Curves

    @property
    def total(self) -> int:
        return sum(self.labels.values())


@dataclass(frozen=True)
class Mistake:
    """An image for which model and annotator disagree."""

    task: str
    digest: str
    label: tuple[str, ...]
    predicted: tuple[str, ...]
    confidence: float
    learned: bool
    label_probability: float | None  # that the label is right; None if the version doesn't say so

    @property
    def is_likely(self) -> bool:
        """Whether the label, rather than the prediction, is likely wrong."""
        return self.label_probability is not None and self.label_probability < UNLIKELY


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix: the number of images, and a shade (0 to 9) for their share of the row."""

    count: int
    shade: int
    right: bool
    predicted: str


@dataclass(frozen=True)
class Difference:
    """F1 of one class in two versions; None if a version doesn't know the class or saw no image of it."""

    name: str
    before: float | None
    after: float | None

    @property
    def change(self) -> float:
        """How much the metric changed; 0 if a value is missing."""
        return 0.0 if self.before is None or self.after is None else abs(self.after - self.before)


def version_view(version: Version) -> VersionView:
    output = version.train_output
    return VersionView(
        name=version.name,
        short=short_name(version.name),
        created=version.created,
        cause=version.cause,
        figures=read_figures(output.get("figures")),
        labels=read_labels(output.get("labels")),
        sources=read_labels(output.get("sources")),
        held_back=version.held_back,
        warning=str(output.get("warning") or ""),
        grew_from=version.grew_from,
        mistakes_file=str(output.get("mistakes") or ""),
        summary=str(output.get("summary") or ""),
        is_first_guess=version.is_first_guess,
        is_untrained=not output,
        history=read_history(version.labeling_history),
        curves=curves_of(read_epochs(version.epochs)),
    )


def short_name(name: str) -> str:
    """`v7` of `v7-20261120T132501`."""
    return name.partition("-")[0]


@lru_cache(maxsize=REMEMBERED)
def read_version(project_folder: Path, name: str) -> VersionView:
    """A version's view; raises NotFound."""
    return version_view(Versions(project_folder).get(name))


def compared_curves(shown: VersionView, other: VersionView | None) -> dict[str, dict[str, Points]]:
    """The curves of a version by `loss` and `accuracy`, with those of another one if both are of the same phase."""
    versions = [shown, other] if other and other.curves.phase == shown.curves.phase else [shown]
    return {
        name: {one.short: one.curves.points[name] for one in versions if name in one.curves.points}
        for name in shown.curves.points
    }


def mistakes(view: VersionView) -> list[Mistake]:
    """The images for which it predicts another label, least likely labels first; none if it doesn't record them."""
    path = Path(view.mistakes_file) if view.mistakes_file else None
    if path is None or not path.is_file() or path.stat().st_size > MISTAKES_FILE_BYTES:
        return []
    records = files.read_record(path, _RECORDS) or []
    return [found for record in records if (found := _mistake(record))]


def _mistake(record: Any) -> Mistake | None:
    try:
        digest = str(record["digest"])
        return Mistake(
            task=str(record["name"]),
            digest=digest if re.fullmatch("[0-9a-f]{64}", digest) else "",
            label=tuple(map(str, record["label"])),
            predicted=tuple(map(str, record["predicted"])),
            confidence=float(record["confidence"]),
            learned=bool(record["learned"]),
            label_probability=shown_number(record.get("label_probability")),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def confusion_rows(figures: Figures) -> list[tuple[str, list[Cell]]]:
    """A row for each true class; none if the model has no square matrix of its classes.

    Of many classes, only those that are confused most often have a row and a column.
    """
    names, matrix = _matrix(figures)
    chosen = _most_confused(matrix)
    return [
        (
            names[row],
            [
                Cell(matrix[row][column], _shade(matrix[row][column], sum(matrix[row])), column == row, names[column])
                for column in chosen
            ],
        )
        for row in chosen
    ]


def _matrix(figures: Figures) -> tuple[list[str], list[list[int]]]:
    """The classes and the confusion matrix; empty if it isn't a square matrix of its classes."""
    names, matrix = list(figures.per_class or {}), figures.confusion or []
    is_square = len(matrix) == len(names) and all(len(row) == len(names) for row in matrix)
    return (names, matrix) if is_square else ([], [])


def _most_confused(matrix: Sequence[Sequence[int]]) -> list[int]:
    """The numbers of the classes to show, in order: all; if there are many, those in the most frequent confusions."""
    if len(matrix) <= MOST_CONFUSED:
        return list(range(len(matrix)))
    found = [(-count, row, column) for row, counts in enumerate(matrix) for column, count in enumerate(counts) if count]
    confusions = sorted(one for one in found if one[1] != one[2])
    ranked = [*(number for _, *pair in confusions for number in pair), *range(len(matrix))]
    return sorted(list(dict.fromkeys(ranked))[:MOST_CONFUSED])


def confused(figures: Figures, label: str, predicted: str) -> int | None:
    """How many images with this label the matrix counts under this prediction; None if it has no such cell."""
    names, matrix = _matrix(figures)
    return matrix[names.index(label)][names.index(predicted)] if {label, predicted} <= set(names) else None


def _shade(count: int, total: int) -> int:
    return 0 if count <= 0 else max(1, min(SHADES, round(SHADES * count / max(total, 1))))


def differences(before: VersionView, after: VersionView) -> list[Difference]:
    """The metrics of both versions for each class, in the order of `after`; of many, the largest changes first."""
    old, new = before.figures.per_class or {}, after.figures.per_class or {}
    found = [Difference(name, _f1(old.get(name)), _f1(new.get(name))) for name in dict.fromkeys([*new, *old])]
    return found if len(found) <= MOST_CONFUSED else sorted(found, key=lambda one: -one.change)


def _f1(figures: ClassFigures | None) -> float | None:
    return figures.f1 if figures and figures.images else None
