"""Measures how many labels it takes if images are labeled in the order that Label Studio gets from the backend.

    python -m benchmarks.learning.order --pictures FOLDER --weights FILE [--splits 5] [--tasks themes,digits]

docs/project/learning.md has the results.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.learning.embedded import FIRST_SPLIT, Data, accuracy_on, embedded_tasks, interval, options
from benchmarks.learning.labeler import BACKENDS_ORDER, ORDERS, RANDOM_ORDER, label, learn

TUNED = ("stamps", "fine")  # the order's settings were chosen on other splits of these tasks
SIZES = (10, 20, 30, 60, 100, 150, 200, 300)
MOST = 400  # labels
GOAL = 0.9  # of the accuracy with all labels


@dataclass(frozen=True)
class Run:
    """One task, split and order: for each number of labels, the accuracy on the test set and the classes found."""

    task: str
    split: int
    order: str
    accuracy: dict[int, float]
    classes: dict[int, int]
    final: float  # the accuracy with all labels

    @property
    def goal(self) -> float:
        """The number of labels with which the accuracy is first GOAL of the final one; MOST if it never is."""
        return next((labels for labels, share in self.accuracy.items() if share >= GOAL * self.final), MOST)


def main() -> None:
    parser = options("benchmarks.learning.order", __doc__)
    parser.add_argument("--splits", type=int, default=5, help="number of splits")
    parser.add_argument("--tasks", default="themes,digits,fine,stamps,rare", help="names of tasks, comma-separated")
    parser.add_argument("--json", type=Path, default=Path("order.json"), help="file for all results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for data in embedded_tasks(arguments):
        if data.name in arguments.tasks.split(","):
            for split in range(FIRST_SPLIT, FIRST_SPLIT + arguments.splits):
                runs += [measure(data, split, name) for name in ORDERS]
                print(data.name, split, *(f"{run.order}: {run.goal}" for run in runs[-len(ORDERS) :]), flush=True)
    arguments.json.write_text(json.dumps([asdict(run) for run in runs], indent=0) + "\n", encoding="utf-8")
    print("\n".join(tables(runs)))


def measure(data: Data, split: int, name: str) -> Run:
    """Labels images in this order, as one person does with the backend."""
    tested, pool = data.split(split)
    accuracy, classes = {}, {}
    for labeled, model in label(data, split, name, MOST):
        accuracy[len(labeled)] = accuracy_on(data, tested, model)
        classes[len(labeled)] = len(model.classes)
    return Run(data.name, split, name, accuracy, classes, accuracy_on(data, tested, learn(data, pool.tolist())))


# --- tables -----------------------------------------------------------------


def tables(runs: Sequence[Run]) -> Iterator[str]:
    """Markdown tables: labels to the goal, accuracy and classes by the number of labels, gains over a random order."""
    by: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        by[run.task, run.order].append(run)
    tasks = list(dict.fromkeys(run.task for run in runs))
    yield f"| labels to {GOAL:.0%} of the final accuracy | {' | '.join(ORDERS)} |\n|---|{'---|' * len(ORDERS)}"
    for task in tasks:
        yield f"| {_name(task)} | {' | '.join(interval([run.goal for run in by[task, o]], 0) for o in ORDERS)} |"
    yield f"\n| first ten labels: classes found, accuracy | {' | '.join(ORDERS)} |\n|---|{'---|' * len(ORDERS)}"
    for task in tasks:
        cells = [
            f"{np.mean([run.classes[10] for run in by[task, o]]):.1f}, "
            + interval([run.accuracy[10] for run in by[task, o]])
            for o in ORDERS
        ]
        yield f"| {_name(task)} | {' | '.join(cells)} |"
    yield f"\n| accuracy | {' | '.join(f'{n} labels' for n in SIZES)} |\n|---|{'---|' * len(SIZES)}"
    for task in tasks:
        for order in ORDERS:
            means = [interval([r.accuracy[n] for r in by[task, order] if n in r.accuracy]) for n in SIZES]
            yield f"| {_name(task)}, {order} | {' | '.join(means)} |"
    yield f"\n| backend's − random, paired | {' | '.join(f'{n} labels' for n in SIZES)} |\n|---|{'---|' * len(SIZES)}"
    for task in tasks:
        pairs = list(zip(by[task, BACKENDS_ORDER], by[task, RANDOM_ORDER], strict=True))
        gains = [interval([a.accuracy[n] - b.accuracy[n] for a, b in pairs if n in a.accuracy]) for n in SIZES]
        yield f"| {_name(task)} | {' | '.join(gains)} |"


def _name(task: str) -> str:
    return f"{task} *" if task in TUNED else task


if __name__ == "__main__":
    main()
