"""What the answers of several endpoints say about a project's images, and how far they are collected."""

from typing import Literal

from my_backend.labeling.pools import Collected
from my_backend.projects.project import Project
from my_backend.serving.live_models import Serving
from my_backend.web.api.answers import ModelVersion
from my_backend.web.bodies import Json


class ProjectImages(ModelVersion):
    """How many images there are and how many are collected; `error` says why collecting stopped.

    `first_guess` says whether the model's answers aren't learned from labels.
    """

    state: Literal["collecting", "ready", "failed"]
    error: str | None
    tasks: int
    collected: int
    unreadable: int
    labeled: int
    unlabeled: int
    choices: list[str]
    first_guess: bool


def project_images(serving: Serving, project: Project, found: Collected) -> Json:
    """The fields of `ProjectImages`."""
    return {
        "state": "failed" if found.error else "ready" if found.ready else "collecting",
        "error": found.error or None,
        **found.counts,
        "labeled": found.labeled,
        "unlabeled": max(0, found.counts["tasks"] - found.labeled),
        "choices": list(found.choices),
        "first_guess": serving.is_first_guess(project.uid),
        "model_version": serving.version_name(project.uid),
    }
