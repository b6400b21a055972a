"""The live model of each project: a new version is loaded in the background, then swapped in."""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from my_backend import context
from my_backend.background import Background
from my_backend.errors import BackendError, Conflict, Unavailable
from my_backend.files import Damaged
from my_backend.named_import import ModuleRaised
from my_backend.projects.project import Project
from my_backend.projects.registry import Credentials, Projects
from my_backend.projects.versions import UNTRAINED, Version, Versions, last_move
from my_backend.serving.model_api import ModelAPI
from my_backend.serving.model_loader import ModelFactory
from my_backend.settings import misspelled_names
from safe_http.redaction import redact, said

Json = dict[str, Any]

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1  # between two checks whether a pointer has moved
MOST_TO_PREPARE = 100_000_000  # bytes of imported tasks that wait; others are read when they are predicted
TASK_BYTES = 1000  # that a task takes in addition to its longest texts
PREPARED_AT_ONCE = 64  # tasks between two checks whether the process is stopping
LOAD_SECONDS = 120.0  # for a version to load; after that, other projects' versions are loaded at the same time
MODEL_SECONDS = 60.0  # that work in the background waits for a project's live model to load
RETRY_SECONDS = 30.0  # until a version that failed to load is tried again
REFRESH_SECONDS = 2.0  # between two checks for projects added by other processes, and of all pointers


@dataclass(frozen=True)
class Live:
    """The model that predicts a project's tasks, and its version."""

    name: str
    model: ModelAPI | None  # None before the first version
    choices: tuple[str, ...] = ()  # of the labeling config when the version was published
    warning: str = ""  # the warning in the version's record
    made_by: dict[str, str] = field(default_factory=dict)  # as in the version's record
    credentials: Credentials | None = None  # for fetching its images
    is_first_guess: bool = False  # whether its predictions aren't learned from labels

    def predict(
        self,
        tasks: Sequence[Json],
        *,
        label_config: str,
        deadline: float,
        failed: Callable[..., None] = lambda position, *why: None,
    ) -> list[Json | list[Any]]:
        """For each task, in order, a prediction that Label Studio can store, or `[]` if there is none.

        `deadline` (monotonic) is when the predictions are due; `failed(position, why, reason)` is called for
        images that can't be read.
        """
        if self.model is None or not tasks:
            return [[] for _ in tasks]

        def failed_because(position: int, why: str, *more: Any) -> None:
            failed(position, redact(why), *more)

        results = self.model.predict(tasks, label_config=label_config, deadline=deadline, failed=failed_because)
        if len(results) != len(tasks):
            raise RuntimeError(f"the model returned {len(results)} results for {len(tasks)} tasks")
        return [_signed(result, self.name) for result in results]


def _signed(result: Any, name: str) -> Json | list[Any]:
    """A model's result with the version's name and without non-finite scores, or `[]` if it is empty."""
    if not result or not result.get("result"):
        return []
    regions = [_with_finite_score(region) for region in result["result"]]
    return {**_with_finite_score(result), "result": regions, "model_version": name}


def _with_finite_score(scored: Json) -> Json:
    score: Any = scored.get("score")
    try:
        number = math.nan if isinstance(score, str) else float(score)  # NumPy and torch have their own numbers
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    others = {key: value for key, value in scored.items() if key != "score"}
    return {**others, "score": number} if math.isfinite(number) else others


@dataclass(frozen=True)
class Wanted:
    """What should serve a project: a version's name, and the credentials for its images."""

    name: str
    credentials: Credentials | None


@dataclass(frozen=True)
class Failure:
    """A project's live version that couldn't be loaded; `wanted.name` is "" if the project's files are unreadable."""

    project: str
    wanted: Wanted
    error: str
    at: float  # monotonic

    def __str__(self) -> str:
        if not self.wanted.name:
            return f"can't read the files of project {self.project} ({self.error})"
        return f"can't load version {self.wanted.name} ({self.error}); start training, or activate another version"


@dataclass(frozen=True)
class ServingStatus:
    """Why models can't be loaded, and the warnings of the loaded ones."""

    import_error: str = ""  # of the model class
    misspelled: Mapping[str, str] = field(default_factory=dict)  # names of settings as given, and probably meant
    warnings: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()


class Serving(Background):
    """Provides the live models from memory; a thread watches the pointers and loads versions."""

    def __init__(self, projects: Projects, new_model: ModelFactory, address: str) -> None:
        """`address` is the URL to log once the server is ready."""
        super().__init__("serving")
        self._projects, self._new_model, self._address = projects, new_model, address
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._live: dict[str, Live] = {}
        self._failed: dict[str, Failure] = {}
        self._loading: dict[str, tuple[Wanted, Future[Live]]] = {}  # versions that take longer than LOAD_SECONDS
        self._wanted: dict[str, Wanted] = {}  # as the pointers were last read
        # What the live model was last found to suit, since parsing a large labeling config again takes long.
        self._settled: dict[str, tuple[Project, Wanted]] = {}
        self._told, self._read_at = (
            "",
            float("-inf"),
        )  # `last_move` when the pointers were last read, and that time (monotonic)
        self.unusable: Callable[[str], None] = lambda why: None  # called if MODEL_CLASS or its settings are wrong
        self._imported = self._ready = False
        self._import_error = ""
        self._misspelled: dict[str, str] = {}
        self._warning = ""
        self.description: dict[str, Any] = {}  # what the model class says it computes with, after its warm-up
        self._changed = threading.Condition()
        self._refreshed = float("-inf")  # (monotonic)
        self._warmed_up = self._is_warm = False  # whether the warm-up has begun, and whether it has ended
        self._waiting_to_prepare = 0  # about as many bytes

    def stop(self) -> None:
        super().stop()
        self._preparing.shutdown(wait=False, cancel_futures=True)

    def version_name(self, project: str) -> str:
        """The name under which predictions are made at this moment."""
        live = self._live.get(project)
        # While it loads, the name on disk: it is what the next prediction will carry.
        return live.name if live else Versions(self._projects.folder(project)).live_name()

    def live(self, project: str, deadline: float) -> Live:
        """The project's live model; waits for one that is being loaded, until `deadline` (monotonic).

        Raises Unavailable if it can't be loaded, or not in time.
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
            raise Unavailable(self.problem(project) or "the model is still loading: try again")
        return live

    def is_first_guess(self, project: str) -> bool:
        """Whether the predictions of the project's live model aren't learned from labels; never waits."""
        live = self._live.get(project)
        return live is not None and live.is_first_guess

    def loaded(self, project: str) -> ModelAPI | None:
        """The project's live model if it is in memory; never waits."""
        live = self._live.get(project)
        return live.model if live else None

    def problem(self, project: str | None = None) -> str:
        """Why the model class or the project's live version can't be loaded; "" if they are loaded."""
        if self._import_error or project is None:
            return self._import_error
        failure = self._failed.get(project)
        return str(failure) if failure else ""

    def status(self) -> ServingStatus:
        """What is wrong with the models, from memory."""
        warnings = (self._warning, *(live.warning for live in list(self._live.values())))
        different = tuple(dict.fromkeys(filter(None, warnings)))
        return ServingStatus(self._import_error, self._misspelled, different, tuple(self._failed.values()))

    @property
    def ready(self) -> bool:
        """Whether the model class is imported and each project's live version had loaded or failed once.

        Projects that are added later don't change it: a request for one of them waits until its model has loaded.
        """
        return self._ready

    @property
    def model_class(self) -> type[ModelAPI] | None:
        """The model class; None until it is loaded."""
        return self._new_model.load() if self._imported else None

    def refusal_to_train(self) -> str:
        """Why no version can be trained; "" if the model class can do it, or isn't loaded yet."""
        found = self.model_class
        if found is None or found.fit is not ModelAPI.fit:
            return ""
        return f"{found.__name__} can't be trained: it has no method `fit`"

    def prepare(self, project: Project, tasks: list[Any]) -> None:
        """Passes imported tasks to the model in the background, so that they open without delay."""
        size = sum(map(_size_of, tasks))
        with self._changed:
            if self._waiting_to_prepare + size > MOST_TO_PREPARE:
                log.info("project %s: %d imported tasks aren't prepared: too many are waiting", project.uid, len(tasks))
                return
            self._waiting_to_prepare += size
        self._preparing.submit(copy_context().run, self._prepare_counted, project, tasks, size)

    def _prepare_counted(self, project: Project, tasks: list[Any], size: int) -> None:
        try:
            self._prepare(project, tasks)
        finally:
            with self._changed:
                self._waiting_to_prepare -= size

    def _prepare(self, project: Project, tasks: list[Any]) -> None:
        live = self._live.get(project.uid)
        try:
            model = live.model if live and live.model else self._new_model(project, None)
            for start in range(0, len(tasks), PREPARED_AT_ONCE):
                if self._stopping:
                    return
                model.prepare(tasks[start : start + PREPARED_AT_ONCE])
        except (Exception, SystemExit):
            log.exception("project %s: can't prepare imported tasks", project.uid)

    def _tick(self) -> float | None:
        if not self._imported:
            self._import()
        if self._import_error:
            return None
        try:
            if time.monotonic() - self._refreshed > REFRESH_SECONDS:
                self._projects.refresh()
                self._refreshed = time.monotonic()
            self._follow_all()
        finally:  # after the versions, which answer requests, but also if they can't be read
            if not self._warmed_up:
                self._preparing.submit(self._warm_up)
                self._warmed_up = True
        return LOOK_SECONDS

    def _import(self) -> None:
        try:
            own = self._new_model.load().settings()
            self._misspelled = misspelled_names(map(str.upper, type(own).model_fields if own else ()))
            self._imported = True
        except Exception as error:
            if isinstance(error, BackendError) and not isinstance(error, ModuleRaised):  # its message says all
                log.error("%s", error)
            else:
                log.exception("can't load the model class")
            self._import_error = said(error)
            with self._changed:
                self._changed.notify_all()
            self.unusable(self._import_error)

    def _follow_all(self) -> None:
        projects = self._projects.all()
        moved = self._may_have_moved()
        for project in projects:
            with context.working_for(project=project.uid):
                try:
                    if moved or project.uid not in self._wanted:
                        self._read_pointer(project)
                    self._follow(project)
                except (Exception, SystemExit) as error:  # the other projects must still be served
                    self._fail(project, Wanted("", None), error)
        for gone in self._wanted.keys() - {project.uid for project in projects}:
            for known in (self._live, self._failed, self._loading, self._wanted, self._settled):
                known.pop(gone, None)
        if not self._ready:
            log.info("ready to predict at %s; projects: %d", self._address, len(projects))
        self._ready = True

    def _read_pointer(self, project: Project) -> None:
        """Notes what should serve each project; while a pointer is damaged, that is what served it before."""
        name = project.versions.read_pointer()
        if isinstance(name, Damaged):
            known = self._wanted.get(project.uid)
            name = known.name if known else UNTRAINED
        self._wanted[project.uid] = Wanted(name, self._new_model.credentials(project))

    def _may_have_moved(self) -> bool:
        """Whether to read the pointers; one file tells if any has moved, since there may be thousands."""
        told, now = last_move(self._projects.root), time.monotonic()
        if told == self._told and now < self._read_at + REFRESH_SECONDS:
            return False
        self._told, self._read_at = told, now
        return True

    def _follow(self, project: Project) -> None:
        """Swaps the project's model if the pointer has moved, or its choices or credentials have changed."""
        wanted, live = self._wanted[project.uid], self._live.get(project.uid)
        is_wanted = live and (live.name, live.credentials) == (wanted.name, wanted.credentials)
        settled = self._settled.get(project.uid) == (project, wanted)
        waits = wanted.name == UNTRAINED and not self._is_warm  # until the model class is asked again for a version
        if live and is_wanted and (settled or waits or not self._are_others(live.choices, project)):
            self._failed.pop(project.uid, None)
            if not waits:
                self._settled[project.uid] = project, wanted
            return
        failure = self._failed.get(project.uid)
        if failure and failure.wanted == wanted:
            loading = self._loading.get(project.uid)
            if not loading[1].done() if loading else time.monotonic() < failure.at + RETRY_SECONDS:
                return
        try:
            self._live[project.uid] = self._loaded_in_time(project, wanted)
        except (Exception, SystemExit) as error:
            self._fail(project, wanted, error)
        else:
            self._failed.pop(project.uid, None)
            live = self._live[project.uid]
            with context.working_for(**live.made_by):
                log.info("project %s: %s is live", project.uid, live.name)
            with self._changed:
                self._changed.notify_all()

    def _fail(self, project: Project, wanted: Wanted, error: Exception | SystemExit) -> None:
        """Notes a failure and logs it once, however often it repeats; must be called in the except block."""
        before, live = self._failed.get(project.uid), self._live.get(project.uid)
        why = said(error) if isinstance(error, Exception) else f"it called sys.exit: {said(error)}"
        failure = Failure(project.uid, wanted, why, time.monotonic())
        if str(before) != str(failure):
            log.exception("project %s: %s; still serving %s", project.uid, failure, live and live.name)
        self._failed[project.uid] = failure
        with self._changed:
            self._changed.notify_all()

    def _loaded_in_time(self, project: Project, wanted: Wanted) -> Live:
        """Loads a version in a thread of its own: a model class may hang, for example on a network drive.

        Raises Unavailable if that takes too long. The thread goes on; call this again once it is done.
        """
        known, future = self._loading.get(project.uid, (None, None))
        if future is None or known != wanted:
            future = _in_a_thread(self._load, project, wanted)
            self._loading[project.uid] = wanted, future
            wait_for([future], LOAD_SECONDS)
        if not future.done():
            raise Unavailable(f"loading it has taken more than {LOAD_SECONDS:.0f} s so far")
        del self._loading[project.uid]
        return future.result()

    def _load(self, project: Project, wanted: Wanted) -> Live:
        versions = project.versions
        if wanted.name == UNTRAINED:
            first = self._first_version(project, versions)
            if first is None:
                choices = project.config.choices if self._is_warm else ()
                return Live(UNTRAINED, None, choices, credentials=wanted.credentials)
            version = first
        else:
            version = versions.get(wanted.name)
        if self._are_others(version.choices, project):
            # The version may be for choices that another process knows, but this one doesn't yet.
            project = self._projects.read_again(project.uid)
        if self._are_others(version.choices, project):
            # Label Studio never asks again for a version whose predictions it already has.
            cause, choices = "the labeling config's choices changed", project.config.choices
            version = versions.renew_live(cause=cause, choices=choices) or version
            if self._are_others(version.choices, project) and isinstance(pointer := versions.read_pointer(), Damaged):
                raise Conflict(f"it can't be renewed for the changed choices: can't use {pointer.path} ({pointer.why})")
        model = self._new_model(project, version)
        warning = str(version.train_output.get("warning") or "")
        told = version.choices, warning, version.made_by, wanted.credentials, version.is_first_guess
        return Live(version.name, model, *told)

    def _first_version(self, project: Project, versions: Versions) -> Version | None:
        """A version without training, if the model class can predict without; otherwise None."""
        choices = project.config.choices
        if not choices or (found := self._new_model.load().untrained(project.label_config)) is None:
            return None
        cause, train_output = found
        return versions.publish_first(train_output, cause=cause, choices=choices)

    def _are_others(self, choices: tuple[str, ...], project: Project) -> bool:
        """Whether the project's choices differ from those for which a version was published."""
        today = project.config.choices
        return bool(today) and choices != today

    def _warm_up(self) -> None:
        try:
            self._warm_up_class()
        finally:
            self._is_warm = True
            self._wake()

    def _warm_up_class(self) -> None:
        model_class = self._new_model.load()
        try:
            self._warning = redact(model_class.warm_up() or "")
        except BackendError as error:
            log.error("%s", error)
            self._warning = said(error)
            self.unusable(self._warning)
            return
        except (Exception, SystemExit) as error:
            log.exception("can't warm up the model class")
            self._warning = said(error)
            return
        self.description = model_class.describe()


def _in_a_thread(load: Callable[..., Live], *arguments: Any) -> Future[Live]:
    """Runs `load` in a thread, for which the process doesn't wait when it ends; the future has its result or error."""
    future: Future[Live] = Future()

    def run() -> None:
        try:
            future.set_result(load(*arguments))
        except BaseException as error:  # `result` raises it
            future.set_exception(error)

    threading.Thread(target=copy_context().run, args=(run,), name="loading", daemon=True).start()
    return future


def _size_of(task: Any) -> int:
    """About how many bytes of memory an imported task takes: image URLs may contain whole images."""
    data = task.get("data") if isinstance(task, dict) else None
    values = data.values() if isinstance(data, dict) else ()
    return TASK_BYTES + sum(len(value) for value in values if isinstance(value, str))
