"""The loss and accuracy curves of a training run, read leniently because the model class may report anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from my_backend.jobs.record import Epoch

MOST_ROWS = 200  # of a table of values
LARGEST = 1e15  # of the numbers that are shown; larger values can't be printed, or aren't numbers

Points = list[tuple[int, float]]  # epochs and values


@dataclass(frozen=True)
class Curves:
    """The curves of a training run's newest phase that had epochs, by `loss` and `accuracy` (0 to 1)."""

    phase: str = ""
    points: dict[str, Points] = field(default_factory=dict)


def curves_of(epochs: Sequence[Epoch]) -> Curves:
    """The curves of the epochs, without values of a wrong type."""
    if not epochs:
        return Curves()
    phase = epochs[-1].phase
    points = {name: _points([one for one in epochs if one.phase == phase], name) for name in ("loss", "accuracy")}
    return Curves(str(phase or ""), {name: found for name, found in points.items() if found})


@dataclass(frozen=True)
class Table:
    """The values of curves: a column for each by its measure (`loss` or `accuracy`) and name, a row for each epoch."""

    columns: list[tuple[str, str]]
    rows: list[tuple[int, list[float | None]]]


def table_of(curves: Mapping[str, Mapping[str, Points]]) -> Table:
    """The values of curves by measure and name; if there are many epochs, only for some of them."""
    known = {(measure, name): dict(points) for measure, named in curves.items() for name, points in named.items()}
    epochs = sorted({epoch for values in known.values() for epoch in values})
    rows = [(epoch, [values.get(epoch) for values in known.values()]) for epoch in spread(epochs, MOST_ROWS)]
    return Table(list(known), rows)


def spread(epochs: Sequence[int], most: int) -> list[int]:
    """At most `most` of the epochs, evenly spaced and including the last one."""
    every = -(-len(epochs) // most)
    return list(epochs[:: -every or -1][::-1])


def shown_number(value: Any) -> float | None:
    """The value as a number that can be shown, or None."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    return float(value) if known else None


def _points(epochs: Sequence[Epoch], name: str) -> Points:
    return [(one.epoch, value) for one in epochs if (value := shown_number(getattr(one, name))) is not None]
