"""Labeled images: the torch dataset for training all layers, and the stable held-out split."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from image_classifier.data.image_file import ImageFile
from image_classifier.data.preprocessing import ImageError, Source

HELD_OUT = 0.2
FOLDS = 5
MIN_TRAINING_IMAGES = 2  # of each class, before any image of it is held out


# An image's side of an existing split; "" if the content decides.
Part = Literal["", "train", "val"]

# The image's class or, if several may be right, the set of its classes.
Label = str | frozenset[str]

# A sample without its image, as JSON: `name`, `label`, `digest`, and whatever differs from a sample's defaults.
Record = dict[str, Any]

# Who looked at the image to label it: a person who opened it, a person who saw it in a grid with others, or nobody.
LabelSource = Literal["person", "group", "unseen"]


@dataclass(frozen=True)
class Sample:
    """An image, its label, and the caller's name for it: a task's id or a file's name."""

    image: ImageFile
    label: Label
    name: str = ""
    part: Part = ""
    source: LabelSource = "person"
    ground_truth: bool = False  # whether the label belongs to the user's test set
    group: str = ""  # the digest of the first of its near-duplicates, often its own; "" until compared with others
    at_random: bool = False  # whether it belongs to a random sample of all images, labeled or not

    @property
    def evaluates(self) -> bool:
        """Whether the label can show that a prediction is right; a prediction accepted without review can't."""
        return self.source != "unseen"

    @property
    def vote(self) -> str:
        """The key it shares with its near-duplicates: they are on one side of each split and have one vote together."""
        return self.group or self.image.digest


def classes_of(label: Label) -> frozenset[str]:
    """The classes that a label names."""
    return frozenset([label]) if isinstance(label, str) else label


def targets_of(labels: Sequence[Label], classes: Sequence[str]) -> Tensor:
    """The targets for training: class indices [n] or, for sets of classes, 0 and 1 as float [n, classes].

    Raises ValueError if a label isn't one of the classes.
    """
    unknown = sorted(frozenset().union(*map(classes_of, labels)) - set(classes))
    if unknown:
        raise ValueError(f"these labels aren't classes: {', '.join(unknown)}")
    index = {name: number for number, name in enumerate(classes)}
    if all(isinstance(label, str) for label in labels):
        return torch.tensor([index[label] for label in labels if isinstance(label, str)], dtype=torch.long)
    targets = torch.zeros(len(labels), len(classes))
    for row, label in zip(targets, labels, strict=True):
        row[[index[name] for name in classes_of(label)]] = 1
    return targets


class ImageClassifierDataset(Dataset[tuple[Tensor, Tensor]]):
    """Images, as paths or bytes, with their labels; returns (transformed image, target as in `targets_of`)."""

    def __init__(
        self,
        images: Sequence[Source],
        labels: Sequence[Label],
        classes: Sequence[str],
        transform: Callable[[Source], Tensor],
    ) -> None:
        """Raises ValueError if a label isn't one of the classes, or if the numbers of images and labels differ."""
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images, but {len(labels)} labels")
        self._images = images
        self._targets = targets_of(labels, classes)
        self._transform = transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        image = self._images[position]
        try:
            return self._transform(image), self._targets[position]
        except ImageError as error:
            if isinstance(image, bytes) or str(image) in str(error):
                raise
            raise type(error)(f"{image}: {error}") from error  # it was sound when training began

    def __getitems__(self, positions: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """A whole batch, as torch's DataLoader requests it: decoded on all cores."""
        with ThreadPoolExecutor(thread_name_prefix="decode") as pool:
            return list(pool.map(self.__getitem__, positions))


def held_out(samples: Sequence[Sample]) -> list[bool]:
    """Which samples are held out for evaluation: about a fifth, chosen by the content of the group's first image.

    So an image is on the same side in every version. If a class would have fewer than two images left for training that
    a person has looked at, none of its images are held out. An existing split is used instead.
    """
    may_be = may_be_held_out(samples)
    if is_split(samples):
        return may_be
    left = Counter(
        name
        for sample, is_chosen in zip(samples, may_be, strict=True)
        if sample.evaluates and not is_chosen
        for name in classes_of(sample.label)
    )
    rare = {
        sample.vote for sample in samples if any(left[name] < MIN_TRAINING_IMAGES for name in classes_of(sample.label))
    }
    return [is_chosen and sample.vote not in rare for sample, is_chosen in zip(samples, may_be, strict=True)]


def may_be_held_out(samples: Sequence[Sample]) -> list[bool]:
    """Which samples are held out now, or will be once there are more labels: all layers never learn these.

    Later versions keep these layers, and must be evaluated on images that the layers haven't learned.
    """
    if is_split(samples):
        return [sample.part == "val" for sample in samples]
    return [int(sample.vote[:8], 16) < HELD_OUT * 2**32 for sample in samples]


def is_split(samples: Sequence[Sample]) -> bool:
    """Whether the images come with a split into training and evaluation."""
    return any(sample.part for sample in samples)


def folds(samples: Sequence[Sample], count: int = FOLDS) -> list[int]:
    """Each sample's fold, below `count`: random, but determined by the content; near-duplicates share one.

    Classes aren't spread evenly over the folds: heads would then have learned more images of an image's class than of a
    new image's, and look too good while there are few labels. A version's folds are nearly those of the one before.
    """
    looked_at = {sample.vote for sample in samples if sample.evaluates}
    others = {sample.vote for sample in samples} - looked_at  # so that these don't change the folds
    fold_of = {
        vote: place * count // len(votes) for votes in (looked_at, others) for place, vote in enumerate(sorted(votes))
    }
    return [fold_of[sample.vote] for sample in samples]


def record_of(sample: Sample) -> Record:
    """A sample as JSON, without its image."""
    return {
        "name": sample.name,
        "label": sample.label if isinstance(sample.label, str) else sorted(sample.label),
        "digest": sample.image.digest,
        **({"part": sample.part} if sample.part else {}),
        **({"source": sample.source} if sample.source != "person" else {}),
        **({"ground_truth": True} if sample.ground_truth else {}),
        **({"group": sample.group} if sample.group else {}),
        **({"at_random": True} if sample.at_random else {}),
    }


def sample_of(record: Record) -> Sample:
    """The sample of a record. Its name is a path only if it came from a file; the digest always holds."""
    return Sample(
        ImageFile(Path(record["name"]), record["digest"]),
        record["label"] if isinstance(record["label"], str) else frozenset(record["label"]),
        record["name"],
        record.get("part", ""),
        source_of(record),
        record.get("ground_truth", False),
        record.get("group", ""),
        record.get("at_random", False),
    )


def source_of(record: Record) -> LabelSource:
    """Who looked at a record's image to label it."""
    source: LabelSource = record.get("source", "person")
    return source


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Saves the samples that a model was trained on."""
    # Without `indent`, which would take three times as long.
    path.write_text(json.dumps(records, ensure_ascii=False) + "\n", encoding="utf-8")


def read_records(path: Path) -> list[Record]:
    """The records saved by `write_records`; a sample for each would take twenty times as long.

    Raises OSError, ValueError or RecursionError.
    """
    records = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(records, list) or not all(map(_is_record, records)):
        raise ValueError("it isn't a list of samples")
    return records


def _is_record(record: Any) -> bool:
    if not (isinstance(record, dict) and isinstance(record.get("name"), str) and isinstance(record.get("digest"), str)):
        return False
    label = record.get("label")
    return isinstance(label, str) or (isinstance(label, list) and all(isinstance(one, str) for one in label))


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Saves the samples that a model was trained on, without their images."""
    write_records(path, [record_of(sample) for sample in samples])


def read_samples(path: Path) -> list[Sample]:
    """The samples saved by `write_samples`."""
    return [sample_of(record) for record in json.loads(path.read_text(encoding="utf-8"))]
