"""Projects of digits in the real Label Studio, and the versions that a backend makes of them."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testing.backend import Backend
from testing.digits import LABEL_CONFIG
from testing.label_studio import LabelStudio
from testing.waiting import wait_for

Digits = list[tuple[Path, str]]
Serve = Callable[..., Backend]


def live(backend: Backend, project: int) -> str:
    return str(backend.is_training(project)["model_version"])


def wait_for_new_version(backend: Backend, project: int, old: str) -> str:
    return str(wait_for(lambda: (name := live(backend, project)) != old and name, f"a version after {old}"))


def make_project(
    label_studio: LabelStudio, digits: Digits, annotated: int, others: int, config: str = LABEL_CONFIG
) -> tuple[int, dict[int, str], list[int]]:
    """A project, the true label of each task, and the unannotated tasks."""
    chosen = random.Random(0).sample(digits, annotated + others)
    project = label_studio.create_project("digits", config)
    labels: list[str | None] = [label if i < annotated else None for i, (_, label) in enumerate(chosen)]
    ids = label_studio.upload_images(project, [path for path, _ in chosen], labels)
    truth = {task: label for task, (_, label) in zip(ids, chosen, strict=True)}
    return project, truth, ids[annotated:]


def choice(prediction: dict[str, Any]) -> str:
    return str(prediction["result"][0]["value"]["choices"][0])
