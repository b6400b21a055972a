"""The model's title in Label Studio, which decides whether scores are shown and uncertainty sampling works.

Label Studio shows the scores of predictions whose version equals the project's `model_version`, and samples by these
scores. It requests predictions from the backend with that title. So the title has to be the live version's name.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from my_backend import files
from my_backend.active_learning.stored_predictions import StoredPredictions
from my_backend.label_studio.client import LabelStudio
from my_backend.problems import Problem
from my_backend.projects.registry import Project
from my_backend.projects.versions import is_newer, is_version_name

TITLE_FILE = "title.json"

Json = dict[str, Any]
State = Literal["unknown", "right", "waits", "apart", "elsewhere", "unused"]


@dataclass(frozen=True)
class Remembered:
    """The title that the user gave the model, remembered while a version's name replaces it."""

    backend: int  # the model's id in Label Studio
    title: str
    kept: bool  # the server maintains the title, and restores this one when the setting is turned off


_REMEMBERED = TypeAdapter(Remembered)


@dataclass(frozen=True)
class Sight:
    """How the title and the live version relate.

    `right`: they are equal. `apart`: they differ. `unknown`: Label Studio doesn't know a model with this version yet.
    `waits`: too few of its predictions are stored. `elsewhere`: the project uses another model's predictions, named by
    `uses`. `unused`: the project uses no predictions.
    """

    state: State
    backend: Json | None = None  # this backend, as Label Studio describes it
    uses: str = ""  # the project's `model_version`


class Title:
    """The title in one project. All methods except `remembered` raise LabelStudioError."""

    def __init__(self, label_studio: LabelStudio, project: Project, folder: Path) -> None:
        self._label_studio, self._project = label_studio, project
        self._file = folder / TITLE_FILE

    def remembered(self) -> Remembered | None:
        """The user's title; None if it wasn't replaced."""
        return remembered_title(self._file.parent)

    def look(self, live: str, *, renewing: bool) -> Sight:
        """Asks Label Studio; `renewing`: predictions of the live version are being stored for all unlabeled tasks."""
        backends = self._label_studio.backends(self._project.id)
        described = self._label_studio.project(self._project.id)
        return self.judge(backends, described, live, renewing=renewing)

    def judge(self, backends: Sequence[Json], described: Json, live: str, *, renewing: bool) -> Sight:
        """Like `look`, but with Label Studio's earlier answers; asks only how many predictions are stored."""
        uses = str(described.get("model_version") or "")
        own = _own(backends, live, uses)
        if own is None:
            return Sight("unknown", None, uses)
        if described.get("show_collab_predictions") is False:
            return Sight("unused", own, uses)
        title = str(own.get("title") or "")
        others = {str(one.get("title") or "") for one in backends if one is not own}
        if uses not in ("", title) and (uses in others or not is_version_name(uses)):
            return Sight("elsewhere", own, uses)
        if title == uses == live:
            return Sight("right", own, uses)
        predictions = StoredPredictions(self._label_studio, self._project.id)
        stored = predictions.count(live)
        older = uses if is_version_name(uses) and is_newer(live, uses) and not renewing else ""
        # Label Studio serves tasks with predictions of the named version. While the new one has only a few, sorting by
        # the old one's scores is better. After a rollback the newer version's scores aren't used anymore.
        enough = stored > 0 and (not older or 2 * stored >= predictions.count(older))
        return Sight("apart" if enough else "waits", own, uses)

    def put(self, sight: Sight, live: str, *, kept: bool) -> None:
        """Sets the title to the live version and has the project use it; remembers the user's title first."""
        own = sight.backend
        assert own is not None
        title, before = str(own.get("title") or ""), self.remembered()
        users = (before.title if before else "") if is_version_name(title) else title
        remembered = Remembered(int(own["id"]), users, kept or (before is not None and before.kept))
        if remembered != before:
            files.write_json(self._file, asdict(remembered))
        if title != live:
            self._label_studio.rename_backend(own, live)
        if sight.uses not in (title, live):  # otherwise Label Studio has changed it already
            self._label_studio.change_project(self._project.id, model_version=live)

    def give_back(self) -> str:
        """Restores the user's title and returns it; "" if there is nothing to restore."""
        remembered = self.remembered()
        if remembered is None:
            return ""
        given = ""
        for backend in self._label_studio.backends(self._project.id):
            # If the title isn't a version, the user has changed it in the meantime.
            if backend.get("id") == remembered.backend and is_version_name(str(backend.get("title") or "")):
                given = remembered.title
                if given:
                    self._label_studio.rename_backend(backend, given)
        self._file.unlink(missing_ok=True)
        return given


def remembered_title(folder: Path) -> Remembered | None:
    """The user's title stored in a project's folder; None if there is none."""
    return files.read_record(folder / TITLE_FILE, _REMEMBERED)


def _own(backends: Sequence[Json], live: str, uses: str) -> Json | None:
    """This backend among the project's models: Label Studio has just asked each for its version."""
    own = [one for one in backends if one.get("model_version") == live]
    return next((one for one in own if one.get("title") == uses), own[0] if own else None)


def apart(project: Project, sight: Sight, live: str, *, kept: bool) -> Problem:
    """A problem: the title isn't the live version although predictions of it are stored."""
    title = str((sight.backend or {}).get("title") or "")
    what = (
        "Label Studio's score column is blank and uncertainty sampling serves random tasks because the model's title "
        f"there, “{title}”, is not the live version {live}."
    )
    if title == live:
        what = (
            f"The project in Label Studio uses “{sight.uses}” instead of the live version {live}, so it shows other "
            "scores."
        )
    remedy = (
        "Set TITLE_IS_VERSION=true: the backend then renames the model with each new version, and restores your title "
        "when you turn the setting off. `doctor --fix` renames it once, for the current version."
    )
    if kept:
        remedy = "The running server changes it within a minute; if it can't, `/problems` says why."
    return Problem("scores-blank", what, remedy, project.uid)


def not_used(project: Project, sight: Sight) -> Problem | None:
    """A problem if the project is set to use no predictions or another model's; this may be the user's choice."""
    if sight.state not in ("elsewhere", "unused"):
        return None
    what = "The project in Label Studio uses no predictions, so it shows no scores and can't sample by them."
    if sight.state == "elsewhere":
        what = f"The project in Label Studio uses the predictions of “{sight.uses}”, so it samples by their scores."
    remedy = (
        "To use this model's predictions, open Settings → Annotation, turn on “Use predictions to prelabel tasks”, and "
        "choose this model there. Otherwise turn TITLE_IS_VERSION off."
    )
    return Problem("scores-elsewhere", what, remedy, project.uid)
