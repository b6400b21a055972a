"""A version's metrics, read leniently because another model class may store anything."""

from collections.abc import Callable, Sequence
from math import inf
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, WrapValidator

from label_studio_format.labeling_history import LabelingHistory

SMALL_GAIN = 0.005  # of accuracy

_HISTORY = TypeAdapter(LabelingHistory)


def _or_none(value: Any, read: Callable[[Any], Any]) -> Any:
    try:
        return read(value)
    except ValueError:
        return None


Lenient = WrapValidator(_or_none)


class _Numbers(BaseModel):
    """Numbers that can be compared and shown, so no NaN."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class ClassFigures(_Numbers):
    """Precision, recall and F1 (0 to 1) of one class, and its number of images."""

    precision: float
    recall: float
    f1: float
    images: int


class Bin(_Numbers):
    """Predictions of about the same confidence, and the share of them that is correct."""

    answers: int
    confidence: float
    right: float


class OnSome(_Numbers):
    """The accuracy on some of the images, with its 95% interval."""

    images: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float


class Point(_Numbers):
    """The accuracy measured with a number of labels."""

    labels: int
    accuracy: float


class Expected(_Numbers):
    """The accuracy that is expected with `more` labels, and its 90% interval."""

    more: int
    accuracy: float
    low: float
    high: float


class Forecast(_Numbers):
    """The learning curve so far and its continuation; `now` is the accuracy expected of the version itself."""

    labels: int  # that the version has learned
    curve: list[Point]
    now: float
    expected: list[Expected]
    random_sample: bool = False  # whether it comes from images drawn at random, or from all labeled ones

    @property
    def saturated(self) -> Expected | None:
        """The largest number of further labels that bring less than half a percentage point, if there is one."""
        small = [one for one in self.expected if one.accuracy - self.now < SMALL_GAIN]
        return max(small, key=lambda one: one.more, default=None)


class Figures(_Numbers):
    """Metrics; each is None if the model doesn't provide it in this form."""

    accuracy: Annotated[float | None, Lenient] = None
    accuracy_low: Annotated[float | None, Lenient] = None  # the 95% interval of the accuracy
    accuracy_high: Annotated[float | None, Lenient] = None
    images: Annotated[int | None, Lenient] = None
    groups: Annotated[int | None, Lenient] = None  # of near-duplicates among the images, each with one vote
    macro_f1: Annotated[float | None, Lenient] = None
    calibration_error: Annotated[float | None, Lenient] = None
    judged_by: Annotated[str | None, Lenient] = None
    per_class: Annotated[dict[str, ClassFigures] | None, Lenient] = None
    confusion: Annotated[list[list[int]] | None, Lenient] = None
    calibration: Annotated[list[Bin] | None, Lenient] = None
    ground_truth: Annotated[OnSome | None, Lenient] = None  # the user's test set
    all_labeled: Annotated[OnSome | None, Lenient] = None  # if the accuracy is that on a random sample
    forecast: Annotated[Forecast | None, Lenient] = None
    labels_since: Annotated[int | None, Lenient] = None  # that the version has learned after it was evaluated

    @property
    def measure(self) -> str:
        """How the metrics were measured: only those of the same measure can be compared; "" if unknown."""
        if self.judged_by is None:
            return ""
        # Older versions counted near-duplicates separately, which flatters.
        return self.judged_by if self.groups is not None else f"{self.judged_by} with near-duplicates"


def read_figures(value: Any) -> Figures:
    """Reads what a version's `train_output` contains under `figures`."""
    return Figures.model_validate(value if isinstance(value, dict) else {})


def like_the_newest(figures: Sequence[Figures]) -> list[bool]:
    """Which of the metrics, sorted by age, can be compared with the newest that have an accuracy.

    Those of versions that have learned labels since can't: they are an earlier version's.
    """
    measures = [None if one.accuracy is None or one.labels_since else one.measure for one in figures]
    newest = next((measure for measure in reversed(measures) if measure is not None), None)
    return [measure is not None and measure == newest for measure in measures]


def accuracy_words(figures: Figures) -> str:
    """The accuracy with its interval, `84.0% (79% to 88%)`; "" if the model doesn't report it.

    It also says if the version has learned labels since.
    """
    if figures.accuracy is None:
        return ""
    low, high = figures.accuracy_low, figures.accuracy_high
    interval = "" if low is None or high is None else f" ({low:.0%} to {high:.0%})"
    count = figures.labels_since
    last = "label was" if count == 1 else f"{count} labels were"
    since = f", measured before the last {last} added" if count else ""
    return f"{figures.accuracy:.1%}{interval}{since}"


def read_labels(value: Any) -> dict[str, int]:
    """The number of labels that a version was trained on, by class or by source."""
    if not isinstance(value, dict):
        return {}
    return {str(name): count for name, count in value.items() if isinstance(count, int)}


def read_history(value: Any) -> LabelingHistory:
    """How the labels were made that a version learned; an empty history if an older release published it."""
    try:
        history = _HISTORY.validate_python(value)
    except ValidationError:
        return LabelingHistory()
    days = [(day.unchanged, day.changed, day.scratch, day.pages, day.unseen) for day in history.days]
    seconds = [time for time in (history.seconds_with_prediction, history.seconds_from_scratch) if time is not None]
    is_sound = all(min(counts) >= 0 < sum(counts) for counts in days) and all(0 <= time < inf for time in seconds)
    return history if is_sound else LabelingHistory()
