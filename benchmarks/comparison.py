"""Compares a run's figures with those of earlier runs; less is better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

SMALLEST_CHANGE = 0.05  # of the kept figure: a few runs may agree by chance, so their spread alone says too little


@dataclass(frozen=True)
class Row:
    """A measure's figure, and those of the kept runs; there may be none."""

    measure: str
    now: float
    kept: Sequence[float]

    @property
    def change(self) -> float:
        """The share by which the figure is above the kept runs' median; negative if it is below."""
        return self.now / median(self.kept) - 1

    @property
    def outcome(self) -> str:
        """WORSE or better if the change is larger than the spread of the kept runs and than 5%; otherwise empty."""
        if not self.kept:
            return ""
        spread = (max(self.kept) - min(self.kept)) / median(self.kept)
        if abs(self.change) <= max(spread, SMALLEST_CHANGE):
            return ""
        return "WORSE" if self.change > 0 else "better"


def compare(now: Mapping[str, float], kept: Mapping[str, Sequence[float]]) -> list[Row]:
    """A row for each measure of `now`; `kept` has each measure's figures, one per run."""
    return [Row(measure, figure, kept.get(measure, ())) for measure, figure in now.items()]


def table(rows: Sequence[Row]) -> str:
    """The rows as a text for terminals."""
    lines = [f"{'measure':<38}{'now':>9}{'kept':>9}  {'lowest to highest':<20}{'change':>7}"]
    for row in rows:
        line = f"{row.measure:<38}{row.now:>9.3g}"
        if row.kept:
            spread = f"{min(row.kept):.3g} to {max(row.kept):.3g}"
            line += f"{median(row.kept):>9.3g}  {spread:<20}{100 * row.change:>+6.0f}%  {row.outcome}"
        else:
            line += f"{'none':>9}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def verdict(rows: Sequence[Row]) -> str:
    """What the comparison shows, in a sentence or two."""
    worse, better = ([row.measure for row in rows if row.outcome == outcome] for outcome in ("WORSE", "better"))
    said = [f"Worse than the kept figures by more than their spread: {'; '.join(worse)}."] if worse else []
    said += [f"Better by more than the spread: {'; '.join(better)}."] if better else []
    return " ".join(said) or "No figure differs from the kept ones by more than their spread."
