"""The labeled images that a command reads."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from image_classifier.cli.console import say, say_all, show_progress
from image_classifier.cli.label_studio_export import read_export
from image_classifier.cli.recipe import Recipe
from image_classifier.data.dataset import Sample, classes_of
from image_classifier.data.file_kinds import describe_skipped
from image_classifier.data.folders import (
    Split,
    differing_only_in_case,
    find_split,
    list_folder,
    refuse_other_names,
    samples_of,
    shown,
)
from image_classifier.errors import UsersError
from image_classifier.evaluation.evaluate import check_evaluable
from image_classifier.files import real
from image_classifier.settings import ClassifierSettings


def training_samples(recipe: Recipe, output: Path, settings: ClassifierSettings) -> list[Sample]:
    """The samples of a recipe, for a model in the folder `output`; raises UsersError."""
    path = recipe.data.path
    read = path.absolute(), (recipe.data.images or path).absolute(), recipe.network.weights
    refuse_other_names(*read, output)  # before the training, which may take hours
    if path.is_dir():
        if real(output).is_relative_to(real(path)):
            raise UsersError(
                f"{shown(output)} would become a class of {shown(path)}: choose an output folder outside it"
            )
        split = find_split(path)
    else:
        split = None
    samples = _split_samples(split) if split else samples_at(path, recipe.data.images, settings)
    multiple = any(not isinstance(sample.label, str) for sample in samples)
    counts = Counter(name for sample in samples for name in sorted(classes_of(sample.label)))
    if len(counts) < 2 and not multiple:
        only = f"only the class {shown(next(iter(counts)))}" if counts else "no class with images"
        raise UsersError(f"{shown(path)} has {only}: a classifier needs at least two classes")
    for name, count in counts.items():
        if count == 1:
            say(f"{shown(name)} has only one image: the model is trained on it, but can't be evaluated on this class")
    return samples


def testing_samples(path: Path, training: Sequence[Sample], settings: ClassifierSettings) -> list[Sample]:
    """The samples to evaluate a model of the `training` samples on; raises UsersError if it couldn't be evaluated."""
    samples = samples_at(path, None, settings)
    classes = sorted({name for sample in training for name in classes_of(sample.label)})
    multiple = any(not isinstance(sample.label, str) for sample in training)
    try:
        check_evaluable(samples, classes, multiple=multiple)  # before the training, which may take hours
    except UsersError as error:
        raise UsersError(f"{shown(path)}: {error}") from None
    return samples


def given_tests(path: Path) -> Path | None:
    """The folder of test images that comes with training images that are already split; None if there is none."""
    split = find_split(path) if path.is_dir() else None
    return split.test if split else None


def _split_samples(split: Split) -> list[Sample]:
    """The samples for training and for evaluation, each marked; an image in both is used for training only."""
    training = [replace(sample, part="train") for sample in _folder_samples(split.train)]
    known = {sample.image.digest for sample in training}
    validation = [replace(sample, part="val") for sample in _folder_samples(split.val)]
    kept = [sample for sample in validation if sample.image.digest not in known]
    if left_out := len(validation) - len(kept):
        say(f"{left_out} images of {shown(split.val)} are left out: {shown(split.train)} has them too")
    return [*training, *kept]


def samples_at(path: Path, images: Path | None, settings: ClassifierSettings) -> list[Sample]:
    """The samples in a folder of class folders, or in a JSON export whose images are in the folder `images`."""
    if not path.is_file():
        if images:
            raise UsersError("--images is only for a JSON export: remove it, since a folder already has the images")
        return _folder_samples(path)
    with show_progress() as progress:
        samples, left_out = read_export(path, images or path.parent, settings.choices, progress)
    say_all(left_out, "fix these tasks, or remove them from the export")
    classes = sorted({name for sample in samples for name in classes_of(sample.label)})
    if note := differing_only_in_case(classes, "use one spelling in Label Studio"):
        say(note)
    return samples


def _folder_samples(folder: Path) -> list[Sample]:
    listing = list_folder(folder)
    with show_progress() as progress:
        samples = samples_of(listing, progress)
    say_all(listing.findings, f"`prepare {shown(folder)}` lists them all")
    say_skipped(listing.skipped)
    if listing.note:
        say(listing.note)
    return samples


def say_skipped(skipped: Counter[str]) -> None:
    """Prints which other files were in a folder of images."""
    if skipped:
        say(describe_skipped(skipped))
