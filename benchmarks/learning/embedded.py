"""The embedded tasks, which all benchmarks of learning and labeling share, with their options and intervals."""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from benchmarks.learning.tasks import Task, all_tasks
from image_classifier.data.dataset import Label, Sample, classes_of, targets_of
from image_classifier.data.preprocessing import ImageError
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.lane import ImageFile, InferenceLane
from image_classifier.evaluation.metrics import hits
from image_classifier.nets.classifier import Backbone, Classifier, load_backbone
from image_classifier.nets.weights_packages import LITE0

FIRST_SPLIT = 4000  # these splits weren't used to choose anything, except those before FORECAST_SPLIT for the forecast
FORECAST_SPLIT = FIRST_SPLIT + 20  # the constants of the forecast and of the accuracy's interval were chosen before it
TESTED = 0.4  # share of a task's images
NEAR = 0.985  # two pictures with at least this cosine count as the same


@dataclass(frozen=True)
class Data:
    """A task without near-duplicates."""

    name: str
    embeddings: Tensor
    samples: list[Sample]
    backbone: Backbone  # that made the embeddings

    def split(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the test set, and the other rows in a random order."""
        order = np.random.default_rng(number).permutation(len(self.samples))
        tested, pool = np.split(order, [round(TESTED * len(order))])
        return tested, pool


def options(module: str, about: str | None) -> argparse.ArgumentParser:
    """A parser with the options for `embedded_tasks`; `about` is the module's docstring."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=(about or "").partition("\n")[0])
    parser.add_argument("--pictures", type=Path, required=True, help="folder with both unpacked Debian packages")
    parser.add_argument("--weights", type=Path, required=True, help=".pth file of EfficientNet-Lite0")
    parser.add_argument("--cache", type=Path, help="folder for embeddings and generated pictures")
    return parser


def embedded_tasks(arguments: argparse.Namespace) -> Iterator[Data]:
    """Each task, embedded by EfficientNet-Lite0; the digits also by a ResNet18 with random weights."""
    folder = arguments.cache or arguments.pictures / ".benchmark"
    backbone, random = load_backbone(str(arguments.weights), None, LITE0), load_backbone("none")
    cache = EmbeddingCache(folder / "embeddings")
    lane = InferenceLane(cache)
    try:
        for task in all_tasks(arguments.pictures, folder):
            yield _embed(lane, backbone, task)
            if task.name == "digits":
                yield _embed(lane, random, Task("digits, random", task.paths, task.labels, None))
    finally:
        lane.close()
        cache.close()


def _embed(lane: InferenceLane, backbone: Backbone, task: Task) -> Data:
    images = [ImageFile.of(path) for path in task.paths]
    found = list(zip(images, task.labels, lane.embed(backbone, images), strict=True))
    rows = [(image, label, vector) for image, label, vector in found if not isinstance(vector, ImageError)]
    embeddings = torch.from_numpy(np.stack([vector for *_, vector in rows]))
    labels = [label for _, label, _ in rows]
    kept = list(range(len(rows))) if task.most is None else _distinct(embeddings, labels, task.most)
    # There are many identical blank canvases; each must count as a separate image.
    names = [sha256(f"{task.name} {row}".encode()).hexdigest() for row in kept]
    samples = [Sample(ImageFile(rows[row][0].path, name), labels[row]) for row, name in zip(kept, names, strict=True)]
    return Data(task.name, embeddings[kept], samples, backbone)


def _distinct(embeddings: Tensor, labels: Sequence[Label], most: int) -> list[int]:
    """Rows that don't look like an earlier one, and at most `most` per class."""
    directions = torch.nn.functional.normalize(embeddings, dim=1)
    kept: list[int] = []
    counts: Counter[Label] = Counter()
    for row, label in enumerate(labels):
        if counts[label] < most and not bool((directions[kept] @ directions[row] > NEAR).any()):
            kept.append(row)
            counts[label] += 1
    return kept


def accuracy_on(data: Data, rows: Sequence[int] | np.ndarray, model: Classifier) -> float:
    """The accuracy on these rows; images of classes without labels count as wrong."""
    known = [row for row in rows if classes_of(data.samples[row].label) <= set(model.classes)]
    truth = targets_of([data.samples[row].label for row in known], model.classes)
    return float(hits(model.head(data.embeddings[known]), truth, model.head.thresholds).sum()) / len(rows)


def interval(values: Sequence[float], digits: int = 3, *, signed: bool = False) -> str:
    """The mean and its 95% confidence interval (Student's t); "–" for fewer than two values."""
    if len(values) < 2:
        return "–"
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):{'+' if signed else ''}.{digits}f} ± {half:.{digits}f}"
