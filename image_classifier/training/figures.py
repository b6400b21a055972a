"""The figures of a classifier, its forecast and its mistakes, from logits of heads that haven't learned the images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from image_classifier.data.dataset import classes_of, folds
from image_classifier.evaluation.forecast import grown, with_all_labels
from image_classifier.evaluation.metrics import confidence_of_mistakes, evaluate, hits, predicted_targets
from image_classifier.evaluation.wrong_labels import probability_of_labels
from image_classifier.nets.classifier import Backbone, Classifier, Mistake
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.labels import LabeledEmbeddings
from image_classifier.training.learning_curve import EvaluatedImages, forecast_accuracy

MAX_MISTAKES = 5000  # that are kept, about a megabyte
FORECAST_AGAIN = 1.2  # times as many labels as at the last forecast
FEWEST_GROUND_TRUTHS = 20  # with fewer, the accuracy on the user's test set says too little to be shown
FEWEST_DRAWN = 10  # with fewer images drawn at random, the accuracy on all labeled images says more
CROSS_VALIDATION, OF_SAMPLE = "cross-validation", "cross-validation on a random sample"
INTERVAL = ("accuracy", "accuracy_low", "accuracy_high")
OF_A_PART = ("images", "groups", *INTERVAL)


@dataclass(frozen=True)
class UnseenLogits:
    """Logits [n, classes] of the images by heads that haven't learned them, and which classes these heads know.

    They are valid for the images `evaluated` [n]; `method` says how they came about. The heads have learned a
    `learned_share` (0 to 1) of the labels.
    """

    method: str
    evaluated: Tensor
    logits: Tensor
    known: Tensor
    learned_share: float


def figures_of(labeled: LabeledEmbeddings, calibrated: UnseenLogits) -> dict[str, Any]:
    """The figures of calibrated logits on the images that they evaluate.

    In cross-validation, heads have learned a share of the labels, and the version's all of them, so its accuracy and
    mean F1 are a little higher.
    The accuracy on the user's test set is added if that has enough of the images. If enough of them are a random sample
    of the project, the accuracy is that on the sample, since the others may have been chosen for being hard, and the
    one on all of them is added.
    """
    share = calibrated.learned_share

    def on(part: Tensor) -> dict[str, Any]:
        found = evaluate(
            calibrated.logits[part],
            labeled.targets[part],
            labeled.classes,
            labeled.thresholds,
            labeled.votes(part),
            calibrated.known[part],
        ).record()
        if calibrated.method == CROSS_VALIDATION:
            accuracy, low, high = (found[name] for name in INTERVAL)
            expected = with_all_labels(accuracy, low, high, share, len(labeled.samples))
            found |= dict(zip(INTERVAL, expected, strict=True)) | {"macro_f1": grown(found["macro_f1"], share)}
        return found

    figures = {"judged_by": calibrated.method, **on(calibrated.evaluated)}
    # The test set is trained on like other images, since Label Studio marks all imported annotations as ground truths;
    # each is evaluated with a head that was trained without it.
    truths = [sample.ground_truth for sample in labeled.samples]
    test_set = _part(labeled, calibrated.evaluated, truths, FEWEST_GROUND_TRUTHS)
    if test_set is not None:
        figures["ground_truth"] = {name: value for name, value in on(test_set).items() if name in OF_A_PART}
    drawn = _random_sample(labeled, calibrated.evaluated) if calibrated.method == CROSS_VALIDATION else None
    if drawn is not None:
        figures["all_labeled"] = {name: figures[name] for name in OF_A_PART}
        of_sample = on(drawn)
        figures |= {"judged_by": OF_SAMPLE, **{name: of_sample[name] for name in OF_A_PART}}
    return figures


def _random_sample(labeled: LabeledEmbeddings, evaluated: Tensor) -> Tensor | None:
    """Which of the images `evaluated` [n] are a random sample of the project; None if they are too few, or all."""
    return _part(labeled, evaluated, [sample.at_random for sample in labeled.samples], FEWEST_DRAWN)


def _part(labeled: LabeledEmbeddings, evaluated: Tensor, members: Sequence[bool], fewest: int) -> Tensor | None:
    part = evaluated & torch.tensor(members)
    return None if len(set(labeled.votes(part))) < fewest or bool((part == evaluated).all()) else part


def forecast_of(
    labeled: LabeledEmbeddings,
    unseen: UnseenLogits,
    figures: dict[str, Any],
    backbone: Backbone,
    hyperparameters: Hyperparameters,
    earlier: Classifier | None,
) -> Any:
    """The forecast's record, from cross-validation: the `earlier` version's if it still holds for these figures.

    None if there are too few images.
    """
    evaluated = unseen.evaluated
    drawn = _random_sample(labeled, evaluated)
    labels, is_of_sample = int(evaluated.sum()), drawn is not None
    if still := _earlier_forecast(earlier, backbone, labeled.classes, labels, figures, is_of_sample=is_of_sample):
        return still
    targets = labeled.targets[evaluated]
    images = EvaluatedImages(
        labeled.embeddings[evaluated],
        targets,
        torch.tensor(folds(labeled.samples))[evaluated],
        hits(unseen.logits[evaluated], targets, labeled.thresholds),
        labeled.votes(evaluated),
        None if drawn is None else drawn[evaluated],
    )
    scales = backbone.scales(labeled.embeddings.shape[1])
    found = forecast_accuracy(
        images, len(labeled.classes), hyperparameters, unseen.learned_share, labeled.thresholds, scales
    )
    return found.record() if found else None


def _earlier_forecast(
    earlier: Classifier | None,
    backbone: Backbone,
    classes: tuple[str, ...],
    labels: int,
    figures: dict[str, Any],
    *,
    is_of_sample: bool,
) -> Any:
    """The earlier version's forecast if it still holds for this number of labels and these figures; else None."""
    if earlier is None or earlier.classes != classes or earlier.backbone.original != backbone.original:
        return None
    found = earlier.record.get("figures", {}).get("forecast")
    if not found or found.get("random_sample", False) != is_of_sample:
        return None
    # The accuracy has clearly changed, for example because labels were corrected.
    if not figures["accuracy_low"] <= found["now"] <= figures["accuracy_high"]:
        return None
    return found if found["labels"] <= labels < FORECAST_AGAIN * found["labels"] else None


def mistakes_of(labeled: LabeledEmbeddings, calibrated: UnseenLogits, learned: Tensor) -> tuple[Mistake, ...]:
    """The mistakes among all images, least likely label first, from calibrated logits.

    `learned` [n] tells on which images the backbone was trained.
    """
    samples, logits, targets = labeled.samples, calibrated.logits, labeled.targets
    answers = predicted_targets(logits, labeled.thresholds)
    sure = confidence_of_mistakes(logits, targets, labeled.thresholds)
    wrong = (sure > 0).nonzero().flatten()
    rows = wrong[sure[wrong].argsort(descending=True, stable=True)][:MAX_MISTAKES]
    votes = [sample.vote for sample in samples]
    looked_at = labeled.looked_at
    voters = looked_at if looked_at.any() else torch.ones_like(looked_at)
    likely = probability_of_labels(logits, targets, labeled.embeddings, votes, voters, rows)
    order = likely.argsort(stable=True)
    return tuple(
        Mistake(
            samples[row].name,
            samples[row].image.digest,
            tuple(sorted(classes_of(samples[row].label))),
            tuple(sorted(_classes_of_answer(answers[row], labeled.classes))),
            round(float(sure[row]), 4),
            bool(learned[row]),
            round(right, 4),
        )
        for row, right in zip(rows[order].tolist(), likely[order].tolist(), strict=True)
    )


def _classes_of_answer(answer: Tensor, classes: Sequence[str]) -> frozenset[str]:
    numbers = answer.nonzero().flatten().tolist() if answer.is_floating_point() else [int(answer)]
    return frozenset(classes[number] for number in numbers)
