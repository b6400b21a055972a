"""The paths of all endpoints."""

from collections.abc import Callable
from typing import Any

from my_backend.backend import Backend
from my_backend.metrics.counters import RequestCounts
from my_backend.requests import Json
from my_backend.web.api.jobs import JobEndpoints
from my_backend.web.api.labeling import LabelingEndpoints
from my_backend.web.api.labeling_configs import LabelingConfigEndpoints
from my_backend.web.api.openapi import openapi
from my_backend.web.api.projects import ProjectEndpoints
from my_backend.web.api.protocol import ProtocolEndpoints
from my_backend.web.api.single_image import SingleImageEndpoints
from my_backend.web.api.status import StatusEndpoints
from my_backend.web.api.versions import VersionEndpoints
from my_backend.web.pages.routes import Page
from my_backend.web.prometheus.collector import Exposition

# Former names of endpoints, for scripts that still use them.
ALIASES = {
    ("GET", "/troubles"): ("GET", "/problems"),
    ("POST", "/api/troubles/check"): ("POST", "/api/problems/check"),
}


class Routes:
    """The endpoints of a server."""

    def __init__(self, backend: Backend, counts: RequestCounts, page: Page) -> None:
        self._settings = backend.settings
        self._status = StatusEndpoints(backend, page)
        self._protocol = ProtocolEndpoints(backend, counts)
        self._single_image = SingleImageEndpoints(backend)
        self._jobs = JobEndpoints(backend)
        self._versions = VersionEndpoints(backend.projects)
        self._labeling_configs = LabelingConfigEndpoints(backend.settings)
        self._labeling = LabelingEndpoints(backend)
        self._project = ProjectEndpoints(backend)
        self._exposition = Exposition(backend, counts)

    def table(self) -> dict[tuple[str, str], Callable[..., Any]]:
        """The endpoints, by method and path."""
        return {
            ("GET", "/"): self._status.home,
            ("GET", "/health"): self._status.health,
            ("GET", "/problems"): self._status.problems,
            ("POST", "/api/problems/check"): self._status.check_problems,
            ("GET", "/ready"): self._status.ready,
            ("POST", "/setup"): self._protocol.setup,
            ("POST", "/predict"): self._protocol.predict,
            ("POST", "/webhook"): self._protocol.webhook,
            ("POST", "/train"): self._protocol.train,
            ("POST", "/api/models/train"): self._protocol.train,
            ("POST", "/api/models/predict"): self._single_image.predict,
            ("POST", "/api/models/retrain"): self._single_image.correct,
            ("POST", "/job_status"): self._jobs.job_status,
            ("POST", "/api/jobs/<job_id>/cancel"): self._jobs.cancel_job,
            ("GET", "/is_training"): self._jobs.is_training,
            ("GET", "/versions"): self._versions.versions_of_the_only_project,
            ("POST", "/versions"): self._versions.versions,
            ("POST", "/api/models/activate"): self._versions.activate,
            ("POST", "/validate"): self._labeling_configs.validate,
            ("POST", "/api/labeling/groups"): self._labeling.groups,
            ("POST", "/api/labeling/similar"): self._labeling.similar,
            ("POST", "/api/labeling/runs"): self._labeling.start,
            ("GET", "/api/labeling/runs"): self._labeling.runs,
            ("GET", "/api/labeling/runs/<run_id>"): self._labeling.run,
            ("POST", "/api/labeling/runs/<run_id>/undo"): self._labeling.undo,
            ("POST", "/api/labeling/runs/<run_id>/resume"): self._labeling.resume,
            ("POST", "/delete"): self._project.delete,
            ("POST", "/duplicate_model"): self._project.duplicate_model,
            ("GET", "/metrics"): self._exposition.response,
            ("GET", "/openapi.json"): self.description,
        }

    def description(self) -> Json:
        """This description of the endpoints."""
        return openapi(self.table(), protected=self._settings.basic_auth is not None)
