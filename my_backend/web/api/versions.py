"""The endpoints of versions: which there are, and which one is live."""

from typing import Any

from my_backend.errors import NotFound
from my_backend.projects.registry import Project, Projects
from my_backend.projects.versions import Versions
from my_backend.requests import ActivateRequest, Json, ProjectRequest
from my_backend.web.api.answers import Answer
from my_backend.web.api.lookup import find_project
from my_backend.web.endpoint import endpoint


class VersionRecord(Answer):
    """A version, with the details that its model reported."""

    version: str
    created_at: float
    cause: str
    held_back: str | None
    grew_from: str | None
    figures: Any
    labels: Any
    sources: Any
    annotations: Any
    unknown_choices: Any
    summary: Any
    warning: Any
    made_by: dict[str, str]


class VersionList(Answer):
    """The versions of a project, the newest first."""

    versions: list[str]
    live: str
    details: list[VersionRecord]


class LiveVersion(Answer):
    """The version that is now live."""

    live: str
    project: str


class VersionEndpoints:
    """A version's files are never changed; only the pointer to the live one is."""

    def __init__(self, projects: Projects) -> None:
        self._projects = projects

    @endpoint("GET", "/versions", answers={200: VersionList}, errors=(404,))
    def versions_of_the_only_project(self) -> Json:
        """The versions of the only project; 404 if there are several, because Label Studio names none here."""
        projects = self._projects.all()
        if len(projects) != 1:
            raise NotFound('GET /versions works only if there is exactly one project: POST {"project": id} instead')
        return self._versions_of(projects[0])

    @endpoint("POST", "/versions", answers={200: VersionList}, errors=(404,))
    def versions(self, body: ProjectRequest) -> Json:
        """The versions of a project, the newest first."""
        return self._versions_of(self._projects.find(body.project))

    def _versions_of(self, project: Project) -> Json:
        versions = Versions(self._projects.folder(project.uid))
        newest_first = versions.all()[::-1]
        return {
            "versions": [version.name for version in newest_first],
            "live": versions.live_name(),
            "details": [version.record() for version in newest_first],
        }

    @endpoint("POST", "/api/models/activate", answers={200: LiveVersion}, errors=(404,))
    def activate(self, body: ActivateRequest) -> Json:
        """Makes a version live; it may be an older one."""
        project = find_project(self._projects, body.project)
        version = Versions(self._projects.folder(project.uid)).activate(body.version)
        return {"live": version.name, "project": project.uid}
