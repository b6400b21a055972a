"""Measures how many labels it takes if images are labeled in the order that Label Studio gets from the backend.

    python -m benchmarks.learning.order --pictures FOLDER --weights FILE [--splits 5] [--tasks themes,digits]

The labels come one by one, as in the product: ten new ones start a training, and the new version's order takes effect
after three more. The first images come in the order that needs no labels. docs/project/learning.md has the results.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.learning.embedded import FIRST_SPLIT, Data, embedded_tasks, interval, options
from image_classifier.data.dataset import classes_of
from image_classifier.evaluation.predict import choose
from image_classifier.nets.classifier import Classifier
from image_classifier.pool.order import labeling_order
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.pipeline import Embedded, TooFewLabels, check_enough, learn_head

TUNED = ("stamps", "fine")  # the order's settings were chosen on other splits of these tasks
SIZES = (10, 20, 30, 60, 100, 150, 200, 300)
MOST = 400  # labels
TRAINED_AFTER = 10  # new labels, the product's default
LATE = 3  # labels given until a new version's order is stored in Label Studio
GOAL = 0.9  # of the accuracy with all labels

# (embeddings of unlabeled images, of labeled ones, the model) → rows of the unlabeled ones in order
Order = Callable[[Tensor, Tensor, Classifier | None, np.random.Generator], Tensor]


def chance(images: Tensor, labeled: Tensor, model: Classifier | None, random: np.random.Generator) -> Tensor:
    return torch.from_numpy(random.permutation(len(images)))


def least_sure(images: Tensor, labeled: Tensor, model: Classifier | None, random: np.random.Generator) -> Tensor:
    """By SCORE=probability; at random while there is no model."""
    if model is None:
        return chance(images, labeled, model, random)
    answer = choose(model, str, multiple=False, embeddings=images)
    return torch.tensor([score for _, score in answer.chosen("probability")]).argsort(stable=True)


def product(images: Tensor, labeled: Tensor, model: Classifier | None, random: np.random.Generator) -> Tensor:
    """By SCORE=order."""
    doubt = choose(model, str, multiple=False, embeddings=images).doubt() if model else None
    return labeling_order(images, labeled, doubt)


ORDERS: dict[str, Order] = {"chance": chance, "least sure": least_sure, "order": product}


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
    told = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for data in embedded_tasks(told):
        if data.name in told.tasks.split(","):
            for split in range(FIRST_SPLIT, FIRST_SPLIT + told.splits):
                runs += [measure(data, split, name) for name in ORDERS]
                print(data.name, split, *(f"{run.order}: {run.goal}" for run in runs[-len(ORDERS) :]), flush=True)
    told.json.write_text(json.dumps([asdict(run) for run in runs], indent=0) + "\n", encoding="utf-8")
    print("\n".join(tables(runs)))


def measure(data: Data, split: int, name: str) -> Run:
    """Labels images in this order, as one person does with the product."""
    tested, pool = data.split(split)
    random, order = np.random.default_rng(split), ORDERS[name]
    accuracy, classes = {}, {}
    model: Classifier | None = None
    labeled: list[int] = []
    queue: list[int] = []
    coming = _ordered(data, order, pool, labeled, None, random)
    while len(labeled) < min(MOST, len(pool)):
        if not labeled or len(labeled) % TRAINED_AFTER == LATE:
            queue = coming
        known = set(labeled)
        labeled.append(next(row for row in queue if row not in known))
        if len(labeled) % TRAINED_AFTER == 0:
            model = _train(data, labeled)
            accuracy[len(labeled)] = _accuracy(data, tested, model)
            classes[len(labeled)] = len(model.classes)
            served = model if _is_enough(data, labeled) else None
            coming = _ordered(data, order, pool, labeled, served, random)
    return Run(data.name, split, name, accuracy, classes, _accuracy(data, tested, _train(data, pool.tolist())))


def _ordered(
    data: Data,
    order: Order,
    pool: np.ndarray,
    labeled: list[int],
    model: Classifier | None,
    random: np.random.Generator,
) -> list[int]:
    left = np.setdiff1d(pool, labeled)
    rows = order(data.embeddings[left], data.embeddings[labeled], model, random)
    return [int(row) for row in left[rows.numpy()]]


def _is_enough(data: Data, labeled: Sequence[int]) -> bool:
    """Whether the product makes a version of these labels."""
    try:
        check_enough([data.samples[row] for row in labeled])
    except TooFewLabels:
        return False
    return True


def _train(data: Data, labeled: Sequence[int]) -> Classifier:
    samples = [data.samples[row] for row in labeled]
    classes = tuple(sorted(frozenset().union(*(classes_of(sample.label) for sample in samples))))
    embedded = Embedded(samples, data.embeddings[list(labeled)], {})
    return learn_head(data.backbone, embedded, classes, Hyperparameters(), lambda record: None)


def _accuracy(data: Data, tested: np.ndarray, model: Classifier) -> float:
    answers = model.head(data.embeddings[tested]).argmax(1).tolist()
    return float(np.mean([model.classes[n] == data.samples[row].label for n, row in zip(answers, tested, strict=True)]))


# --- tables -----------------------------------------------------------------


def tables(runs: Sequence[Run]) -> Iterator[str]:
    """Markdown tables: labels to the goal, accuracy and classes by the number of labels, paired gains over chance."""
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
    yield f"\n| order − chance, paired | {' | '.join(f'{n} labels' for n in SIZES)} |\n|---|{'---|' * len(SIZES)}"
    for task in tasks:
        pairs = list(zip(by[task, "order"], by[task, "chance"], strict=True))
        gains = [interval([a.accuracy[n] - b.accuracy[n] for a, b in pairs if n in a.accuracy]) for n in SIZES]
        yield f"| {_name(task)} | {' | '.join(gains)} |"


def _name(task: str) -> str:
    return f"{task} *" if task in TUNED else task


if __name__ == "__main__":
    main()
