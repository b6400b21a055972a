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
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects.version_names import is_newer, is_version_name

TITLE_FILE = "title.json"

Json = dict[str, Any]
TitleState = Literal["unknown", "in sync", "waiting", "out of sync", "elsewhere", "unused", "failed"]


@dataclass(frozen=True)
class Remembered:
    """The title that the user gave the model, remembered while a version's name replaces it."""

    backend: int  # the model's id in Label Studio
    title: str
    kept: bool  # the server maintains the title, and restores this one when the setting is turned off


_REMEMBERED = TypeAdapter(Remembered)


@dataclass(frozen=True)
class TitleStatus:
    """How the title and the live version relate.

    `in sync`: they are equal. `out of sync`: they differ. `unknown`: Label Studio doesn't know a model with this
    version yet. `waiting`: too few of its predictions are stored. `elsewhere`: the project uses another model's
    predictions, named by `uses`. `unused`: the project uses no predictions. `failed`: Label Studio couldn't be asked or
    changed, because of `error`.
    """

    state: TitleState
    backend: Json | None = None  # this backend, as Label Studio describes it
    uses: str = ""  # the project's `model_version`
    error: str = ""

    @property
    def title(self) -> str:
        """The model's title in Label Studio; "" if it is unknown."""
        return str((self.backend or {}).get("title") or "")


class Title:
    """The title in one project. All methods except `remembered` raise LabelStudioError."""

    def __init__(self, snapshot: Snapshot, folder: Path) -> None:
        """`folder` is the project's folder."""
        self._snapshot = snapshot
        self._file = folder / TITLE_FILE

    def remembered(self) -> Remembered | None:
        """The user's title; None if it wasn't replaced."""
        return remembered_title(self._file.parent)

    def look(self, live: str, *, renewing: bool) -> TitleStatus:
        """Compares the title with the live version; counts the stored predictions if that matters.

        `renewing`: predictions of the live version are being stored for all unlabeled tasks.
        """
        backends, described = self._snapshot.backends(), self._snapshot.project()
        uses = str(described.get("model_version") or "")
        own = _own(backends, live, uses)
        if own is None:
            return TitleStatus("unknown", None, uses)
        if described.get("show_collab_predictions") is False:
            return TitleStatus("unused", own, uses)
        title = str(own.get("title") or "")
        others = {str(one.get("title") or "") for one in backends if one is not own}
        if uses not in ("", title) and (uses in others or not is_version_name(uses)):
            return TitleStatus("elsewhere", own, uses)
        if title == uses == live:
            return TitleStatus("in sync", own, uses)
        predictions = StoredPredictions(self._snapshot.label_studio, self._snapshot.project_id)
        stored = predictions.count(live)
        older = uses if is_version_name(uses) and is_newer(live, uses) and not renewing else ""
        # Label Studio serves tasks with predictions of the named version. While the new one has only a few, sorting by
        # the old one's scores is better. After a rollback the newer version's scores are no longer used.
        enough = stored > 0 and (not older or 2 * stored >= predictions.count(older))
        return TitleStatus("out of sync" if enough else "waiting", own, uses)

    def put(self, status: TitleStatus, live: str, *, kept: bool) -> None:
        """Sets the title to the live version and has the project use it; remembers the user's title first."""
        own = status.backend
        assert own is not None
        title, before = str(own.get("title") or ""), self.remembered()
        users = (before.title if before else "") if is_version_name(title) else title
        remembered = Remembered(int(own["id"]), users, kept or (before is not None and before.kept))
        if remembered != before:
            files.write_json(self._file, asdict(remembered))
        label_studio = self._snapshot.label_studio
        if title != live:
            label_studio.rename_backend(own, live)
        if status.uses not in (title, live):  # otherwise Label Studio has changed it already
            label_studio.change_project(self._snapshot.project_id, model_version=live)
        self._snapshot.expire()

    def give_back(self) -> str:
        """Restores the user's title and returns it; "" if there is nothing to restore."""
        remembered = self.remembered()
        if remembered is None:
            return ""
        given = ""
        for backend in self._snapshot.backends():
            # If the title isn't a version, the user has changed it in the meantime.
            if backend.get("id") == remembered.backend and is_version_name(str(backend.get("title") or "")):
                given = remembered.title
                if given:
                    self._snapshot.label_studio.rename_backend(backend, given)
                    self._snapshot.expire()
        self._file.unlink(missing_ok=True)
        return given


def remembered_title(folder: Path) -> Remembered | None:
    """The user's title stored in a project's folder; None if there is none."""
    return files.read_record(folder / TITLE_FILE, _REMEMBERED)


def _own(backends: Sequence[Json], live: str, uses: str) -> Json | None:
    """This backend among the project's models: Label Studio has just asked each for its version."""
    own = [one for one in backends if one.get("model_version") == live]
    return next((one for one in own if one.get("title") == uses), own[0] if own else None)
