"""The model's title in Label Studio, which decides whether scores are shown and the least sure task is served next.

Label Studio shows the scores of those predictions whose version is, to the letter, the project's `model_version`; by
these it samples by uncertainty. It asks the backend whose title that is. So the title has to be the live version.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from my_backend import files
from my_backend.active_learning.stored_predictions import StoredPredictions
from my_backend.label_studio.client import LabelStudio
from my_backend.problems import Trouble
from my_backend.projects.registry import Project
from my_backend.projects.versions import is_newer, is_version_name

TITLE_FILE = "title.json"

Json = dict[str, Any]
State = Literal["unknown", "right", "waits", "apart", "elsewhere", "unused"]


@dataclass(frozen=True)
class Remembered:
    """The title that the user gave to the model, while a version stands there."""

    backend: int  # the model's id in Label Studio
    title: str
    kept: bool  # by the server, which gives it back once the setting is switched off; else it was set just once


_REMEMBERED = TypeAdapter(Remembered)


@dataclass(frozen=True)
class Sight:
    """How the title and the live version are to each other.

    `unknown`: Label Studio knows no model with this version yet. `waits`: too few predictions of it are stored.
    `elsewhere`: the project uses another model's predictions, which `uses` names. `unused`: it uses none.
    """

    state: State
    backend: Json | None = None  # this one, as Label Studio describes it
    uses: str = ""  # the project's `model_version`


class Title:
    """One project's. All methods but `remembered` raise LabelStudioError."""

    def __init__(self, label_studio: LabelStudio, project: Project, folder: Path) -> None:
        self._label_studio, self._project = label_studio, project
        self._file = folder / TITLE_FILE

    def remembered(self) -> Remembered | None:
        """None where no version was put into the title's place."""
        return remembered_title(self._file.parent)

    def look(self, live: str, *, renewing: bool) -> Sight:
        """`renewing`: whether predictions of the live version are being stored for all unlabelled tasks."""
        backends = self._label_studio.backends(self._project.id)
        described = self._label_studio.project(self._project.id)
        return self.judge(backends, described, live, renewing=renewing)

    def judge(self, backends: Sequence[Json], described: Json, live: str, *, renewing: bool) -> Sight:
        """As `look`, of what Label Studio has told already; it is asked only how many predictions it has."""
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
        # Label Studio serves tasks with predictions of the version that is named: while the new one has few, the order
        # by the old one's scores is better than one among those few. What was rolled back orders nothing any more.
        enough = stored > 0 and (not older or 2 * stored >= predictions.count(older))
        return Sight("apart" if enough else "waits", own, uses)

    def put(self, sight: Sight, live: str, *, kept: bool) -> None:
        """Makes the live version the title, and the project use it; the user's title is remembered first."""
        own = sight.backend
        assert own is not None
        title, before = str(own.get("title") or ""), self.remembered()
        users = (before.title if before else "") if is_version_name(title) else title
        remembered = Remembered(int(own["id"]), users, kept or (before is not None and before.kept))
        if remembered != before:
            files.write_json(self._file, asdict(remembered))
        if title != live:
            self._label_studio.rename_backend(own, live)
        if sight.uses not in (title, live):  # else Label Studio has moved it along
            self._label_studio.change_project(self._project.id, model_version=live)

    def give_back(self) -> str:
        """Gives the model the user's title again; returns it, or "" where there is nothing to give back."""
        remembered = self.remembered()
        if remembered is None:
            return ""
        given = ""
        for backend in self._label_studio.backends(self._project.id):
            # A title that is no version was given by the user meanwhile.
            if backend.get("id") == remembered.backend and is_version_name(str(backend.get("title") or "")):
                given = remembered.title
                if given:
                    self._label_studio.rename_backend(backend, given)
        self._file.unlink(missing_ok=True)
        return given


def remembered_title(folder: Path) -> Remembered | None:
    """What is remembered for the project of that folder."""
    return files.read_record(folder / TITLE_FILE, _REMEMBERED)


def _own(backends: Sequence[Json], live: str, uses: str) -> Json | None:
    """This backend among the project's: Label Studio has just asked each for its version."""
    own = [one for one in backends if one.get("model_version") == live]
    return next((one for one in own if one.get("title") == uses), own[0] if own else None)


def apart(project: Project, sight: Sight, live: str, *, kept: bool) -> Trouble:
    """The title is not the live version, though predictions of it are stored."""
    title = str((sight.backend or {}).get("title") or "")
    what = (
        "Label Studio's score column is blank and uncertainty sampling serves random tasks, since the model's title "
        f"there, “{title}”, is not the live version {live}."
    )
    if title == live:
        what = (
            f"Label Studio's project uses “{sight.uses}” instead of the live version {live}, so it shows other scores."
        )
    remedy = (
        "Set TITLE_IS_VERSION=true: the backend then renames the model at each new version, and gives your title back "
        "when it is switched off. `doctor --fix` renames it for the live version alone."
    )
    if kept:
        remedy = "The running server changes it within a minute; where it cannot, `/troubles` says why."
    return Trouble("scores-blank", what, remedy, project.uid)


def not_used(project: Project, sight: Sight) -> Trouble | None:
    """Where the project is set to use no predictions, or another model's, which is the user's choice."""
    if sight.state not in ("elsewhere", "unused"):
        return None
    what = "Label Studio's project uses no predictions, so that it shows no scores and samples nothing by them."
    if sight.state == "elsewhere":
        what = f"Label Studio's project uses the predictions of “{sight.uses}”, so that it goes by their scores."
    remedy = (
        "If this model's are wanted: Settings → Annotation, switch “Use predictions to prelabel tasks” on, and choose "
        "this model there. Else switch TITLE_IS_VERSION off."
    )
    return Trouble("scores-elsewhere", what, remedy, project.uid)
