"""Whether Label Studio shows the live version's scores, for the page and the doctor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from my_backend.active_learning.title import Title, TitleState, TitleStatus
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects.versions import UNTRAINED, Versions
from my_backend.settings import Settings

UNCERTAINTY = "Uncertainty sampling"  # what a project's `sampling` says


@dataclass(frozen=True)
class ScoresStatus:
    """How the scores and the live version relate: the title's state, or why the title doesn't matter.

    `untrained`: there is no version. `blank`: Label Studio shows no scores, which is its default, and nobody samples by
    them.
    """

    state: TitleState | Literal["untrained", "blank"]
    live: str = ""
    kept: bool = False  # TITLE_IS_VERSION: the server keeps the title equal to the live version
    title: TitleStatus | None = None  # if it was looked at


def read_scores(settings: Settings, snapshot: Snapshot, folder: Path) -> ScoresStatus:
    """Counts the stored predictions if that matters; `folder` is the project's folder. Raises LabelStudioError."""
    live, kept = Versions(folder).live_name(), settings.title_is_version
    if live == UNTRAINED:
        return ScoresStatus("untrained")
    described = snapshot.project()
    if not kept and described.get("sampling") != UNCERTAINTY:
        return ScoresStatus("in sync" if described.get("model_version") == live else "blank")
    status = Title(snapshot, folder).look(live, renewing=settings.renew_predictions)
    return ScoresStatus(status.state, live, kept, status)
