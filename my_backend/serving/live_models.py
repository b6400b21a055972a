"""The live model of each project: new versions are loaded aside, then one reference is swapped."""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from label_studio_format.labeling_config import parse_label_config
from my_backend import context
from my_backend.background import Background
from my_backend.errors import Unavailable
from my_backend.files import Damaged
from my_backend.projects.registry import Credentials, Project, Projects
from my_backend.projects.versions import UNTRAINED, Versions, last_move
from my_backend.redaction import redact, said
from my_backend.serving.model_loader import ModelFactory

Json = dict[str, Any]

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1  # how often it is looked whether a pointer was moved
PREPARED_AT_ONCE = 64  # tasks, between looks whether the process is to end
RETRY_SECONDS = 30.0  # until a version is loaded anew that could not be
REFRESH_SECONDS = 2.0  # how often projects are looked for that another process has added, and at all pointers


@dataclass(frozen=True)
class Live:
    """What answers for a project: a version's name and its model."""

    name: str
    model: Any  # an instance of the model class; None before the first version
    choices: tuple[str, ...] = ()  # of the labeling config when the version was published
    warning: str = ""  # what the version's record warns of
    made_by: dict[str, str] = field(default_factory=dict)  # as in the version's record
    credentials: Credentials | None = None  # with which its images are fetched

    def predict(
        self,
        tasks: Sequence[Json],
        *,
        label_config: str,
        deadline: float,
        failed: Callable[..., None] = lambda position, *why: None,
    ) -> list[Json | list[Any]]:
        """For each task, in order, what Label Studio can store: a prediction under the version's name, or `[]`.

        `deadline` (monotonic) is when an answer is due; `failed(position, why, reason)` is told of images that cannot
        be read.
        """
        if self.model is None or not tasks:
            return [[] for _ in tasks]
        results = self.model.predict(tasks, label_config=label_config, deadline=deadline, failed=failed)
        if len(results) != len(tasks):
            raise RuntimeError(f"the model gave {len(results)} results for {len(tasks)} tasks")
        return [_signed(result, self.name) for result in results]


def _signed(result: Any, name: str) -> Json | list[Any]:
    """A model's result with the version's name and a finite score, or `[]`."""
    if not result or not result.get("result"):
        return []
    score = result.get("score")
    if not isinstance(score, int | float) or not math.isfinite(score):
        result = {key: value for key, value in result.items() if key != "score"}
    return {**result, "model_version": name}


@dataclass(frozen=True)
class Wanted:
    """What is to answer for a project: a version's name, and the credentials for its images."""

    name: str
    credentials: Credentials | None


@dataclass(frozen=True)
class Failure:
    """A version that could not be loaded: why, for users, and when (monotonic)."""

    wanted: Wanted
    why: str
    at: float


class Serving(Background):
    """Answers from memory; a thread of its own watches the pointers and loads."""

    def __init__(self, projects: Projects, new_model: ModelFactory, choices_name: str = "") -> None:
        super().__init__("serving")
        self._projects, self._new_model, self._choices_name = projects, new_model, choices_name
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._live: dict[str, Live] = {}
        self._failed: dict[str, Failure] = {}
        self._wanted: dict[str, Wanted] = {}  # as of when the pointers were read
        self._told, self._read_at = "", float("-inf")  # what was told of pointers when they were read (monotonic)
        self._imported = False
        self._import_error = ""
        self._warning = ""
        self.description: dict[str, Any] = {}  # what the model class says it computes with, once it is warm
        self._changed = threading.Condition()
        self._refreshed = float("-inf")  # (monotonic)
        self._warmed_up = False

    def stop(self) -> None:
        super().stop()
        self._preparing.shutdown(wait=False, cancel_futures=True)

    def version_name(self, project: str) -> str:
        """The name under which predictions are made at this moment."""
        live = self._live.get(project)
        # While it loads, the name on disk: it is what the next prediction will carry.
        return live.name if live else self._versions(project).live_name()

    def live(self, project: str, deadline: float) -> Live:
        """The project's live model; waits for one that is being loaded, until `deadline` (monotonic).

        Raises Unavailable where it cannot be loaded, or not in time.
        """
        live = self._live.get(project)
        if live is None:
            with self._changed:
                self._wake()
                self._changed.wait_for(
                    lambda: project in self._live or self.problem(project), max(0.0, deadline - time.monotonic())
                )
                live = self._live.get(project)
        if live is None:
            raise Unavailable(self.problem(project) or "the model is still loading: ask again")
        return live

    def problem(self, project: str | None = None) -> str:
        """Why the model class, or the project's live version, cannot be loaded; "" where all is well."""
        if self._import_error or project is None:
            return self._import_error
        failure = self._failed.get(project)
        return failure.why if failure else ""

    def problems(self) -> list[str]:
        """What a user should know of, each once."""
        warnings = (live.warning for live in list(self._live.values()))
        failures = (failure.why for failure in list(self._failed.values()))
        return list(dict.fromkeys(filter(None, (self._import_error, self._warning, *warnings, *failures))))

    @property
    def ready(self) -> bool:
        """Whether the model class is imported, and each project's live version is loaded or has failed to."""
        return self._imported and all(
            project.uid in self._live or project.uid in self._failed for project in self._projects.all()
        )

    @property
    def model_class(self) -> Any:
        """The class that is served; None until it is loaded."""
        return self._new_model.load() if self._imported else None

    def prepare(self, project: Project, tasks: list[Any]) -> None:
        """Lets the model see imported tasks in the background, so that opening them costs nothing."""
        self._preparing.submit(copy_context().run, self._prepare, project, tasks)

    def _prepare(self, project: Project, tasks: list[Any]) -> None:
        live = self._live.get(project.uid)
        try:
            model = live.model if live and live.model else self._new_model(project, None)
            if hasattr(model, "prepare"):
                for start in range(0, len(tasks), PREPARED_AT_ONCE):
                    if self._stopping:
                        return
                    model.prepare(tasks[start : start + PREPARED_AT_ONCE])
        except Exception:
            log.exception("project %s: imported tasks could not be prepared", project.uid)

    def _versions(self, project: str) -> Versions:
        return Versions(self._projects.folder(project))

    def _look(self) -> float | None:
        if not self._imported:
            self._import()
        if self._import_error:
            return None
        try:
            if time.monotonic() - self._refreshed > REFRESH_SECONDS:
                self._projects.refresh()
                self._refreshed = time.monotonic()
            self._follow_all()
        finally:  # after the versions, since they are what answers, but also where their disk does not
            if not self._warmed_up:
                self._preparing.submit(self._warm_up)
                self._warmed_up = True
        return LOOK_SECONDS

    def _import(self) -> None:
        try:
            self._new_model.load()
            self._imported = True
        except Exception as error:
            log.exception("the model class cannot be loaded")
            self._import_error = said(error)
            with self._changed:
                self._changed.notify_all()

    def _follow_all(self) -> None:
        projects = self._projects.all()
        moved = self._may_have_moved()
        for project in projects:
            with context.working_for(project=project.uid):
                try:
                    if moved or project.uid not in self._wanted:
                        self._read_pointer(project)
                    self._follow(project)
                except Exception as error:  # the others are served all the same
                    why = f"the files of project {project.uid} can't be read ({said(error)})"
                    self._fail(project, Wanted("", None), why)
        for gone in self._wanted.keys() - {project.uid for project in projects}:
            for known in (self._live, self._failed, self._wanted):
                known.pop(gone, None)

    def _read_pointer(self, project: Project) -> None:
        """Notes what is to answer. While the pointer is damaged, that is what answered before."""
        name = self._versions(project.uid).read_pointer()
        if isinstance(name, Damaged):
            known = self._wanted.get(project.uid)
            name = known.name if known else UNTRAINED
        self._wanted[project.uid] = Wanted(name, self._new_model.credentials(project))

    def _may_have_moved(self) -> bool:
        """Whether to read the pointers: one file tells of all, since there may be thousands."""
        told, now = last_move(self._projects.root), time.monotonic()
        if told == self._told and now < self._read_at + REFRESH_SECONDS:
            return False
        self._told, self._read_at = told, now
        return True

    def _follow(self, project: Project) -> None:
        """Swaps the project's model where the pointer has moved, or its choices or credentials have changed."""
        wanted, live = self._wanted[project.uid], self._live.get(project.uid)
        is_wanted = live and (live.name, live.credentials) == (wanted.name, wanted.credentials)
        if live and is_wanted and (wanted.name == UNTRAINED or not self._are_others(live.choices, project)):
            self._failed.pop(project.uid, None)
            return
        failure = self._failed.get(project.uid)
        if failure and failure.wanted == wanted and time.monotonic() < failure.at + RETRY_SECONDS:
            return
        try:
            self._live[project.uid] = self._load(project, wanted)
        except Exception as error:
            why = f"version {wanted.name} cannot be loaded ({said(error)}); start a training, or activate another one"
            self._fail(project, wanted, why)
        else:
            self._failed.pop(project.uid, None)
            live = self._live[project.uid]
            with context.working_for(**live.made_by):
                log.info("project %s: %s is live", project.uid, live.name)
            with self._changed:
                self._changed.notify_all()

    def _fail(self, project: Project, wanted: Wanted, why: str) -> None:
        """To be called where the error is handled, which is logged once, however often it comes."""
        failure, live = self._failed.get(project.uid), self._live.get(project.uid)
        if not failure or failure.why != why:
            log.exception("project %s: %s; %s stays", project.uid, why, live and live.name)
        self._failed[project.uid] = Failure(wanted, why, time.monotonic())
        with self._changed:
            self._changed.notify_all()

    def _load(self, project: Project, wanted: Wanted) -> Live:
        if wanted.name == UNTRAINED:
            return Live(UNTRAINED, None, credentials=wanted.credentials)
        versions = self._versions(project.uid)
        version = versions.get(wanted.name)
        if self._are_others(version.choices, project):
            # The version may be of choices that another process has heard of, and not yet this one.
            project = self._projects.read_again(project.uid)
        if self._are_others(version.choices, project):
            # Label Studio never asks again for a version that it has predictions of.
            cause, choices = "the labeling config's choices changed", self._choices(project)
            version = versions.renew_live(cause=cause, choices=choices) or version
        model = self._new_model(project, version)
        warning = str(version.train_output.get("warning") or "")
        return Live(version.name, model, version.choices, warning, version.made_by, wanted.credentials)

    def _choices(self, project: Project) -> tuple[str, ...]:
        return parse_label_config(project.label_config, self._choices_name).choices

    def _are_others(self, choices: tuple[str, ...], project: Project) -> bool:
        """Whether today's choices are other ones than these, for which a version was published."""
        today = self._choices(project)
        return bool(today) and choices != today

    def _warm_up(self) -> None:
        model_class = self._new_model.load()
        if hasattr(model_class, "warm_up"):
            try:
                self._warning = redact(model_class.warm_up() or "")
            except Exception as error:
                log.exception("the model class cannot be prepared")
                self._warning = said(error)
                return
        if hasattr(model_class, "describe"):
            self.description = model_class.describe()
