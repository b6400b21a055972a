"""Exports versions to ONNX on request: one at a time, in a separate process, and each version only once."""

import logging
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, TypeAdapter

from my_backend import context, files
from my_backend.background import Background
from my_backend.errors import BadRequest, Stopped, Unavailable
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media import media_pool
from my_backend.own_process import run_in_own_process
from my_backend.projects.model_card import CARD_FILE
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from my_backend.projects.versions import EXPORTS_FOLDER
from my_backend.serving.model_api import Json, ModelAPI
from my_backend.serving.model_loader import ModelFactory
from my_backend.settings import Settings
from safe_http.redaction import said

log = logging.getLogger(__name__)

EXPORT_SECONDS = 600.0
STOP_SECONDS = 5.0  # for ending the process
TURN_SECONDS = 1.0  # between two checks whether another server has finished its export
MOST_WAITING = 20
COMPARED_TASKS = 20  # more than the class compares, because some images may be unreadable
COMPARED_FILE = "compared.json"
EXAMPLE_FILE = "example.py"

State = Literal["none", "making", "ready", "failed"]


class Compared(BaseModel):
    """The largest difference in probability between module and model, on this many images; 0: on random pixels."""

    images: int = Field(ge=0)
    difference: float = Field(ge=0, allow_inf_nan=False)


_COMPARED = TypeAdapter(Compared)


@dataclass(frozen=True)
class Export:
    """A version's ONNX module; `failure` is why the last attempt failed."""

    state: State
    compared: Compared | None = None
    failure: str = ""
    has_example: bool = False


class Exports(Background):
    """Makes exports in a thread. Waiting ones are forgotten when the server stops; finished ones are on disk."""

    def __init__(self, settings: Settings, projects: Projects, new_model: ModelFactory) -> None:
        super().__init__("exports", patience=STOP_SECONDS)
        self._settings, self._projects, self._new_model = settings, projects, new_model
        self._waiting: dict[tuple[str, str], None] = {}  # projects' uids and versions' names, in order
        self._failures: dict[tuple[str, str], str] = {}

    def state(self, project: Project, version: str) -> Export:
        """The state of a version's export; raises NotFound."""
        versions = project.versions
        versions.get(version)
        folder = versions.exported(version)
        compared = files.read_record(folder / COMPARED_FILE, _COMPARED)
        if compared is not None:
            return Export("ready", compared, has_example=(folder / EXAMPLE_FILE).exists())
        if (project.uid, version) in self._waiting:
            return Export("making")
        failure = self._failures.get((project.uid, version), "")
        return Export("failed" if failure else "none", failure=failure)

    def refusal(self) -> str:
        """Why no version can be exported; "" if the model class can do it, or isn't loaded yet."""
        loaded = self._new_model.loaded()
        if loaded is None:
            return ""
        if loaded.export_onnx is ModelAPI.export_onnx:
            return f"{loaded.__name__} can't be exported to ONNX: it has no method `export_onnx`"
        return loaded.export_problem()

    def request(self, project: Project, version: str) -> Export:
        """Makes the export unless it exists; raises NotFound, BadRequest, and Unavailable if too many wait."""
        state = self.state(project, version)
        if state.state in ("ready", "making"):
            return state
        if refusal := self.refusal():
            raise BadRequest(refusal)
        if project.versions.get(version).is_first_guess:
            raise BadRequest(f"{version} is a first guess: it has no model of its own to export")
        if len(self._waiting) >= MOST_WAITING:
            raise Unavailable(f"{MOST_WAITING} exports are already waiting: try again later")
        self._failures.pop((project.uid, version), None)
        self._waiting[project.uid, version] = None
        self._wake()
        return self.state(project, version)

    def _tick(self) -> float | None:
        while not self._stopping and (uid_and_version := next(iter(self._waiting), None)):
            uid, version = uid_and_version
            with context.working_for(project=uid):
                try:
                    project = self._projects.get(uid)
                    with files.claimed(self._projects.root / ".exporting"):  # servers of this MODEL_DIR take turns
                        if self.state(project, version).state != "ready":  # by another server
                            self._make(project, version)
                except files.InUse:
                    return TURN_SECONDS
                except Stopped:
                    return None
                except Exception as error:
                    log.warning("can't export %s to ONNX: %s", version, said(error))
                    self._failures[uid_and_version] = said(error)
                    self._forget_deleted()
                self._waiting.pop(uid_and_version, None)
        return math.inf

    def _forget_deleted(self) -> None:
        """Forgets why versions couldn't be exported that have since been deleted, alone or with their project."""
        known = {project.uid: project for project in self._projects.all()}
        for uid, version in list(self._failures):
            if uid not in known or version not in known[uid].versions.names():
                self._failures.pop((uid, version), None)

    def _make(self, project: Project, version: str) -> None:
        folder, versions = project.folder / EXPORTS_FOLDER, project.versions
        folder.mkdir(exist_ok=True)
        for left in folder.glob(".part-*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as aside:
            part = Path(aside) / versions.exported(version).name
            part.mkdir()
            told = run_in_own_process(
                self._settings,
                export_version,
                project.uid,
                version,
                str(part),
                seconds=EXPORT_SECONDS,
                is_stopping=lambda: self._stopping,
            )
            compared = Compared.model_validate(told)
            card = versions.get(version).folder / CARD_FILE
            if card.exists():  # versions of older releases have none
                shutil.copy2(card, part)
            files.write_json(part / COMPARED_FILE, compared.model_dump())
            versions.keep_exported(version, part)
        log.info("exported %s to ONNX; largest difference in probability: %.1e", version, compared.difference)


def export_version(settings: Settings, project: str, version: str, folder: str) -> Json:
    """Lets the model class export a version to `folder`; returns what `export_onnx` returns."""
    projects = Projects.of(settings)
    pool = media_pool()
    try:
        new_model = ModelFactory(settings, projects, Connections(settings), pool)
        found = projects.get(project)
        model = new_model(found, found.versions.get(version))
        tasks: Sequence[Json] = found.annotation_log.tasks() or []
        return model.export_onnx(Path(folder), tasks[:: max(1, len(tasks) // COMPARED_TASKS)][:COMPARED_TASKS])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
