"""Measures how well wrong labels are found, if 10% of up to 900 labels are changed at random.

    python -m benchmarks.learning.wrong_labels --pictures FOLDER --weights FILE [--splits 10] [--tasks themes,digits]

Prints a Markdown table; docs/project/learning.md has the results.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from benchmarks.learning.embedded import Data, embedded_tasks, interval, options
from image_classifier.data.dataset import Label, classes_of
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.training.classifier_head import learn_head
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.labels import order_classes

FIRST_SPLIT = 5000  # these splits weren't used to choose anything
WRONG = 0.1  # share of labels that are changed
MOST_LABELS = 900
FIGURES = ("precision at k = number of wrong labels", "recall at 2k", "recall of the whole list")


def main() -> None:
    parser = options("benchmarks.learning.wrong_labels", __doc__)
    parser.add_argument("--splits", type=int, default=10, help="number of splits of each task")
    parser.add_argument("--tasks", default="", help="names of tasks, comma-separated; all by default")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for data in embedded_tasks(arguments):
        if not arguments.tasks or data.name in arguments.tasks.split(","):
            found[data.name] = [measure(data, split) for split in range(FIRST_SPLIT, FIRST_SPLIT + arguments.splits)]
            print(f"{data.name} is done", flush=True)
    print("\n".join(table(found)))


def measure(data: Data, split: int) -> tuple[float, float, float]:
    """The FIGURES of one split, each from 0 to 1."""
    generator = np.random.default_rng(split)
    rows = generator.permutation(len(data.samples))[:MOST_LABELS]
    names = sorted(frozenset().union(*(classes_of(data.samples[row].label) for row in rows)))
    samples = [data.samples[row] for row in rows]
    wrong = generator.permutation(len(rows))[: round(WRONG * len(rows))]
    for place in wrong:
        samples[place] = replace(samples[place], label=_changed(samples[place].label, names, generator))
    embedded = EmbeddedSamples(samples, data.embeddings[rows], {})
    classes = order_classes(samples, (), ())
    learned = learn_head(data.backbone, embedded, classes, Hyperparameters(), lambda record: None)
    listed = [one.digest for one in learned.mistakes]
    expected, count = {samples[place].image.digest for place in wrong}, len(wrong)
    first, second, all_listed = (len(expected & set(part)) for part in (listed[:count], listed[: 2 * count], listed))
    return first / count, second / count, all_listed / count


def _changed(label: Label, names: list[str], generator: np.random.Generator) -> Label:
    """Another class; if several may be right, the same ones with one more or one less."""
    if isinstance(label, frozenset):
        return label ^ {names[generator.integers(len(names))]}
    others = [name for name in names if name != label]
    return others[generator.integers(len(others))]


def table(found: dict[str, list[tuple[float, float, float]]]) -> Iterator[str]:
    """A Markdown table with means and 95% intervals."""
    yield f"\n| | {' | '.join(FIGURES)} |\n|---|{'---|' * len(FIGURES)}"
    for task, runs in found.items():
        yield f"| {task} | {' | '.join(interval(values, 2) for values in zip(*runs, strict=True))} |"


if __name__ == "__main__":
    main()
