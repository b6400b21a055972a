"""What the answers of several endpoints say about a project's images, and how far they are collected."""

from typing import Literal

from my_backend.labeling.pool.all_projects import Collected
from my_backend.projects.project import Project
from my_backend.serving.live_models import Serving
from my_backend.web.api.responses import ModelVersion
from my_backend.web.bodies import Json


class ProjectImages(ModelVersion):
    """How many images there are, and how many are collected."""

    state: Literal["collecting", "ready", "failed"]
    """Whether the images are still being collected, are ready, or couldn't be collected."""

    error: str | None
    """Why collecting stopped; null if it didn't."""

    tasks: int
    """The number of the project's tasks."""

    collected: int
    """How many of these have been read."""

    unreadable: int
    """How many of these have an image that can't be read."""

    labeled: int
    """The number of tasks that have a label."""

    unlabeled: int
    """The number of tasks without a label."""

    choices: list[str]
    """The choices of the labeling config."""

    first_guess: bool
    """Whether the model's predictions are a first guess, not learned from labels."""


def project_images(serving: Serving, project: Project, found: Collected) -> Json:
    """The fields of `ProjectImages`."""
    return {
        "state": "failed" if found.error else "ready" if found.ready else "collecting",
        "error": found.error or None,
        **found.counts,
        "labeled": found.labeled,
        "unlabeled": max(0, found.counts["tasks"] - found.labeled),
        "choices": list(found.tag.choices),
        "first_guess": serving.is_first_guess(project.uid),
        "model_version": serving.version_name(project.uid),
    }
