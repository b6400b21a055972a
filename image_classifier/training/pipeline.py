"""Makes a classifier from labeled images: the head, trained on cached embeddings, and its metrics."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from image_classifier.data.dataset import (
    FOLDS,
    Label,
    LabelSource,
    Sample,
    classes_of,
    folds,
    held_out,
    is_split,
    may_be_held_out,
    targets_of,
)
from image_classifier.embedding.lane import InferenceLane
from image_classifier.embedding.samples import EmbeddedSamples, embed_samples
from image_classifier.evaluation.forecast import grown, with_all_labels
from image_classifier.evaluation.metrics import (
    THRESHOLD,
    brier_score,
    confidence_of_mistakes,
    evaluate,
    fit_temperature,
    hits,
    predicted_targets,
)
from image_classifier.evaluation.wrong_labels import probability_of_labels
from image_classifier.first_guess.guess import calibrated, logits_of, with_others
from image_classifier.nets.classifier import FINE_TUNED, Backbone, Classifier, Head, Mistake
from image_classifier.progress import Progress
from image_classifier.training.cross_validation import splits
from image_classifier.training.half_precision import settle_before_embedding
from image_classifier.training.head import train_heads
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.learning_curve import forecast_accuracy

log = logging.getLogger(__name__)

MIN_IMAGES = 4
MIN_CLASSES = 2
# More than this share of the images must be of classes that the heads of cross-validation have learned. These heads are
# always wrong about the others, although the version has learned their classes.
MEASURABLE_SHARE = 0.5
UNTEMPERED = 100  # labels with which a head usually needs no temperature
MAX_MISTAKES = 5000  # that are kept, about a megabyte
# Cross-validation divides fewer images than this into ten folds: a head that learns nine tenths of few labels is closer
# to the served head than one that learns four fifths. With more, both are close to it, and ten heads take too long.
FEWEST_IN_FIVE_FOLDS = 1000
FORECAST_AGAIN = 1.2  # times as many labels as at the last forecast
# How much a label that nobody has looked at counts in the head's training: accepted predictions are often right, but
# at full weight, the head would mostly learn its own answers.
UNSEEN_WEIGHT = 0.3
FEWEST_GROUND_TRUTHS = 20  # with fewer, the accuracy on the user's test set says too little to be shown
FEWEST_DRAWN = 10  # with fewer images drawn at random, the accuracy on all labeled images says more
CROSS_VALIDATION, OF_SAMPLE = "cross-validation", "cross-validation on a random sample"
INTERVAL = ("accuracy", "accuracy_low", "accuracy_high")
OF_A_PART = ("images", "groups", *INTERVAL)


class TooFewLabels(ValueError):
    """There are too few labels to train on; the message says what is missing."""


def embed(lane: InferenceLane, backbone: Backbone, samples: Sequence[Sample], progress: Progress) -> EmbeddedSamples:
    """Embeds samples in the background, and finds near-duplicates.

    Raises TooFewLabels for too few readable images.
    """
    settle_before_embedding(lane, backbone, samples)
    embedded = embed_samples(lane, backbone, samples, progress, background=True)
    check_enough(embedded.samples)
    return embedded


def check_enough(samples: Sequence[Sample]) -> None:
    """Raises TooFewLabels if there are too few labels to tell any class from another.

    One image of a class is enough: the first images to label are diverse, so few classes have two of them.
    """
    counts = Counter(name for sample in samples for name in classes_of(sample.label))
    multiple = any(not isinstance(sample.label, str) for sample in samples)
    # What all images have cannot be told from what none has.
    learnable = [name for name, count in counts.items() if not multiple or count < len(samples)]
    if len(samples) >= MIN_IMAGES and len(learnable) >= (1 if multiple else MIN_CLASSES):
        return
    at_least = f"with at least {MIN_CLASSES} different choices"
    wanted = "some of them with a choice that others don't have" if multiple else at_least
    have = ", ".join(f"{count} × {name}" for name, count in counts.items()) or "none"
    raise TooFewLabels(
        f"Too few labels to train on: label at least {MIN_IMAGES} images, {wanted} (labeled so far: {have})."
    )


def order_classes(samples: Sequence[Sample], known: Sequence[str], preferred: Sequence[str]) -> tuple[str, ...]:
    """The classes of the samples: known ones keep their places, new ones follow in the preferred order."""
    learned = {name for sample in samples for name in classes_of(sample.label)}
    ordered = [*known, *preferred, *sorted(learned)]
    return tuple(name for name in dict.fromkeys(ordered) if name in learned)


@dataclass(frozen=True)
class _Labeled:
    """What heads learn: samples, their embeddings [n, size], and their targets among the classes."""

    samples: Sequence[Sample]
    embeddings: Tensor
    targets: Tensor
    classes: tuple[str, ...]

    @property
    def multiple(self) -> bool:
        """Whether several classes may be right at once."""
        return self.targets.is_floating_point()

    @property
    def looked_at(self) -> Tensor:
        """Which labels a person has looked at [n]. The others come from a model, which had learned from these."""
        return torch.tensor([sample.evaluates for sample in self.samples])

    @property
    def fold_count(self) -> int:
        return 10 if int(self.looked_at.sum()) < FEWEST_IN_FIVE_FOLDS else FOLDS

    @property
    def share(self) -> float:
        """The share of the labels, from 0 to 1, that each head in cross-validation learns."""
        return 1 - 1 / self.fold_count

    def has(self) -> Tensor:
        """Which classes each image has [n, classes]."""
        return self.targets.bool() if self.multiple else one_hot(self.targets, len(self.classes)).bool()


@dataclass(frozen=True)
class _Heads:
    """The served head, one that was trained without the held-out images [n], and those of cross-validation.

    `by_fold` has, for each fold, its images [n], the images that its head has learned [n], and the head.
    """

    served: Head
    judged: Head
    learned_by_judged: Tensor
    by_fold: Sequence[tuple[Tensor, Tensor, Head]]


@dataclass(frozen=True)
class _Evaluation:
    """Logits [n, classes] of the images by heads that haven't learned them, and which classes these heads know.

    They are valid for the images `seen` [n]; `method` says how they came about.
    """

    method: str
    seen: Tensor
    logits: Tensor
    known: Tensor


def learn_head(
    backbone: Backbone,
    embedded: EmbeddedSamples,
    classes: tuple[str, ...],
    hyperparameters: Hyperparameters,
    progress: Progress,
    earlier: Classifier | None = None,
    guess: Classifier | None = None,
) -> Classifier:
    """Two heads: one without the held-out images, for comparisons; one on all, so that every label counts.

    The metrics are computed on images that neither the head nor the backbone has seen: all of them, by
    cross-validation, or the held-out ones if somebody has chosen these or the backbone was trained on the others. On
    these the probabilities are calibrated too. Cross-validation also shows what accuracy to expect on new images, now
    and with more labels. Labels that nobody has looked at don't count in the metrics, and only the served head learns
    them. The mistakes are looked for among all images, each evaluated by a head fitted without it. The forecast
    of an `earlier` version stays until there are a fifth more labels, so that a correction needn't wait for a new one,
    unless the network has changed or the accuracy has clearly changed.

    A first `guess` is returned instead, with its own calibration, as long as its probabilities are closer to the labels
    than those of heads that haven't seen the images.
    """
    samples, embeddings = embedded.samples, embedded.embeddings
    labeled = _Labeled(samples, embeddings, targets_of([sample.label for sample in samples], classes), classes)
    targets = labeled.targets
    scales = backbone.scales(embeddings.shape[1])
    heads = _train_all(labeled, hyperparameters, progress, scales)
    evaluation = _evaluated(labeled, heads, backbone)
    seen, known = evaluation.seen, evaluation.known
    could_be_right = (known | ~labeled.has()).all(1)
    fair = seen & could_be_right
    # The usual temperature was measured with networks that weren't trained on the images; others may need another one.
    usual = None if backbone.origin == FINE_TUNED and fair.any() else usual_temperature(len(samples))
    temperature = fit_temperature(evaluation.logits[fair], targets[fair], _votes(samples, fair), usual)
    logits = evaluation.logits / temperature
    thresholds = (THRESHOLD,) * len(classes) if labeled.multiple else ()
    if guess and not thresholds and seen.any() and (kept := _calibrated_guess(guess, labeled, evaluation)):
        return _with_figures(kept, labeled, evaluation, hyperparameters)
    figures: dict[str, Any] = {"judged_by": evaluation.method}
    if _are_measurable(could_be_right[seen]):
        figures = _figures(samples, logits, targets, seen, classes, thresholds, evaluation.method, labeled.share, known)
        if evaluation.method == CROSS_VALIDATION:
            right = hits(evaluation.logits[seen], targets[seen], thresholds)
            drawn = _random_sample(samples, seen)
            if still := _forecast_of(earlier, backbone, classes, len(right), figures, is_of_sample=drawn is not None):
                figures["forecast"] = still
            elif expected := forecast_accuracy(
                embeddings[seen],
                targets[seen],
                len(classes),
                hyperparameters,
                torch.tensor(folds(samples))[seen],
                right,
                _votes(samples, seen),
                labeled.share,
                thresholds,
                scales,
                None if drawn is None else drawn[seen],
            ):
                figures["forecast"] = expected.record()
        progress({"phase": "evaluating", "accuracy": figures["accuracy"]})
    record = {"figures": figures, **count_labels(samples, classes), "settings": hyperparameters.record()}
    served, judged = (
        replace(head, temperature=temperature, thresholds=thresholds) for head in (heads.served, heads.judged)
    )
    mistakes: tuple[Mistake, ...] = ()
    if _are_measurable(could_be_right):
        learned = ~torch.tensor(may_be_held_out(samples)) & (backbone.origin == FINE_TUNED)
        mistakes = _mistakes(samples, embeddings, logits, targets, learned, classes, thresholds)
    return Classifier(backbone, served, judged, classes, record, mistakes)


def _train_all(
    labeled: _Labeled, hyperparameters: Hyperparameters, progress: Progress, scales: Tensor | None
) -> _Heads:
    samples = labeled.samples
    out, everything = torch.tensor(held_out(samples)), torch.ones(len(samples), dtype=torch.bool)
    looked_at = labeled.looked_at
    teaching = looked_at if (looked_at & ~out).any() else everything
    by_fold = splits(torch.tensor(folds(samples, labeled.fold_count)), teaching)
    parts = [part.nonzero().flatten() for part in (everything, teaching & ~out, *(others for _, others in by_fold))]
    # The served head learns more than the others if some labels haven't been looked at: then it has its own batches.
    together = [parts] if teaching.all() else [parts[:1], parts[1:]]
    taught = labeled.embeddings, labeled.targets, len(labeled.classes), hyperparameters, progress
    weights = label_weights(samples)
    served, judged, *others = (
        head for some in together for head in train_heads(*taught, some, weights=weights, scales=scales)
    )
    of_folds = [(*split, head) for split, head in zip(by_fold, others, strict=True)]
    return _Heads(served, judged, teaching & ~out, of_folds)


def _evaluated(labeled: _Labeled, heads: _Heads, backbone: Backbone) -> _Evaluation:
    samples, embeddings, has = labeled.samples, labeled.embeddings, labeled.has()
    # These logits stay for images that no other head evaluates, as if all are near-duplicates.
    logits, known_to_judged = heads.judged(embeddings), has[heads.learned_by_judged].any(0)
    known = known_to_judged.repeat(len(samples), 1)
    method, seen = CROSS_VALIDATION, torch.zeros(len(samples), dtype=torch.bool)
    for inside, others, head in heads.by_fold:
        logits[inside], known[inside], seen[inside] = head(embeddings[inside]), has[others].any(0), True
    out = torch.tensor(held_out(samples))
    if backbone.origin == FINE_TUNED or (is_split(samples) and out.any()):
        method, seen = "held-out images", out
        logits[out], known[out] = heads.judged(embeddings[out]), known_to_judged
    return _Evaluation(method, seen & labeled.looked_at, logits, known)


def _calibrated_guess(guess: Classifier, labeled: _Labeled, evaluation: _Evaluation) -> Classifier | None:
    """The first guess, if its probabilities are closer to the labels than those of the heads."""
    seen = evaluation.seen
    labels = [str(labeled.samples[row].label) for row in seen.nonzero().flatten().tolist()]
    logits, targets, votes = evaluation.logits[seen], labeled.targets[seen], _votes(labeled.samples, seen)
    to_beat = brier_score(logits / fit_temperature(logits, targets, votes), targets, votes)
    return calibrated(guess, labeled.embeddings[seen], labels, votes, to_beat)


def _are_measurable(could_be_right: Tensor) -> bool:
    return len(could_be_right) > 0 and bool(could_be_right.float().mean() > MEASURABLE_SHARE)


def usual_temperature(labels: int) -> float:
    """The temperature that a head with so many labels usually needs: the fewer, the more overconfident it is."""
    return float(max(1.0, (UNTEMPERED / labels) ** 0.4))


def _with_figures(
    guess: Classifier, labeled: _Labeled, evaluation: _Evaluation, hyperparameters: Hyperparameters
) -> Classifier:
    """A calibrated first guess with its figures on the images seen in the evaluation; it has learned no label."""
    samples, embeddings = labeled.samples, labeled.embeddings
    labels = [sample.label for sample in samples]
    classes = with_others(guess.classes, [str(label) for label in labels])
    logits, targets = logits_of(guess, embeddings, classes), targets_of(labels, classes)
    figures = _figures(samples, logits, targets, evaluation.seen, classes, (), evaluation.method, 1)
    record = {"figures": figures, **count_labels(samples, classes), "settings": hyperparameters.record()}
    mistakes = _mistakes(samples, embeddings, logits, targets, torch.zeros(len(samples), dtype=torch.bool), classes, ())
    return replace(guess, record=record, mistakes=mistakes)


def _forecast_of(
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


def count_labels(samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """The parts of a classifier's record that say how many labels it has learned, by class and by source."""
    return counts_of([sample.label for sample in samples], [sample.source for sample in samples], classes)


def counts_of(
    labels: Iterable[Label], sources: Iterable[LabelSource], classes: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Like `count_labels`, for labels and sources of which there may be many."""
    counted: Counter[str] = Counter()
    for label, count in Counter(labels).items():
        counted.update(dict.fromkeys(classes_of(label), count))
    by_source = Counter(sources)
    return {
        "labels": {name: counted[name] for name in classes},
        "sources": {source: by_source[source] for source in get_args(LabelSource)},
    }


def label_weights(samples: Sequence[Sample]) -> Tensor:
    """How much each label counts in the head's training [n]."""
    return torch.tensor([1.0 if sample.evaluates else UNSEEN_WEIGHT for sample in samples])


def _figures(
    samples: Sequence[Sample],
    logits: Tensor,
    targets: Tensor,
    seen: Tensor,
    classes: Sequence[str],
    thresholds: Sequence[float],
    method: str,
    share: float,
    known: Tensor | None = None,
) -> dict[str, Any]:
    """The figures of calibrated logits [n, classes] on the images `seen` [n].

    `known` [n, classes] is as in `evaluate`. In cross-validation, heads have learned a `share` of the labels, and the
    version's all of them, so its accuracy and mean F1 are a little higher.
    The accuracy on the user's test set is added if that has enough of the images. If enough of them are a random sample
    of the project, the accuracy is that on the sample, since the others may have been chosen for being hard, and the
    one on all of them is added.
    """

    def on(part: Tensor) -> dict[str, Any]:
        known_of = None if known is None else known[part]
        found = evaluate(logits[part], targets[part], classes, thresholds, _votes(samples, part), known_of).record()
        if method == CROSS_VALIDATION:
            accuracy, low, high = (found[name] for name in INTERVAL)
            expected = with_all_labels(accuracy, low, high, share, len(samples))
            found |= dict(zip(INTERVAL, expected, strict=True)) | {"macro_f1": grown(found["macro_f1"], share)}
        return found

    figures = {"judged_by": method, **on(seen)}
    # The test set is trained on like other images, since Label Studio marks all imported annotations as ground truths;
    # each is evaluated with a head that was trained without it.
    truths = _part(samples, seen, [sample.ground_truth for sample in samples], FEWEST_GROUND_TRUTHS)
    if truths is not None:
        figures["ground_truth"] = {name: value for name, value in on(truths).items() if name in OF_A_PART}
    drawn = _random_sample(samples, seen) if method == CROSS_VALIDATION else None
    if drawn is not None:
        figures["all_labeled"] = {name: figures[name] for name in OF_A_PART}
        of_sample = on(drawn)
        figures |= {"judged_by": OF_SAMPLE, **{name: of_sample[name] for name in OF_A_PART}}
    return figures


def _random_sample(samples: Sequence[Sample], seen: Tensor) -> Tensor | None:
    """Which of the images `seen` [n] are a random sample of the project; None if they are too few, or all."""
    return _part(samples, seen, [sample.at_random for sample in samples], FEWEST_DRAWN)


def _votes(samples: Sequence[Sample], part: Tensor) -> list[str]:
    return [samples[row].vote for row in part.nonzero().flatten().tolist()]


def _part(samples: Sequence[Sample], seen: Tensor, members: Sequence[bool], fewest: int) -> Tensor | None:
    part = seen & torch.tensor(members)
    return None if len(set(_votes(samples, part))) < fewest or bool((part == seen).all()) else part


def _mistakes(
    samples: Sequence[Sample],
    embeddings: Tensor,
    logits: Tensor,
    targets: Tensor,
    learned: Tensor,
    classes: Sequence[str],
    thresholds: Sequence[float],
) -> tuple[Mistake, ...]:
    """The mistakes, least likely label first, from calibrated logits [n, classes] of heads that never saw the image.

    `learned` [n] tells on which images the backbone was trained.
    """
    answers = predicted_targets(logits, thresholds)
    sure = confidence_of_mistakes(logits, targets, thresholds)
    wrong = (sure > 0).nonzero().flatten()
    rows = wrong[sure[wrong].argsort(descending=True, stable=True)][:MAX_MISTAKES]
    votes = [sample.vote for sample in samples]
    looked_at = torch.tensor([sample.evaluates for sample in samples])
    voters = looked_at if looked_at.any() else torch.ones_like(looked_at)
    likely = probability_of_labels(logits, targets, embeddings, votes, voters, rows)
    order = likely.argsort(stable=True)
    return tuple(
        Mistake(
            samples[row].name,
            samples[row].image.digest,
            tuple(sorted(classes_of(samples[row].label))),
            tuple(sorted(_classes_of_answer(answers[row], classes))),
            round(float(sure[row]), 4),
            bool(learned[row]),
            round(right, 4),
        )
        for row, right in zip(rows[order].tolist(), likely[order].tolist(), strict=True)
    )


def _classes_of_answer(answer: Tensor, classes: Sequence[str]) -> frozenset[str]:
    numbers = answer.nonzero().flatten().tolist() if answer.is_floating_point() else [int(answer)]
    return frozenset(classes[number] for number in numbers)
