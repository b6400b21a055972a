"""Checks whether Label Studio shows the live version's scores, for the page and the doctor."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from my_backend.active_learning.title import Title, apart, not_used
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.connection import Connection, Fix
from my_backend.problems import Problem
from my_backend.projects.registry import Project
from my_backend.projects.versions import UNTRAINED, Versions
from my_backend.settings import Settings

UNCERTAINTY = "Uncertainty sampling"  # what a project's `sampling` says

SAID = {
    "default": "blank in Label Studio, which is the default; TITLE_IS_VERSION=true shows them",
    "right": "Label Studio shows the live version's scores",
    "waits": "Label Studio has few or no predictions of the live version: use Actions → Retrieve Predictions",
    "unknown": "Label Studio doesn't know the live version yet",
    "elsewhere": "another model's, as chosen in the project's settings",
    "unused": "none, as chosen in the project's settings",
}


@dataclass(frozen=True)
class Scores:
    """The result of the check; `said` describes the scores if nothing is wrong."""

    said: str
    problems: tuple[Problem, ...] = ()
    fixes: tuple[Fix, ...] = ()


def examine_scores(
    settings: Settings, label_studio: LabelStudio, project: Project, folder: Path, connection: Connection
) -> Scores:
    """Counts the stored predictions if that matters; `folder` is the project's folder. Raises LabelStudioError."""
    live, kept = Versions(folder).live_name(), settings.title_is_version
    if live == UNTRAINED:
        return Scores("none before the first training")
    if not kept and connection.project.get("sampling") != UNCERTAINTY:
        return Scores(SAID["right" if connection.project.get("model_version") == live else "default"])
    title = Title(label_studio, project, folder)
    sight = title.judge(connection.backends, connection.project, live, renewing=settings.renew_predictions)
    if kept and (problem := not_used(project, sight)):
        return Scores("", (problem,))
    if sight.state != "apart":
        return Scores(SAID[sight.state])
    problem = apart(project, sight, live, kept=kept)
    offer = f"rename the model “{(sight.backend or {}).get('title')}” to {live}"
    return Scores("", (problem,), (Fix(problem, offer, partial(title.put, sight, live, kept=kept)),))
