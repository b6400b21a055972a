"""Endpoints that report the backend's state: for probes, programs and people."""

from importlib.metadata import version as package_version
from typing import Literal

from flask import Response

from my_backend.backend import Backend
from my_backend.storage import identity
from my_backend.web.api.responses import Answer, Asked
from my_backend.web.bodies import Json
from my_backend.web.browser import wants_page
from my_backend.web.endpoint import endpoint
from my_backend.web.pages.routes import Pages


class Health(Answer):
    """The server is up."""

    status: Literal["UP"]
    """Always `UP`."""

    version: str
    """The version of this program."""

    model_class: str
    """The setting MODEL_CLASS."""

    model: Json
    """The model's network, weights and device; empty while it is loading."""

    ready: bool
    """Whether predictions work for every project that has a version."""

    projects: int
    """The number of connected projects."""

    model_dir: str
    """An id of MODEL_DIR, by which the doctor recognizes the server."""

    problems: list[str]
    """Each problem and its fix, in one sentence each."""


class ProblemRecord(Answer):
    """A problem that a person can fix."""

    code: str
    """The kind of problem."""

    message: str
    """What is wrong."""

    hint: str
    """How to fix it."""

    project: str
    """The uid of the project with the problem; empty if the problem is about the server."""

    details: list[str]
    """Names of what is affected, for example files."""

    what: str
    """The former name of `message`."""

    remedy: str
    """The former name of `hint`."""


class Problems(Answer):
    """All known problems."""

    troubles: list[ProblemRecord]
    """The problems."""


class Readiness(Answer):
    """Whether the server is ready."""

    ready: bool
    """Whether predictions work for every project that has a version."""


class StatusEndpoints:
    """All answers come from memory."""

    def __init__(self, backend: Backend, pages: Pages) -> None:
        self._backend, self._pages = backend, pages
        self._version = package_version("image-classifier-backend")
        self._model_dir = identity(backend.settings.model_dir)

    @endpoint("GET", "/", answers={200: Health}, page=True)
    def home(self) -> Json | Response:
        """The web page for browsers, the response of `/health` for programs."""
        return self._pages.projects() if wants_page() else self.health()

    @endpoint("GET", "/health", answers={200: Health})
    def health(self) -> Json:
        """200 as long as the process is running; `problems` says what is wrong."""
        return {
            "status": "UP",
            "version": self._version,
            "model_class": self._backend.settings.model_class,
            "model": self._backend.serving.description,
            "ready": self._backend.serving.ready,
            "projects": len(self._backend.projects.all()),
            "model_dir": self._model_dir,
            "problems": [str(problem) for problem in self._backend.summary.problems()],
        }

    @endpoint("GET", "/problems", answers={200: Problems}, former_paths=("/troubles",), page=True)
    def problems(self) -> Json | Response:
        """Problems and their fixes: a page for browsers, JSON with stable codes for programs; also at `/troubles`."""
        if wants_page():
            return self._pages.problems()
        return {"troubles": [problem.record() for problem in self._backend.summary.problems()]}

    @endpoint("POST", "/api/problems/check", answers={202: Asked}, former_paths=("/api/troubles/check",))
    def check_problems(self) -> tuple[Json, int]:
        """Checks again, in the background, how Label Studio sees this backend."""
        self._backend.monitor.look_again()
        return {"status": "asked"}, 202

    @endpoint("GET", "/ready", answers={200: Readiness, 503: Readiness})
    def ready(self) -> tuple[Json, int]:
        """200 if predictions work for every project that has a version, otherwise 503."""
        return ({"ready": True}, 200) if self._backend.serving.ready else ({"ready": False}, 503)
