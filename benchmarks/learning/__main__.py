"""Measures how well a few labels are learned, on real pictures with a real network, compared with other methods.

    python -m benchmarks.learning --pictures FOLDER --weights FILE [--splits 8] [--json learning.json]

docs/project/learning.md explains how to get the pictures and the weights, and has the results. The embeddings are
computed once and kept in a separate folder, by default `.benchmark` in the pictures' folder.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.learning.embedded import FIRST_SPLIT, Data, embedded_tasks, interval, options
from benchmarks.learning.heads import LEARNERS
from image_classifier.data.dataset import classes_of, targets_of
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.errors import TooFewLabels
from image_classifier.evaluation.metrics import evaluate
from image_classifier.training.classifier_head import learn_head
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.labels import check_enough

SIZES = (10, 30, 100, 300, 1000)
TUNED = ("themes", "stamps", "fine")  # the settings were chosen on other splits of these tasks
FORMER, LAST_LAYER, HEAD = list(LEARNERS)[:3]
NAMES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


@dataclass(frozen=True)
class Cell:
    """The result of one method on one split of a task, with a number of labels."""

    task: str
    split: int
    labels: int
    way: str
    accuracy: float
    macro_f1: float
    cpu_seconds: float
    shown_accuracy: float | None = None  # as reported by the backend, if it evaluates the version
    shown_macro_f1: float | None = None


def main() -> None:
    parser = options("benchmarks.learning", __doc__)
    parser.add_argument("--splits", type=int, default=8, help="number of splits")
    parser.add_argument("--json", type=Path, default=Path("learning.json"), help="file for all results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # CPU seconds are measured on one core
    cells = []
    for data in embedded_tasks(arguments):
        print(f"{data.name}: {len(data.samples)} images", flush=True)
        for split in range(FIRST_SPLIT, FIRST_SPLIT + arguments.splits):
            cells += list(measure(data, split))
    arguments.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=0) + "\n", encoding="utf-8")
    print("\n".join(tables(cells)))


def measure(data: Data, split: int) -> Iterator[Cell]:
    """Every method, with the first labels in a random order; the test set is the same for all sizes."""
    tested, pool = data.split(split)
    scales = data.backbone.scales(data.embeddings.shape[1])
    for labels in SIZES:
        learned = pool[:labels]
        if len(learned) < 0.9 * labels:
            continue
        samples = [data.samples[row] for row in learned]
        try:
            check_enough(samples)
        except TooFewLabels:
            continue
        classes = tuple(sorted(frozenset().union(*(classes_of(sample.label) for sample in samples))))
        targets = targets_of([sample.label for sample in samples], classes)
        # Images of classes without labels count as wrong.
        wanted = [data.samples[row].label for row in tested]
        known = [row for row, label in enumerate(wanted) if classes_of(label) <= set(classes)]
        embeddings = data.embeddings[tested][known]
        truth = targets_of([wanted[row] for row in known], classes)
        share = len(known) / len(tested)
        for way, learn in LEARNERS.items():
            began = time.process_time()
            answer = learn(data.embeddings[learned], targets, len(classes), scales)
            seconds = time.process_time() - began
            accuracy, f1 = _figures(answer(embeddings), truth, classes)
            shown = (None, None)
            if way == HEAD:
                shown = _shown(data, learned, classes)
            yield Cell(data.name, split, labels, way, accuracy * share, f1, seconds, *shown)


def _figures(answers: Tensor, truth: Tensor, classes: tuple[str, ...]) -> tuple[float, float]:
    multiple = truth.is_floating_point()
    logits = answers - 0.5 if multiple else torch.nn.functional.one_hot(answers, len(classes)).float()
    found = evaluate(logits, truth, classes, (0.5,) * len(classes) if multiple else ())
    return found.accuracy, found.macro_f1


def _shown(data: Data, learned: np.ndarray, classes: tuple[str, ...]) -> tuple[float | None, float | None]:
    """The metrics that a version shows; None if it isn't evaluated, because too many classes have a single image."""
    embedded = EmbeddedSamples([data.samples[row] for row in learned], data.embeddings[learned], {})
    trained = learn_head(data.backbone, embedded, classes, Hyperparameters(), lambda record: None)
    figures = trained.record["figures"]
    return figures.get("accuracy"), figures.get("macro_f1")


# --- tables -----------------------------------------------------------------


def tables(cells: Sequence[Cell]) -> Iterator[str]:
    """Markdown tables: accuracy and macro-F1 of each method, gains, shown values, CPU time."""
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    untuned = [task for task in tasks if task not in TUNED]
    for figure in ("accuracy", "macro_f1"):
        yield from _heading(NAMES[figure])
        for task in tasks:
            for way in LEARNERS:
                means = [_mean(_of(cells, task, way, n, figure)) for n in SIZES]
                yield f"| {task}{' *' if task in TUNED else ''}, {way} | {' | '.join(means)} |"
    yield "\n\\* The settings were chosen on other splits of this task."
    for figure, over in product(("accuracy", "macro_f1"), (FORMER, LAST_LAYER)):
        yield from _heading(f"{NAMES[figure]}: paired gain over the {over}, 95% interval")
        rows = {task: [task] for task in tasks} | {"**all but the tuned tasks**": untuned, "**all**": tasks}
        for name, these in rows.items():
            gains = [interval(_gains(cells, these, n, figure, over), signed=True) for n in SIZES]
            yield f"| {name} | {' | '.join(gains)} |"
    for figure in ("accuracy", "macro_f1"):
        yield from _heading(f"{NAMES[figure]}: reported minus true value")
        for task in tasks:
            errors = [_errors(cells, task, n, figure) for n in SIZES]
            yield f"| {task} | {' | '.join(map(interval, errors))} |"
    yield from _heading("CPU seconds, median of all tasks")
    for way in LEARNERS:
        spent = [[c.cpu_seconds for c in cells if c.way == way and c.labels == n] for n in SIZES]
        yield f"| {way} | {' | '.join(f'{np.median(one):.3f}' if one else '–' for one in spent)} |"


def _heading(title: str) -> Iterator[str]:
    yield f"\n| {title} | {' | '.join(f'{n:,} labels' for n in SIZES)} |\n|---|{'---|' * len(SIZES)}"


def _of(cells: Sequence[Cell], task: str, way: str, labels: int, figure: str) -> list[float]:
    return [getattr(c, figure) for c in cells if (c.task, c.way, c.labels) == (task, way, labels)]


def _errors(cells: Sequence[Cell], task: str, labels: int, figure: str) -> list[float]:
    """The reported minus the true value of each version that is evaluated."""
    both = zip(_of(cells, task, HEAD, labels, f"shown_{figure}"), _of(cells, task, HEAD, labels, figure), strict=True)
    return [shown - true for shown, true in both if shown is not None]


def _gains(cells: Sequence[Cell], tasks: Sequence[str], labels: int, figure: str, over: str) -> list[float]:
    """The mean gain over another method and over the tasks, for each split."""
    gains = defaultdict(list)
    for cell in cells:
        if cell.labels == labels and cell.task in tasks and cell.way in (over, HEAD):
            gains[cell.split].append(getattr(cell, figure) * (1 if cell.way == HEAD else -1))
    return [2 * float(np.mean(one)) for one in gains.values()]


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" if values else "–"


if __name__ == "__main__":
    main()
