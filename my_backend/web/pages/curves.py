"""The loss and accuracy curves of a training, read leniently because the model class may report anything."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from my_backend.jobs.record import Epoch

LARGEST = 1e15  # of the numbers that are shown; more cannot be printed, or is no number

Points = list[tuple[int, float]]  # epochs and values


@dataclass(frozen=True)
class Curves:
    """The curves of a training's newest phase that had epochs, by `loss` and `accuracy` (0 to 1)."""

    phase: str = ""
    points: dict[str, Points] = field(default_factory=dict)


def curves_of(epochs: Sequence[Epoch]) -> Curves:
    """The curves of the epochs, without values of a wrong type."""
    if not epochs:
        return Curves()
    phase = epochs[-1].phase
    points = {name: _points([one for one in epochs if one.phase == phase], name) for name in ("loss", "accuracy")}
    return Curves(str(phase or ""), {name: found for name, found in points.items() if found})


def shown_number(value: Any) -> float | None:
    """The value as a number that can be shown, or None."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    return float(value) if known else None


def _points(epochs: Sequence[Epoch], name: str) -> Points:
    return [(one.epoch, value) for one in epochs if (value := shown_number(getattr(one, name))) is not None]
