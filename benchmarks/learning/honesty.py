"""Compares the metrics that a version reports with its accuracy on a test set that was used for nothing else.

    python -m benchmarks.learning.honesty --pictures FOLDER --weights FILE [--splits 20] [--tasks themes,digits]

Prints Markdown tables: reported − true accuracy with labels drawn at random and in the backend's order, how often the
95% interval contains the true accuracy, and the same with near-copies of each image. The true accuracy is measured on a
few hundred images, so it has noise of its own. Another column says how often an interval that allows for this noise
contains it.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from benchmarks.learning.embedded import FORECAST_SPLIT, Data, accuracy_on, embedded_tasks, interval, options
from benchmarks.learning.labeler import BACKENDS_ORDER, label, learn
from image_classifier.data.dataset import Sample, classes_of, targets_of
from image_classifier.data.image_file import ImageFile
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.lane import InferenceLane
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.evaluation.metrics import hits
from image_classifier.nets.classifier import Backbone, Classifier, load_backbone
from image_classifier.training.classifier_head import embed, learn_head
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.labels import order_classes
from testing.digits import write_digits

SIZES = (30, 100, 300, 1000)
SIZES_IN_ORDER = (100, 200, 300)
ORDER_SPLITS = 5  # the order takes longer
COPIED, COPIES = 100, 6  # digits and near-copies of each
COPIES_SEEDS = 25
NORMAL = 1.96  # standard errors on each side of a 95% interval


class Honesty(NamedTuple):
    """Reported − true accuracy; whether the 95% interval contains the true one, as it is and allowing for its noise."""

    error: float
    contained: bool
    contained_with_noise: bool


def main() -> None:
    parser = options("benchmarks.learning.honesty", __doc__)
    parser.add_argument("--splits", type=int, default=20, help="number of splits of each task")
    parser.add_argument("--tasks", default="", help="names of tasks, comma-separated; all by default")
    parser.add_argument("--json", type=Path, default=Path("honesty.json"), help="file for all errors")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shown: dict[tuple[str, str], list[Honesty]] = defaultdict(list)
    for data in embedded_tasks(arguments):
        if isinstance(data.samples[0].label, frozenset):
            continue  # the main benchmark has these
        if arguments.tasks and data.name not in arguments.tasks.split(","):
            continue
        for split in range(FORECAST_SPLIT, FORECAST_SPLIT + arguments.splits):
            for size, honesty in at_random(data, split):
                shown["at random", f"{size:,}"].append(honesty)
        for split in range(FORECAST_SPLIT, FORECAST_SPLIT + ORDER_SPLITS):
            for size, honesty in in_order(data, split):
                shown["in the backend's order", f"{size:,}"].append(honesty)
        arguments.json.write_text(json.dumps([[*key, *runs] for key, runs in shown.items()]) + "\n", encoding="utf-8")
        print(f"{data.name} is done", flush=True)
    print("\n".join(tables(shown, list(near_copies(arguments.cache or arguments.pictures / ".benchmark")))))


def at_random(data: Data, split: int) -> Iterator[tuple[int, Honesty]]:
    """For each number of labels."""
    _, pool = data.split(split)
    for size in SIZES:
        if len(pool) >= size:
            unlabeled = np.setdiff1d(np.arange(len(data.samples)), pool[:size])
            yield size, _honesty(data, unlabeled, learn(data, pool[:size].tolist()))


def in_order(data: Data, split: int) -> Iterator[tuple[int, Honesty]]:
    """The same if people label the images in the order that Label Studio gets from the backend.

    The true accuracy is that on the test set, which has images as hard as all of the project's.
    """
    tested, _ = data.split(split)
    for labeled, learned in label(data, split, BACKENDS_ORDER, SIZES_IN_ORDER[-1]):
        if len(labeled) in SIZES_IN_ORDER:
            yield len(labeled), _honesty(data, tested, learned)


def near_copies(folder: Path) -> Iterator[tuple[float, float, float]]:
    """Shown − true accuracy for each seed: near-copies in groups, each on its own, and digits without near-copies."""
    digits = write_digits(folder / "digits")
    cache = EmbeddingCache(folder / "embeddings")
    lane = InferenceLane(cache)
    backbone = load_backbone("none", 64)
    try:
        for seed in range(COPIES_SEEDS):
            order = np.random.default_rng(seed).permutation(len(digits))
            learned = []
            for row in order[:COPIED]:
                path, label = digits[row]
                for copy in copies(path, folder / "copies", seed):
                    learned.append(Sample(ImageFile.of(copy), label))
            embedded = embed(lane, backbone, learned, lambda record: None)
            alone = [Sample(sample.image, sample.label) for sample in embedded.samples]
            tested = _embedded(lane, backbone, [digits[row] for row in order[COPIED:]])
            grouped = _learn_samples(backbone, embedded.samples, embedded.embeddings)
            apart = _learn_samples(backbone, alone, embedded.embeddings)
            pairs = [digits[row] for row in order[:COPIED]]
            distinct = [Sample(ImageFile.of(path), label) for path, label in pairs]
            without = _learn_samples(backbone, distinct, _embedded(lane, backbone, pairs)[0])
            true = _accuracy(grouped, *tested)
            of_copies = (one.record["figures"]["accuracy"] - true for one in (grouped, apart))
            yield *of_copies, without.record["figures"]["accuracy"] - _accuracy(without, *tested)
    finally:
        lane.close()
        cache.close()


def copies(path: Path, folder: Path, seed: int) -> list[Path]:
    """Files with a picture and its near-copies: two shifts, noise, brightness, another size, JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(path) as image:
        picture = image.convert("RGB")
    random = np.random.default_rng([seed, int(path.stem.rpartition("-")[2])])
    pixels = np.asarray(picture).astype(np.int16)
    noisy = (pixels + random.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)
    jpeg = BytesIO()
    picture.save(jpeg, "JPEG", quality=60)
    made = [
        _shifted(picture, 2, -2),
        _shifted(picture, -2, 1),
        Image.fromarray(noisy),
        ImageEnhance.Brightness(picture).enhance(random.choice([0.8, 1.2])),
        picture.resize((picture.width * 2 // 3, picture.height * 2 // 3), Image.Resampling.BILINEAR),
        Image.open(jpeg).convert("RGB"),
    ]
    paths = [folder / f"{path.stem}-{seed}-{number}.png" for number in range(COPIES)]
    for copy, place in zip(made, paths, strict=True):
        copy.save(place)
    return [path, *paths]


def _shifted(picture: Image.Image, across: int, down: int) -> Image.Image:
    moved = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
    moved.paste(picture, (across, down))
    return moved


def _embedded(lane: InferenceLane, backbone: Backbone, pairs: Sequence[tuple[Path, str]]) -> tuple[Tensor, list[str]]:
    vectors = lane.embed(backbone, [ImageFile.of(path) for path, _ in pairs])
    return torch.from_numpy(np.stack(vectors)), [label for _, label in pairs]


def _learn_samples(backbone: Backbone, samples: list[Sample], embeddings: Tensor) -> Classifier:
    classes = order_classes(samples, (), ())
    return learn_head(
        backbone, EmbeddedSamples(samples, embeddings, {}), classes, Hyperparameters(), lambda record: None
    )


def _honesty(data: Data, rows: np.ndarray, learned: Classifier) -> Honesty:
    """Compares with the accuracy on these rows."""
    true = accuracy_on(data, rows, learned)
    figures = learned.record["figures"]
    shown, low, high = (figures[name] for name in ("accuracy", "accuracy_low", "accuracy_high"))
    noise = NORMAL * (true * (1 - true) / len(rows)) ** 0.5
    width = np.hypot(shown - low if true < shown else high - shown, noise)
    return Honesty(shown - true, low <= true <= high, bool(abs(shown - true) <= width))


def _accuracy(learned: Classifier, embeddings: Tensor, labels: Sequence[str]) -> float:
    """Images of classes without labels count as wrong."""
    known = [row for row, label in enumerate(labels) if classes_of(label) <= set(learned.classes)]
    targets = targets_of([labels[row] for row in known], learned.classes)
    return float(hits(learned.head(embeddings[known]), targets).sum()) / len(labels)


def tables(
    shown: dict[tuple[str, str], list[Honesty]],
    copied: list[tuple[float, float, float]],
) -> Iterator[str]:
    """Markdown tables of all that was measured."""
    yield (
        "\n| labels | order | reported − true accuracy | standard deviation | interval contains the true accuracy "
        "| allowing for its noise | runs |\n|---|---|---|---|---|---|---|"
    )
    for (order, size), runs in shown.items():
        errors, contained, with_noise = zip(*runs, strict=True)
        error, spread = interval(errors, signed=True), float(np.std(errors))
        yield (
            f"| {size} | {order} | {error} | {spread:.3f} | {np.mean(contained):.0%} | {np.mean(with_noise):.0%} "
            f"| {len(runs)} |"
        )
    yield "\n| 100 digits, six near-copies each | reported − true accuracy |\n|---|---|"
    for way, errors in zip(
        (
            "near-duplicates in groups",
            "each near-copy counted as an image of its own",
            "the same 100 digits without near-copies",
        ),
        zip(*copied, strict=True),
        strict=True,
    ):
        yield f"| {way} | {interval(errors, signed=True)} |"


if __name__ == "__main__":
    main()
