"""Measures the accuracy that corrections cost which learn only the new labels, compared with a head that learns all.

    python -m benchmarks.learning.corrections --pictures FOLDER --weights FILE [--splits 10] [--anchors 2048]

A head learns all labels but the last 5%, the most that are allowed, and is then updated with these, ten at a time. Its
accuracy on the untouched test set is compared with that of a head that learned all labels at once.
docs/project/learning.md has the results.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.learning.embedded import FIRST_SPLIT, Data, accuracy_on, embedded_tasks, interval, options
from image_classifier.data.dataset import classes_of, record_of
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.nets.classifier import Classifier
from image_classifier.training import update
from image_classifier.training.classifier_head import learn_head
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.labels import count_labels
from image_classifier.training.update import CHANGED_SHARE, anchors_of, update_head

AT_ONCE = 10  # labels in each correction, as RETRAIN_AFTER_ANNOTATIONS has it


@dataclass(frozen=True)
class Cell:
    """Accuracies (0 to 1) on the test set of one split."""

    labels: int
    new: int
    before: float  # without the new labels
    updated: float
    whole: float


def main() -> None:
    parser = options("benchmarks.learning.corrections", __doc__)
    parser.add_argument("--splits", type=int, default=10, help="number of splits")
    parser.add_argument("--first-split", type=int, default=FIRST_SPLIT, help="number of the first split")
    parser.add_argument("--anchors", type=int, default=update.ANCHORS, help="images that hold the head")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    update.ANCHORS = arguments.anchors
    for data in embedded_tasks(arguments):
        if any(not isinstance(sample.label, str) for sample in data.samples):
            continue  # several classes for an image are always learned from all labels
        splits = range(arguments.first_split, arguments.first_split + arguments.splits)
        print(row(data.name, [measure(data, split) for split in splits]), flush=True)


def measure(data: Data, split: int) -> Cell:
    """All images that aren't tested are labeled; as many as allowed come as corrections."""
    tested, pool = data.split(split)
    new, known = (part.tolist() for part in np.split(pool, [round(CHANGED_SHARE * len(pool))]))
    classes = tuple(sorted(frozenset().union(*(classes_of(data.samples[row].label) for row in known))))
    new = [row for row in new if data.samples[row].label in classes]
    first = _learn(data, known, classes)
    updated, learned = first, list(known)
    for start in range(0, len(new), AT_ONCE):
        some = new[start : start + AT_ONCE]
        updated = _update(data, updated, learned, some)
        learned += some
    whole = _learn(data, learned, classes)
    accuracies = (accuracy_on(data, tested, model) for model in (first, updated, whole))
    return Cell(len(learned), len(new), *accuracies)


def _learn(data: Data, rows: Sequence[int], classes: tuple[str, ...]) -> Classifier:
    known = EmbeddedSamples([data.samples[row] for row in rows], data.embeddings[list(rows)], {})
    return learn_head(data.backbone, known, classes, Hyperparameters(), lambda record: None)


def _update(data: Data, model: Classifier, learned: Sequence[int], new: Sequence[int]) -> Classifier:
    row_of = {data.samples[row].image.digest: row for row in learned}
    chosen, images = anchors_of([record_of(data.samples[row]) for row in learned])
    anchors = [data.samples[row_of[record["digest"]]] for record in chosen]
    changed = [data.samples[row] for row in new]
    counts = count_labels([data.samples[row] for row in [*learned, *new]], model.classes)["labels"]
    embeddings = data.embeddings[[*(row_of[record["digest"]] for record in chosen), *new]]
    return replace(model, head=update_head(model, counts, anchors, images, changed, embeddings))


def row(task: str, cells: Sequence[Cell]) -> str:
    """A Markdown row: means over the splits, and the 95% interval of the accuracy lost by updates."""
    whole = sum(cell.whole for cell in cells) / len(cells)
    before = sum(cell.before - cell.whole for cell in cells) / len(cells)
    lost = interval([cell.updated - cell.whole for cell in cells], 4, signed=True)
    return f"| {task} | {cells[0].labels:,} | {cells[0].new} | {whole:.3f} | {lost} | {before:+.4f} |"


if __name__ == "__main__":
    main()
