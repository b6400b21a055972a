"""Makes a classifier from labeled images: trains its heads on cached embeddings, and evaluates and calibrates them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from image_classifier.data.dataset import Sample, folds, held_out, is_split, may_be_held_out, targets_of
from image_classifier.embedding.lane import InferenceLane
from image_classifier.embedding.samples import EmbeddedSamples, embed_samples
from image_classifier.evaluation.metrics import brier_score, fit_temperature
from image_classifier.first_guess.guess import calibrated, logits_of, with_others
from image_classifier.nets.classifier import FINE_TUNED, Backbone, Classifier, Head, Mistake
from image_classifier.progress import Progress
from image_classifier.training.cross_validation import splits
from image_classifier.training.figures import CROSS_VALIDATION, UnseenLogits, figures_of, forecast_of, mistakes_of
from image_classifier.training.half_precision import settle_before_embedding
from image_classifier.training.head import imbalance, train_heads, usual_temperature
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.labels import LabeledEmbeddings, check_enough, count_labels, label_weights

# More than this share of the images must be of classes that the heads of cross-validation have learned. These heads are
# always wrong about the others, although the version has learned their classes.
MEASURABLE_SHARE = 0.5


def embed(lane: InferenceLane, backbone: Backbone, samples: Sequence[Sample], progress: Progress) -> EmbeddedSamples:
    """Embeds samples in the background, and finds near-duplicates.

    Raises TooFewLabels for too few readable images.
    """
    settle_before_embedding(lane, backbone, samples)
    embedded = embed_samples(lane, backbone, samples, progress, background=True)
    check_enough(embedded.samples)
    return embedded


@dataclass(frozen=True)
class _Heads:
    """The served head, one that was trained without the held-out images [n], and those of cross-validation.

    `by_fold` has, for each fold, its images [n], the images that its head has learned [n], and the head.
    """

    served: Head
    for_evaluation: Head
    learned_for_evaluation: Tensor
    by_fold: Sequence[tuple[Tensor, Tensor, Head]]


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
    samples = embedded.samples
    targets = targets_of([sample.label for sample in samples], classes)
    labeled = LabeledEmbeddings(samples, embedded.embeddings, targets, classes)
    heads = _train_all(labeled, hyperparameters, progress, backbone.scales(embedded.embeddings.shape[1]))
    unseen = _evaluate(labeled, heads, backbone)
    could_be_right = (unseen.known | ~labeled.has()).all(1)
    fair = unseen.evaluated & could_be_right
    # The usual temperature was measured with networks that weren't trained on the images; others may need another one.
    uneven = 0.0 if labeled.multiple else imbalance(labeled.has().sum(0))
    usual = None if backbone.origin == FINE_TUNED and fair.any() else usual_temperature(len(samples), uneven)
    temperature = fit_temperature(unseen.logits[fair], targets[fair], labeled.votes(fair), usual)
    if guess and (kept := _calibrated_guess(guess, labeled, unseen)):
        return _with_figures(kept, labeled, unseen, hyperparameters)
    calibrated_logits = replace(unseen, logits=unseen.logits / temperature)
    figures: dict[str, Any] = {"judged_by": unseen.method}
    if _are_measurable(could_be_right[unseen.evaluated]):
        figures = figures_of(labeled, calibrated_logits)
        if unseen.method == CROSS_VALIDATION and (
            forecast := forecast_of(labeled, unseen, figures, backbone, hyperparameters, earlier)
        ):
            figures["forecast"] = forecast
        progress({"phase": "evaluating", "accuracy": figures["accuracy"]})
    record = {"figures": figures, **count_labels(samples, classes), "settings": hyperparameters.record()}
    served, for_evaluation = (
        replace(head, temperature=temperature, thresholds=labeled.thresholds)
        for head in (heads.served, heads.for_evaluation)
    )
    mistakes: tuple[Mistake, ...] = ()
    if _are_measurable(could_be_right):
        learned = ~torch.tensor(may_be_held_out(samples)) & (backbone.origin == FINE_TUNED)
        mistakes = mistakes_of(labeled, calibrated_logits, learned)
    return Classifier(backbone, served, for_evaluation, classes, record, mistakes)


def _train_all(
    labeled: LabeledEmbeddings, hyperparameters: Hyperparameters, progress: Progress, scales: Tensor | None
) -> _Heads:
    samples = labeled.samples
    out, everything = torch.tensor(held_out(samples)), torch.ones(len(samples), dtype=torch.bool)
    looked_at = labeled.looked_at
    teaching = looked_at if (looked_at & ~out).any() else everything
    by_fold = splits(torch.tensor(folds(samples, labeled.fold_count)), teaching)
    parts = [part.nonzero().flatten() for part in (everything, teaching & ~out, *(others for _, others in by_fold))]
    # The served head learns more than the others if some labels haven't been looked at: then it has its own batches.
    together = [parts] if teaching.all() else [parts[:1], parts[1:]]
    given = labeled.embeddings, labeled.targets, len(labeled.classes), hyperparameters, progress
    weights = label_weights(samples)
    served, for_evaluation, *others = (
        head for some in together for head in train_heads(*given, some, weights=weights, scales=scales)
    )
    of_folds = [(*split, head) for split, head in zip(by_fold, others, strict=True)]
    return _Heads(served, for_evaluation, teaching & ~out, of_folds)


def _evaluate(labeled: LabeledEmbeddings, heads: _Heads, backbone: Backbone) -> UnseenLogits:
    samples, embeddings, has = labeled.samples, labeled.embeddings, labeled.has()
    # These logits stay for images that no other head evaluates, as if all are near-duplicates.
    logits, known_for_evaluation = heads.for_evaluation(embeddings), has[heads.learned_for_evaluation].any(0)
    known = known_for_evaluation.repeat(len(samples), 1)
    method, evaluated = CROSS_VALIDATION, torch.zeros(len(samples), dtype=torch.bool)
    for inside, others, head in heads.by_fold:
        logits[inside], known[inside], evaluated[inside] = head(embeddings[inside]), has[others].any(0), True
    out = torch.tensor(held_out(samples))
    if backbone.origin == FINE_TUNED or (is_split(samples) and out.any()):
        method, evaluated = "held-out images", out
        logits[out], known[out] = heads.for_evaluation(embeddings[out]), known_for_evaluation
    return UnseenLogits(method, evaluated & labeled.looked_at, logits, known, labeled.share)


def _calibrated_guess(guess: Classifier, labeled: LabeledEmbeddings, unseen: UnseenLogits) -> Classifier | None:
    """The first guess, if its probabilities are closer to the labels than those of the heads; else None."""
    evaluated = unseen.evaluated
    if labeled.multiple or not evaluated.any():
        return None
    labels = [str(labeled.samples[row].label) for row in evaluated.nonzero().flatten().tolist()]
    logits, targets, votes = unseen.logits[evaluated], labeled.targets[evaluated], labeled.votes(evaluated)
    to_beat = brier_score(logits / fit_temperature(logits, targets, votes), targets, votes)
    return calibrated(guess, labeled.embeddings[evaluated], labels, votes, to_beat)


def _are_measurable(could_be_right: Tensor) -> bool:
    return len(could_be_right) > 0 and bool(could_be_right.float().mean() > MEASURABLE_SHARE)


def _with_figures(
    guess: Classifier, labeled: LabeledEmbeddings, unseen: UnseenLogits, hyperparameters: Hyperparameters
) -> Classifier:
    """A calibrated first guess with its figures on the evaluated images; it has learned no label."""
    samples = labeled.samples
    labels = [sample.label for sample in samples]
    classes = with_others(guess.classes, [str(label) for label in labels])
    labeled = replace(labeled, targets=targets_of(labels, classes), classes=classes)
    logits = logits_of(guess, labeled.embeddings, classes)
    of_guess = replace(unseen, logits=logits, known=torch.ones_like(logits, dtype=torch.bool), learned_share=1)
    figures, none_learned = figures_of(labeled, of_guess), torch.zeros(len(samples), dtype=torch.bool)
    record = {"figures": figures, **count_labels(samples, classes), "settings": hyperparameters.record()}
    return replace(guess, record=record, mistakes=mistakes_of(labeled, of_guess, none_learned))
