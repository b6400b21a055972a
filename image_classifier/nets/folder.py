"""Saved models: their folders, the samples that they were trained on, and how one replaces another."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from image_classifier.data.dataset import Sample, read_samples, write_samples
from image_classifier.data.folders import shown
from image_classifier.errors import UsersError
from image_classifier.nets.classifier import RECORD_FILE, Classifier, load_classifier, load_saved_backbone

SAMPLES_FILE = "samples.json"
VERSION_FILE = "version.json"
HEAD, FULL = "head", "full"
# Subfolders in a folder that `train` wrote or in a version's folder, better models first.
PLACES = ("", FULL, HEAD, "model")


@dataclass(frozen=True)
class SavedModel:
    """A classifier and its training samples, as read from its folder."""

    folder: Path
    classifier: Classifier
    samples: list[Sample]


def find_model(folder: Path) -> Path:
    """The folder with model.json; raises UsersError."""
    for place in PLACES:
        if (folder / place / RECORD_FILE).is_file():
            return folder / place
    raise UsersError(
        f"{shown(folder)} has no model: pass the folder that `train --output` wrote, or a version's folder"
    )


def is_version(folder: Path) -> bool:
    """Whether a model's folder belongs to a version of the backend, which never changes."""
    real = folder.resolve()  # the folder may be a link, or the working directory
    return any((place / VERSION_FILE).is_file() for place in (real, real.parent))


def load_model(folder: Path) -> SavedModel:
    """Loads a model and its samples; raises UsersError or WeightsError."""
    found = find_model(folder)
    classifier = load_classifier(found, load_saved_backbone(found))
    try:
        samples = read_samples(found / SAMPLES_FILE)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsersError(
            f"{shown(found / SAMPLES_FILE)} is missing or damaged ({error}): restore it, or train again"
        ) from error
    return SavedModel(found, classifier, samples)


def save_model(
    classifier: Classifier, samples: Sequence[Sample], folder: Path, backbone_file: Path | None = None
) -> None:
    """Writes a model to a temporary folder and then moves it into place, so that it is never incomplete.

    Files that people have put next to the earlier model, such as an export, are kept. So is a link to the folder.
    """
    folder = folder.resolve()
    part = _aside(folder, "part")
    try:
        classifier.save(part, backbone_file=backbone_file)
        write_samples(part / SAMPLES_FILE, samples)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)  # it is large, and the disk may be full
        raise
    if folder.exists():
        old = _aside(folder, "old")
        folder.rename(old)
        os.replace(part, folder)
        for path in old.iterdir():
            if not os.path.lexists(folder / path.name):
                path.rename(folder / path.name)
        shutil.rmtree(old)
    else:
        os.replace(part, folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from replacing the model from before it is read until it is saved; raises UsersError."""
    try:
        with FileLock(lock_of(folder), timeout=0):
            yield
    except Timeout:
        raise UsersError(
            f"another process is changing {shown(folder)}: wait until it is done, then run the command again"
        ) from None


def lock_of(folder: Path) -> Path:
    """The file that a process locks to change the model in the folder."""
    real = folder.resolve()
    return real.parent / f".{real.name}.lock"


def _aside(folder: Path, kind: str) -> Path:
    aside = folder.parent / f".{folder.name}.{kind}"
    shutil.rmtree(aside, ignore_errors=True)
    return aside
