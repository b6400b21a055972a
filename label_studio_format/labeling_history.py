"""How a project's images were labeled, day by day, and how many predictions people accepted unchanged."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median
from typing import Any, Literal

from label_studio_format.annotations import (
    ACCEPTED_MARK,
    GROUP_MARK,
    SINGLE_MARK,
    annotations_of,
    notes_of,
    source_of,
)
from label_studio_format.labeling_config import ImageChoices, Json

Way = Literal["unchanged", "changed", "scratch", "pages", "unseen"]

FEWEST_TIMES = 5  # a median of fewer says little
LONGEST_SECONDS = 600.0  # longer times mean that the image was left open
KEPT_DAYS = 90


@dataclass(frozen=True)
class LabelingDay:
    """Numbers of annotations created on a day of UTC, such as 2026-11-27.

    In Label Studio's editor, one by one: `unchanged` accepted the prediction, `changed` corrected it, and `scratch`
    had none. `pages` were made on this backend's pages, and `unseen` are predictions that became annotations without
    anyone opening the image.
    """

    day: str
    unchanged: int = 0
    changed: int = 0
    scratch: int = 0
    pages: int = 0
    unseen: int = 0

    @property
    def predicted(self) -> int:
        """How many images were opened with a prediction."""
        return self.unchanged + self.changed

    @property
    def total(self) -> int:
        return self.predicted + self.scratch + self.pages + self.unseen


@dataclass(frozen=True)
class LabelingHistory:
    """The last days with annotations, the oldest first, and the median seconds for an image in Label Studio's editor.

    A median is None if there are too few times.
    """

    days: list[LabelingDay] = field(default_factory=list)
    seconds_with_prediction: float | None = None
    seconds_from_scratch: float | None = None

    @property
    def unchanged(self) -> int:
        return sum(day.unchanged for day in self.days)

    @property
    def predicted(self) -> int:
        return sum(day.predicted for day in self.days)

    @property
    def not_opened(self) -> int:
        """How many images got a label without being opened in Label Studio."""
        return sum(day.pages + day.unseen for day in self.days)

    @property
    def saved_by_prediction(self) -> float | None:
        """How many seconds longer an image with a prediction would have taken without it; None if that isn't known."""
        if self.seconds_with_prediction is None or self.seconds_from_scratch is None:
            return None
        return max(0.0, self.seconds_from_scratch - self.seconds_with_prediction)

    @property
    def saved_seconds(self) -> float | None:
        """How much longer all images with a prediction would have taken without one; None if that isn't known."""
        saved = self.saved_by_prediction
        return None if saved is None else saved * self.predicted


@dataclass(frozen=True)
class Made:
    """How annotations were made: how many in each way by day, and the seconds for images with a prediction or none."""

    days: dict[str, dict[Way, int]] = field(default_factory=dict)
    with_prediction: list[float] = field(default_factory=list)
    from_scratch: list[float] = field(default_factory=list)


class HistoryOfTasks:
    """Collects the labeling history while tasks are read for something else; a pass over a large project takes long."""

    def __init__(self, tag: ImageChoices | None) -> None:
        self._tag = tag
        self._counts: dict[str, dict[Way, int]] = defaultdict(lambda: defaultdict(int))
        self._seconds: dict[bool, list[float]] = {True: [], False: []}  # by whether there was a prediction

    def made_in(self, tasks: Iterable[Json]) -> Made:
        """Adds tasks; returns how the annotations of all tasks so far were made."""
        for task in tasks:
            if self._tag:
                for annotation in annotations_of(task):
                    self._add(annotation, self._tag)
        days: dict[str, dict[Way, int]] = {day: dict(counts) for day, counts in self._counts.items()}
        return Made(days, self._seconds[True], self._seconds[False])

    def include(self, made: Made) -> None:
        """Adds annotations that were read before."""
        for day, counts in made.days.items():
            for way, count in counts.items():
                self._counts[day][way] += count
        self._seconds[True] += made.with_prediction
        self._seconds[False] += made.from_scratch

    def _add(self, annotation: Json, tag: ImageChoices) -> None:
        day, way = _day(annotation.get("created_at")), _way(annotation, tag)
        if day is None or way is None:
            return
        self._counts[day][way] += 1
        seconds = annotation.get("lead_time")
        # NaN, which JSON may contain as well, isn't at least 0.
        if way in ("unchanged", "changed", "scratch") and isinstance(seconds, int | float) and seconds >= 0:
            self._seconds[way != "scratch"].append(float(min(seconds, LONGEST_SECONDS)))

    def history(self) -> LabelingHistory:
        days = sorted(self._counts)[-KEPT_DAYS:]
        return LabelingHistory(
            [LabelingDay(day, **self._counts[day]) for day in days],
            _median(self._seconds[True]),
            _median(self._seconds[False]),
        )


def _way(annotation: Json, tag: ImageChoices) -> Way | None:
    """How the annotation was made; None if it was skipped or imported."""
    if annotation.get("was_cancelled"):
        return None
    notes = notes_of(annotation)
    if any(note.startswith((GROUP_MARK, SINGLE_MARK)) for note in notes):
        return "pages"
    # Also if somebody has opened and saved it since: checking a label takes less time than choosing one.
    if source_of(annotation) == "unseen" or any(note.startswith(ACCEPTED_MARK) for note in notes):
        return "unseen"
    if annotation.get("lead_time") is None:
        return None
    # Label Studio notes in each region whether it comes from a prediction, and whether it was changed since. A region
    # that was deleted and made again counts as changed.
    origins = [region.get("origin") for region in _regions(annotation, tag)]
    has_origin = "prediction" in origins or "prediction-changed" in origins
    if annotation.get("parent_prediction") is None and not has_origin:
        return "scratch"
    return "unchanged" if origins and all(origin == "prediction" for origin in origins) else "changed"


def _regions(annotation: Json, tag: ImageChoices) -> list[Json]:
    result = annotation.get("result")
    regions = result if isinstance(result, list) else []
    return [one for one in regions if isinstance(one, dict) and one.get("from_name") == tag.from_name]


def _day(created: Any) -> str | None:
    try:
        time = datetime.fromisoformat(created)
        return (time.astimezone(UTC) if time.tzinfo else time).date().isoformat()
    except (TypeError, ValueError, OverflowError):  # in UTC, it may be in the year 10000
        return None


def _median(seconds: list[float]) -> float | None:
    return round(median(seconds), 2) if len(seconds) >= FEWEST_TIMES else None
