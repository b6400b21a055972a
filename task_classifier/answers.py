"""A classifier's probabilities → answers in the choices that a task offers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from image_classifier.evaluation.predict import ChoiceProbabilities, choose
from image_classifier.nets.classifier import Classifier
from image_classifier.settings import Score
from label_studio_format.labeling_config import ImageChoices, Json


def choice_probabilities(classifier: Classifier, tag: ImageChoices, embeddings: Tensor) -> ChoiceProbabilities:
    """The choices of the tag that the classifier knows, and their probabilities for each image."""
    return choose(classifier, tag.name_of, multiple=tag.multiple, embeddings=embeddings)


def known_choices(classifier: Classifier, tag: ImageChoices) -> Sequence[str]:
    """The choices of the tag that the classifier knows."""
    return choice_probabilities(classifier, tag, classifier.head.weight[:0]).names


def _by_choices(tag: ImageChoices, tasks: Sequence[Json]) -> dict[ImageChoices, list[int]]:
    """The positions of tasks by the choices that they offer; several groups only if tasks have their own choices."""
    groups: dict[ImageChoices, list[int]] = {}
    for position, task in enumerate(tasks):
        groups.setdefault(tag.for_task(task["data"]), []).append(position)
    return groups


def predictions(
    classifier: Classifier, tag: ImageChoices, tasks: Sequence[Json], embeddings: Tensor, score: Score
) -> list[Json | list[Any]]:
    """For each task, in order, a prediction; `[]` if the predicted class isn't one of the task's choices."""
    results: list[Json | list[Any]] = [[] for _ in tasks]
    for task_tag, rows in _by_choices(tag, tasks).items():
        found = choice_probabilities(classifier, task_tag, embeddings[rows])
        if found.names:
            for row, (names, sure) in zip(rows, found.chosen(score), strict=True):
                results[row] = task_tag.prediction(names, sure) if names else []
    return results


def doubt(classifier: Classifier, tag: ImageChoices, tasks: Sequence[Json], embeddings: Tensor) -> Tensor:
    """How unsure the classifier is about each task, 0 to 1; 1 if it knows none of the task's choices."""
    doubts = torch.zeros(len(tasks))
    for task_tag, rows in _by_choices(tag, tasks).items():
        found = choice_probabilities(classifier, task_tag, embeddings[rows])
        doubts[rows] = found.doubt() if found.names else 1.0
    return doubts


def classified(found: ChoiceProbabilities) -> Json:
    """One image's prediction in the form that `classify` returns."""
    if not found.names:
        return {"error": "the model knows none of the labeling config's choices"}
    [(chosen, confidence)] = found.chosen("probability")
    probabilities = found.probabilities[0].clamp(0, 1).tolist()
    scores = sorted(zip(found.names, probabilities, strict=True), key=lambda pair: -pair[1])
    return {
        "prediction": chosen if found.thresholds is not None else chosen[0],
        "confidence": confidence,
        "scores": {name: round(probability, 4) for name, probability in scores},
    }


def best_choices(probabilities: Tensor) -> Tensor:
    """The highest probability of each row, and its column [rows, 2]: all of many images would take gigabytes."""
    highest = probabilities.max(1)
    return torch.stack([highest.values, highest.indices.to(highest.values.dtype)], 1)
