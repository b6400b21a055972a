"""Measures how often the forecast's 90% interval contains the accuracy that more labels really bring.

    python -m benchmarks.learning.forecast --pictures FOLDER --weights FILE [--splits 10] [--tasks themes,digits]

For each task, split and number of labels: the forecast for 100 more, 200 more and twice as many labels, and the
accuracy on the untouched test set after as many labels, drawn at random, were added. docs/project/learning.md has the
results.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.learning.embedded import FORECAST_SPLIT, Data, accuracy_on, embedded_tasks, options
from benchmarks.learning.labeler import learn
from image_classifier.nets.classifier import Classifier

SIZES = (40, 60, 100, 200, 300, 500)


@dataclass(frozen=True)
class Run:
    """One forecast, and the accuracy on the test set that came true."""

    task: str
    split: int
    labels: int
    more: int
    expected: float
    low: float
    high: float
    true: float

    @property
    def holds(self) -> bool:
        return self.low <= self.true <= self.high


def main() -> None:
    parser = options("benchmarks.learning.forecast", __doc__)
    parser.add_argument("--splits", type=int, default=10, help="number of splits")
    parser.add_argument("--tasks", default="", help="names of tasks, comma-separated; all by default")
    parser.add_argument("--json", type=Path, default=Path("forecast.json"), help="file for all results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for data in embedded_tasks(arguments):
        if not arguments.tasks or data.name in arguments.tasks.split(","):
            for split in range(FORECAST_SPLIT, FORECAST_SPLIT + arguments.splits):
                runs += measure(data, split)
            arguments.json.write_text(json.dumps([asdict(run) for run in runs], indent=0) + "\n", encoding="utf-8")
            print(f"{data.name} is done", flush=True)
    print("\n".join(tables(runs)))


def measure(data: Data, split: int) -> list[Run]:
    """All forecasts of one split, and what came true."""
    tested, pool = data.split(split)

    @cache
    def learned(labels: int) -> Classifier:
        return learn(data, pool[:labels].tolist())

    @cache
    def true(labels: int) -> float:
        return accuracy_on(data, tested, learned(labels))

    return [
        Run(data.name, split, labels, one["more"], one["accuracy"], one["low"], one["high"], true(labels + one["more"]))
        for labels in SIZES
        if labels <= len(pool)
        for one in learned(labels).record["figures"]["forecast"]["expected"]
        if labels + one["more"] <= len(pool)
    ]


# --- tables -----------------------------------------------------------------


def tables(runs: Sequence[Run]) -> Iterator[str]:
    """Markdown tables by task and by the number of labels; a cell has coverage, mean error and half the width."""
    groups: dict[str, dict[str, list[Run]]] = {"task": defaultdict(list), "labels": defaultdict(list)}
    for run in runs:
        groups["task"][run.task].append(run)
        groups["labels"][f"{run.labels}"].append(run)
    groups["labels"]["all"] = list(runs)
    for name, rows in groups.items():
        yield f"\n| {name} | 100 more labels | 200 more labels | twice as many |\n|---|---|---|---|"
        for key, some in rows.items():
            further = [[r for r in some if r.more == 100], [r for r in some if r.more == 200]]
            yield f"| {key} | {' | '.join(map(_cell, [*further, [r for r in some if r.more == r.labels]]))} |"


def _cell(runs: Sequence[Run]) -> str:
    if not runs:
        return "–"
    error = np.mean([run.expected - run.true for run in runs])
    half = np.mean([run.high - run.low for run in runs]) / 2
    return f"{np.mean([run.holds for run in runs]):.0%} of {len(runs)}, {error:+.3f}, ± {half:.3f}"


if __name__ == "__main__":
    main()
