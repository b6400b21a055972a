"""Retraining a saved model with one corrected image."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from image_classifier.cli.console import say, show_progress
from image_classifier.cli.environment import read_settings
from image_classifier.cli.workbench import open_bench
from image_classifier.data.dataset import Label, Sample, classes_of
from image_classifier.data.folders import Finding, read_files, shown
from image_classifier.data.image_file import ImageFile
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.samples import embed_samples
from image_classifier.errors import TooFewLabels, UsersError
from image_classifier.evaluation.evaluate import answers_of
from image_classifier.nets.classifier import BACKBONE_FILE, Backbone, Classifier
from image_classifier.nets.folder import load_model, save_model
from image_classifier.training.correction import correct
from image_classifier.training.labels import check_enough

NAMED = 5  # classes named in an error, those that lose most images first


def retrain_model(place: Path, img: Path, label: list[str], target: Path) -> bool:
    """Corrects the model in the folder `place` with one image, saves it in `target`, and prints how it changed.

    Tells whether it now predicts the label. Raises UsersError.
    """
    saved = load_model(place)
    classifier = saved.classifier
    said = _right_label(label, classifier)
    [file] = read_files([img])
    if isinstance(file, Finding):
        raise UsersError(str(file))
    corrected = Sample(file, said, str(img.absolute()))
    # Several threads would only slow down such small steps.
    torch.set_num_threads(1)
    with open_bench(read_settings()) as bench:
        started = time.monotonic()
        others = [sample for sample in saved.samples if sample.image.digest != file.digest]
        known = _still_there(bench.cache, classifier.backbone, others)
        _refuse_to_forget(others, known, corrected)
        with show_progress() as progress:
            embedded = embed_samples(bench.lane, classifier.backbone, [*known, corrected], progress)
        if embedded.broken:
            raise UsersError("; ".join(f"{shown(sample.image.path)}: {why}" for sample, why in embedded.broken.items()))
        if lost := len(others) - len(known):
            say(
                f"{lost} of {len(others)} known images are neither in the cache nor in their original place: the model "
                "is retrained without them"
            )
        done = correct(classifier, embedded.samples, embedded.embeddings, corrected)
    save_model(done.classifier, embedded.samples, target, place / BACKBONE_FILE)
    for when, one, accuracy in (
        ("before", classifier, done.accuracy_before),
        ("after", done.classifier, done.accuracy_after),
    ):
        [(answer, confidence)] = answers_of(one, one.head(embedded.embeddings[-1:]))
        measured = f"{accuracy:.4f} on {done.held_out} images" if done.held_out else "unknown: no images are held out"
        print(f"{when}\t{shown(answer)}\t{confidence:.4f}\theld-out accuracy {measured}")
    say(f"Retrained {shown(target)} in {time.monotonic() - started:.1f} s")
    if not done.learned:
        say(f"It still doesn't predict {shown(' + '.join(label))}: similar images may have another label.")
    return done.learned


def _right_label(label: list[str], classifier: Classifier) -> Label:
    unknown = [name for name in label if name not in classifier.classes]
    if unknown:
        classes = ", ".join(map(shown, classifier.classes))
        raise UsersError(
            f"the model has no class {shown(', '.join(unknown))}, only {classes}: use `train` to add a class"
        )
    if classifier.head.multiple:
        return frozenset(label)
    if len(label) > 1:
        raise UsersError("this model predicts one class per image: pass --label once")
    return label[0]


def _still_there(cache: EmbeddingCache, backbone: Backbone, samples: Sequence[Sample]) -> list[Sample]:
    """The samples whose embedding is cached or whose file hasn't changed."""
    cached = cache.get(backbone.fingerprint, [sample.image.digest for sample in samples])
    others = [sample for sample in samples if sample.image.digest not in cached]
    unchanged = {
        sample.image.digest
        for sample, file in zip(others, read_files([sample.image.path for sample in others]), strict=True)
        if isinstance(file, ImageFile) and file.digest == sample.image.digest
    }
    return [sample for sample in samples if sample.image.digest in cached or sample.image.digest in unchanged]


def _refuse_to_forget(known: Sequence[Sample], left: Sequence[Sample], corrected: Sample) -> None:
    """Raises UsersError if too few of the `known` samples are `left` to train the model on again.

    That is the case if a class has lost more than half of its images, or if too few images are left in total. Losing
    fewer is fine: somebody may have deleted bad images.
    """
    before, after = _images_of_classes(known), _images_of_classes(left)
    lost = {name: count - after[name] for name, count in before.items() if after[name] < count}
    if not lost or (all(2 * count <= before[name] for name, count in lost.items()) and _enough([*left, corrected])):
        return
    there = {sample.image.digest for sample in left}
    gone = next((sample.name for sample in known if sample.name and sample.image.digest not in there), "")
    example = shown(gone) if Path(gone).is_absolute() else f"task {shown(gone)}"  # in a version of the backend
    most = sorted(lost, key=lambda name: -lost[name] / before[name])
    named = [f"{lost[name]} of {before[name]} images of {shown(name)}" for name in most[:NAMED]]
    if len(most) > NAMED:
        named.append(f"images of {len(most) - NAMED} more classes")
    raise UsersError(
        f"retraining would lose what the model has learned, because {', '.join(named)} (such as {example}) are "
        "neither in the cache nor in their original place: restore them, set CACHE_DIR to the cache that has them, or "
        "train again"
    )


def _images_of_classes(samples: Sequence[Sample]) -> Counter[str]:
    """The number of images of each class; if the model predicts several classes, also of images without any."""
    return Counter(name for sample in samples for name in classes_of(sample.label) or ["no class"])


def _enough(samples: Sequence[Sample]) -> bool:
    try:
        check_enough(samples)
    except TooFewLabels:
        return False
    return True
