"""A saved model's files: they are read, or refused with an error that says which file is damaged."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from image_classifier.data.dataset import Sample
from image_classifier.data.image_file import ImageFile
from image_classifier.data.preprocessing import Preprocessing
from image_classifier.embedding.precisions import Precisions
from image_classifier.errors import UsersError
from image_classifier.nets import folder as folder_module
from image_classifier.nets.classifier import Backbone, Classifier, Head, read_record
from image_classifier.nets.weights import WeightsError
from image_classifier.training.checkpoint import TrainingState
from tests.fuzzing.target import HOSTILE_JSON, Read, Target, named

SIZE, CLASSES = 4, ("Cat", "Dog")
FILES = ("model.json", "samples.json", "head.safetensors")
CPU = torch.device("cpu")
WORDS = ("evaluation.weight", "NaN", "1e999", "bfloat16", "__metadata__")
BACKBONE = Backbone(nn.Linear(1, SIZE), Preprocessing(), "random", "ab" * 16)


def _state() -> TrainingState:
    module = nn.Linear(2, 2)
    optimizer = SGD(module.parameters(), 0.1, momentum=0.9)
    return TrainingState(module, optimizer, StepLR(optimizer, 7), CLASSES)


def _fill(folder: Path) -> dict[str, Path]:
    """Writes a model and what belongs to trainings and networks; returns the files by their names."""
    head = Head(torch.zeros(2, SIZE), torch.zeros(2))
    samples = [Sample(ImageFile(Path("a.png"), "0" * 64), "Cat", "a.png", "train", "group", True, "g")]
    folder_module.save_model(Classifier(BACKBONE, head, head, CLASSES, {}), samples, folder / "model")
    precisions = Precisions(folder / "precisions")
    precisions.choose(BACKBONE, CPU, torch.float32, {}, 100)
    _state().save(folder / "checkpoint.safetensors")
    return {
        **{name: folder / "model" / name for name in FILES},
        "precisions.json": next((folder / "precisions").iterdir()),
        "checkpoint.safetensors": folder / "checkpoint.safetensors",
    }


@contextmanager
def _open() -> Iterator[Read]:
    with tempfile.TemporaryDirectory() as name, patch.object(folder_module, "load_saved_backbone", _without_weights):
        folder = Path(name)
        paths = _fill(folder)

        def read(data: bytes) -> None:
            """The name of a file in the first line, then its content."""
            name, _, content = data.partition(b"\n")
            path = paths.get(name.decode(errors="replace"))
            if path is None:
                return
            before = path.read_bytes()
            path.write_bytes(content)
            try:
                _load(folder)
            finally:
                path.write_bytes(before)

        yield read


def _load(folder: Path) -> None:
    try:
        model = folder_module.load_model(folder / "model")
        assert model.classifier.head(torch.zeros(1, SIZE)).shape == (1, len(model.classifier.classes))
    except (UsersError, WeightsError) as error:
        assert str(error)
    Precisions(folder / "precisions")(BACKBONE, CPU)
    _state().resume(folder / "checkpoint.safetensors")


def _without_weights(folder: Path) -> Backbone:
    """Reads the record as `load_saved_backbone` does; a real network's weights would take most of the time."""
    Preprocessing.from_record(read_record(folder)["preprocessing"])
    return BACKBONE


def _seeds() -> Iterable[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        paths = _fill(Path(folder))
        yield from (named(name, path.read_bytes()) for name, path in paths.items())
    for name in ("model.json", "samples.json", "precisions.json"):
        yield from (named(name, one) for one in HOSTILE_JSON)
    yield named("samples.json", json.dumps([{"name": "a", "digest": "b", "label": ["a", "b"]}]).encode())


TARGET = Target(_open, _seeds, WORDS)
