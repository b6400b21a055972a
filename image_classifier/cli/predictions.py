"""Finds unlabeled images and predicts their classes."""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TextIO

import torch

from image_classifier.cli.console import json_for
from image_classifier.data.folders import Finding, images_below, read_files, shown
from image_classifier.data.image_file import ImageFile
from image_classifier.data.preprocessing import ImageError
from image_classifier.embedding.lane import InferenceLane
from image_classifier.embedding.samples import AT_ONCE
from image_classifier.errors import UsersError
from image_classifier.evaluation.evaluate import answers_of, probabilities_of
from image_classifier.nets.classifier import Classifier

FIRST = 8  # images in the first chunk, so that the first predictions come soon

Form = Literal["text", "csv", "json"]


@dataclass(frozen=True)
class Prediction:
    """The prediction for an image: the class, its probability, and each class's probability; or an error."""

    path: Path
    label: str = ""
    confidence: float = 0.0
    scores: tuple[tuple[str, float], ...] = ()  # most likely first
    error: str = ""

    def record(self) -> dict[str, Any]:
        image = str(self.path)
        if self.error:
            return {"image": image, "error": self.error}
        return {"image": image, "prediction": self.label, "confidence": self.confidence, "scores": dict(self.scores)}


def find_images(
    sources: Sequence[str], names: TextIO, findings: list[Finding], skipped: Counter[str]
) -> Iterator[Path]:
    """The images in folders, in order, the named files, and for `-` the files listed in `names`, one per line.

    Adds problems in the folders to `findings` and counts other files in `skipped`. Raises UsersError if none of the
    sources exists.
    """
    if all(source != "-" and _is_missing(source) for source in sources):
        raise UsersError(f"{shown(sources[0])}: no such file or folder")
    for source in sources:
        if source == "-":
            yield from (Path(line.rstrip("\n")) for line in names if line.strip())
        elif os.path.isdir(source):  # noqa: PTH112  unlike Path.is_dir, it never raises OSError
            yield from images_below(Path(source), findings, skipped)
        else:
            yield Path(source)


def _is_missing(source: str) -> bool:
    try:
        return not Path(source).exists()
    except OSError:  # such as a name that is too long, which is reported with the image
        return False


def predict(lane: InferenceLane, classifier: Classifier, images: Iterable[Path], top: int) -> Iterator[Prediction]:
    """Predictions in order, with the `top` most likely classes; in chunks, so that an endless stream works too."""
    waiting, size = iter(images), FIRST
    while some := list(islice(waiting, size)):
        yield from _predict_some(lane, classifier, some, top)
        size = min(2 * size, AT_ONCE)


def _predict_some(lane: InferenceLane, classifier: Classifier, paths: Sequence[Path], top: int) -> Iterator[Prediction]:
    files = read_files(paths)
    embedded = iter(lane.embed(classifier.backbone, [file for file in files if isinstance(file, ImageFile)]))
    for path, file in zip(paths, files, strict=True):
        vector = ImageError(file.problem) if isinstance(file, Finding) else next(embedded)
        if isinstance(vector, ImageError):
            yield Prediction(path, error=str(vector))
            continue
        logits = classifier.head(torch.tensor(vector)[None])
        [(label, confidence)] = answers_of(classifier, logits)
        best = probabilities_of(classifier, logits)[0].topk(min(top, len(classifier.classes)))
        scores = [
            (classifier.classes[number], round(value, 4))
            for number, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        yield Prediction(path, label, round(confidence, 4), tuple(scores))


def write_predictions(predictions: Iterable[Prediction], form: Form, out: TextIO) -> list[Prediction]:
    """Writes predictions as they come (JSON: one array at the end); returns failed ones, which text and CSV omit."""
    failed = []
    if form == "json":
        records = []
        for prediction in predictions:
            records.append(prediction.record())
            if prediction.error:
                failed.append(prediction)
        out.write(json_for(out, records) + "\n")
        return failed
    table = csv.writer(out, lineterminator="\n")
    if form == "csv":
        table.writerow(["image", "prediction", "confidence", "scores"])
    for prediction in predictions:
        if prediction.error:
            failed.append(prediction)
            continue
        scores = " ".join(f"{name}={score:.4f}" for name, score in prediction.scores)
        fields = [str(prediction.path), prediction.label, f"{prediction.confidence:.4f}", scores]
        if form == "csv":
            table.writerow(fields)
        else:
            out.write("\t".join(map(shown, fields if len(prediction.scores) > 1 else fields[:-1])) + "\n")
        out.flush()
    return failed
