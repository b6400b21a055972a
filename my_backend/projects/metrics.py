"""What a version's record says of its quality; lenient, since another model class may say anything."""

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
    """Precision, recall and F1 (0 to 1) of one class, and its images."""

    precision: float
    recall: float
    f1: float
    images: int


class Bin(BaseModel):
    """Answers of about the same probability, and the share of them that is right."""

    answers: int
    confidence: float
    right: float


class Figures(BaseModel):
    """Each is None where the model does not tell, or tells something else."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    accuracy: Annotated[float | None, Lenient] = None
    images: Annotated[int | None, Lenient] = None
    macro_f1: Annotated[float | None, Lenient] = None
    calibration_error: Annotated[float | None, Lenient] = None
    judged_by: Annotated[str | None, Lenient] = None
    per_class: Annotated[dict[str, ClassFigures] | None, Lenient] = None
    confusion: Annotated[list[list[int]] | None, Lenient] = None
    calibration: Annotated[list[Bin] | None, Lenient] = None


def read_figures(value: Any) -> Figures:
    """Of what a version's `train_output` has under `figures`."""
    return Figures.model_validate(value if isinstance(value, dict) else {})


def read_labels(value: Any) -> dict[str, int]:
    """How many labels of each class a version has learned."""
    if not isinstance(value, dict):
        return {}
    return {str(name): count for name, count in value.items() if isinstance(count, int)}
