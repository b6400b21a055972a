"""Measures whether training all layers pays: what the trial and the final comparison say, and what the test set says.

    python -m benchmarks.learning.all_layers --pictures FOLDER --weights FILE --task stamps --labels 279 [--splits 5]

docs/project/learning.md explains how to get the pictures and the weights. Each split takes about a minute if the trial
refuses, and several if it doesn't. CPU seconds are printed, too, since a busy machine takes longer.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.learning.embedded import FIRST_SPLIT, Data, embedded_tasks, options
from image_classifier.data.dataset import Sample, targets_of
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.lane import InferenceLane
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.evaluation.comparison import compare
from image_classifier.nets.classifier import Backbone, Classifier, load_backbone
from image_classifier.nets.weights_packages import LITE0
from image_classifier.training import all_layers
from image_classifier.training.all_layers import FineTuning, NotBetter, learn_all_layers, try_all_layers
from image_classifier.training.classifier_head import learn_head
from image_classifier.training.hyperparameters import Hyperparameters


def main() -> None:
    parser = options("benchmarks.learning.all_layers", __doc__)
    parser.add_argument("--task", default="stamps", help="name of a task")
    parser.add_argument("--labels", type=int, default=279, help="number of labels")
    parser.add_argument("--splits", type=int, default=5, help="number of splits")
    parser.add_argument("--first-split", type=int, default=FIRST_SPLIT, help="the first one's number")
    arguments = parser.parse_args()
    # All epochs of a trial, so that a busy machine changes nothing.
    all_layers.TRIAL_SECONDS = float("inf")
    data = next(each for each in embedded_tasks(arguments) if each.name == arguments.task)
    backbone = load_backbone(str(arguments.weights), None, LITE0)
    for split in range(arguments.first_split, arguments.first_split + arguments.splits):
        with TemporaryDirectory() as place:
            print("\n".join(measure(data, backbone, split, arguments.labels, Path(place))), flush=True)


def measure(data: Data, backbone: Backbone, split: int, labels: int, folder: Path) -> Iterator[str]:
    """Lines with the results of one split."""
    tested, pool = data.split(split)
    samples, test = ([data.samples[row] for row in rows] for rows in (pool[:labels], tested))
    classes = tuple(sorted({str(sample.label) for sample in data.samples}))
    cache = EmbeddingCache(folder / "embeddings")
    lane = InferenceLane(cache)
    vectors = data.embeddings.numpy()
    cache.put(backbone.fingerprint, [(s.image.digest, v) for s, v in zip(data.samples, vectors, strict=True)])
    hyperparameters = Hyperparameters()
    try:
        known = EmbeddedSamples(samples, data.embeddings[pool[:labels]], {})
        head = learn_head(backbone, known, classes, hyperparameters, _quiet)
        yield f"{data.name}, split {split}, {len(samples)} labels: head {_accuracy(lane, head, test):.4f}"
        tuning = FineTuning(lane, head, samples, hyperparameters, folder / "checkpoint.safetensors", _quiet)
        clock = _Spent()
        try:
            try_all_layers(tuning)
            yield f"  trial passed, {clock}"
            tuned = learn_all_layers(tuning)
        except NotBetter as error:
            yield f"  {error}, {clock}"
            return
        comparison = compare(lane, head, tuned, samples)
        published = bool(comparison and comparison.better)
        yield f"  all layers {'published' if published else 'refused'}, {clock}; {comparison}"
        yield f"  all layers {_accuracy(lane, tuned, test):.4f}"
    finally:
        lane.close()
        cache.close()


class _Spent:
    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.monotonic()

    def __str__(self) -> str:
        return f"{time.process_time() - self._cpu:.0f} CPU s, {time.monotonic() - self._wall:.0f} s"


def _accuracy(lane: InferenceLane, classifier: Classifier, samples: list[Sample]) -> float:
    vectors = torch.from_numpy(np.stack(lane.embed(classifier.backbone, [sample.image for sample in samples])))
    targets = targets_of([sample.label for sample in samples], classifier.classes)
    return float((classifier.head(vectors).argmax(1) == targets).float().mean())


def _quiet(record: object) -> None:
    pass


if __name__ == "__main__":
    main()
