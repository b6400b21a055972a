"""Problems with scores and stored predictions in Label Studio."""

from my_backend.active_learning.scores import ScoresStatus
from my_backend.active_learning.title import TitleStatus
from my_backend.diagnostics.actions import RenameModel
from my_backend.diagnostics.problem import Fix, Problem
from my_backend.diagnostics.rules.wording import ended
from my_backend.projects.project import Project

# The problem may disappear without any action.
RETRIED = "The backend keeps trying; for details, run the doctor (`python -m my_backend doctor`)."


def score_problems(project: Project, status: ScoresStatus) -> list[Problem]:
    """Scores that Label Studio doesn't show although someone needs them."""
    if status.title is None:
        return []
    if status.state == "out of sync":
        return [_out_of_sync(project, status, status.title)]
    return title_problems(project.uid, status.title) if status.kept else []


def _out_of_sync(project: Project, status: ScoresStatus, title: TitleStatus) -> Problem:
    message = (
        "Label Studio's score column is blank, and uncertainty sampling serves random tasks, because the model's title "
        f"in Label Studio, “{title.title}”, isn't the name of the live version, {status.live}."
    )
    if title.title == status.live:
        message = (
            f"The project in Label Studio uses “{title.uses}” instead of the live version {status.live}, so the "
            "scores that it shows aren't the live version's."
        )
    hint = (
        "Set TITLE_IS_VERSION=true: the backend then renames the model with each new version, and restores your title "
        "when you turn the setting off. `doctor --fix` renames it once, for the live version."
    )
    if status.kept:
        hint = "The running server corrects this within a minute; if it can't, `/problems` says why."
    offer = f"rename the model “{title.title}” to {status.live}"
    action = RenameModel(project, title, status.live, status.kept)
    return Problem("scores-blank", message, hint, project.uid, fixes=(Fix(offer, action),))


def title_problems(project: str, status: TitleStatus) -> list[Problem]:
    """What keeps the server from showing its scores through the model's title; `project` is the project's uid.

    A project that is set to use other predictions may be the user's choice.
    """
    if status.state == "failed":
        return [
            Problem("title", ended(f"Can't change the model's title in Label Studio: {status.error}"), RETRIED, project)
        ]
    if status.state not in ("elsewhere", "unused"):
        return []
    message = (
        "The project in Label Studio uses no predictions, so it shows no scores, "
        "and uncertainty sampling can't use them."
    )
    if status.state == "elsewhere":
        message = (
            f"The project in Label Studio uses the predictions from “{status.uses}”, "
            "so uncertainty sampling uses their scores."
        )
    hint = (
        "To use this model's predictions, open Settings → Annotation, turn on “Use predictions to prelabel tasks”, and "
        "choose this model there. Otherwise turn off TITLE_IS_VERSION."
    )
    return [Problem("scores-elsewhere", message, hint, project)]


def refresh_failed(project: str, error: str) -> Problem:
    """Predictions can't be refreshed; `project` is the project's uid."""
    return Problem("renewal", ended(f"Can't refresh the predictions stored in Label Studio: {error}"), RETRIED, project)
