"""A version's metrics, read leniently because another model class may store anything."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, WrapValidator


def _or_none(value: Any, read: Callable[[Any], Any]) -> Any:
    try:
        return read(value)
    except ValueError:
        return None


Lenient = WrapValidator(_or_none)


class ClassFigures(BaseModel):
    """Precision, recall and F1 (0 to 1) of one class, and its number of images."""

    precision: float
    recall: float
    f1: float
    images: int


class Bin(BaseModel):
    """Answers of about the same confidence, and the share of them that is correct."""

    answers: int
    confidence: float
    right: float


class Figures(BaseModel):
    """Metrics; each is None if the model doesn't provide it in this form."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    accuracy: Annotated[float | None, Lenient] = None
    accuracy_low: Annotated[float | None, Lenient] = None  # the 95% interval of the accuracy
    accuracy_high: Annotated[float | None, Lenient] = None
    images: Annotated[int | None, Lenient] = None
    macro_f1: Annotated[float | None, Lenient] = None
    calibration_error: Annotated[float | None, Lenient] = None
    judged_by: Annotated[str | None, Lenient] = None
    per_class: Annotated[dict[str, ClassFigures] | None, Lenient] = None
    confusion: Annotated[list[list[int]] | None, Lenient] = None
    calibration: Annotated[list[Bin] | None, Lenient] = None


def read_figures(value: Any) -> Figures:
    """Reads what a version's `train_output` contains under `figures`."""
    return Figures.model_validate(value if isinstance(value, dict) else {})


def read_labels(value: Any) -> dict[str, int]:
    """Returns the number of labels of each class that a version was trained on."""
    if not isinstance(value, dict):
        return {}
    return {str(name): count for name, count in value.items() if isinstance(count, int)}
