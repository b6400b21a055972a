"""Endpoints that list, activate, pin, delete, export and download versions."""

from typing import Any

from flask import Response

from my_backend.backend import Backend
from my_backend.errors import BadRequest, Conflict, NotFound, Unavailable
from my_backend.projects.archive import zipped, zipped_size
from my_backend.projects.project import Project
from my_backend.projects.versions import Versions
from my_backend.serving.exports import Export, State
from my_backend.web.api.responses import Answer
from my_backend.web.bodies import Json, PinRequest, ProjectRequest, VersionRequest
from my_backend.web.endpoint import endpoint
from my_backend.web.lookup import PROJECT_QUERY, find_project
from my_backend.web.middleware.admission import Share
from my_backend.web.middleware.auth import require_known

DOWNLOADS_AT_ONCE = 4  # of the threads for other requests; see OTHERS_AT_ONCE
VERSION_QUERY = {**PROJECT_QUERY, "version": "name of the version"}


class VersionRecord(Answer):
    """A version, with the details that its model reported."""

    version: str
    """The version's name."""

    created_at: float
    """When it was published, in seconds since 1970."""

    cause: str
    """Why it was trained."""

    held_back: str | None
    """Why it didn't replace the live version; null if it did."""

    first_guess: bool
    """Whether it is a first guess, not learned from labels."""

    grew_from: str | None
    """The version that was live when this one's training began."""

    figures: Any
    """Its metrics, as the model reported them."""

    labels: Any
    """The number of labels of each class that it was trained on."""

    sources: Any
    """The number of labels from each source."""

    annotations: Any
    """The number of annotations that were used or left out, by reason."""

    labeling_history: dict[str, Any]
    """How the labels were made, day by day."""

    unknown_choices: Any
    """Choices of annotations that the labeling config no longer has."""

    summary: Any
    """A summary of the training in one or two sentences."""

    warning: Any
    """A warning for the user; null if there is none."""

    made_by: dict[str, str]
    """The ids of the job and of the HTTP request that made it."""


class VersionList(Answer):
    """The versions of a project."""

    versions: list[str]
    """The versions' names, the newest first."""

    live: str
    """The name of the live version; `untrained` if there is none."""

    details: list[VersionRecord]
    """The versions' records, in the same order."""


class LiveVersion(Answer):
    """The version that is now live."""

    live: str
    """The version's name."""

    project: str
    """The project's uid."""


class PinnedVersion(Answer):
    """Whether the version is now pinned."""

    version: str
    """The version's name."""

    pinned: bool
    """Whether it is pinned."""

    project: str
    """The project's uid."""


class DeletedVersion(Answer):
    """The version that was deleted."""

    deleted: str
    """The version's name."""

    project: str
    """The project's uid."""


class ExportedVersion(Answer):
    """The state of a version's ONNX module."""

    version: str
    """The version's name."""

    project: str
    """The project's uid."""

    state: State
    """The state of the ONNX module: `none`, `making`, `failed`, or `ready` for download."""

    failure: str
    """Why the export failed; empty if it didn't."""

    images: int | None
    """The number of images of the project on which the module was compared with the model; if it is 0, random pixels
    were used."""

    difference: float | None
    """The largest difference between the module's probabilities and the model's."""


class VersionEndpoints:
    """A version's files are never changed; only the pointer to the live one is."""

    def __init__(self, backend: Backend) -> None:
        self._projects, self._settings, self._exports = backend.projects, backend.settings, backend.exports
        self._downloads = Share(DOWNLOADS_AT_ONCE)

    @endpoint("GET", "/versions", answers={200: VersionList}, errors=(404,))
    def versions_of_the_only_project(self) -> Json:
        """The versions of the only project; 404 if there are several, because Label Studio names none here."""
        projects = self._projects.all()
        if len(projects) != 1:
            raise NotFound('GET /versions works only if there is exactly one project: POST {"project": id} instead')
        return self._versions_of(find_project(self._projects, projects[0].uid))

    @endpoint("POST", "/versions", answers={200: VersionList}, errors=(404,))
    def versions(self, body: ProjectRequest) -> Json:
        """The versions of a project, the newest first."""
        return self._versions_of(find_project(self._projects, body.project))

    def _versions_of(self, project: Project) -> Json:
        versions = project.versions
        newest_first = versions.all()[::-1]
        return {
            "versions": [version.name for version in newest_first],
            "live": versions.live_name(),
            "details": [version.record() for version in newest_first],
        }

    @endpoint("POST", "/api/models/activate", answers={200: LiveVersion}, errors=(404,))
    def activate(self, body: VersionRequest) -> Json:
        """Makes a version live; it may be an older one."""
        project, versions = self._find(body.project)
        return {"live": versions.activate(body.version).name, "project": project.uid}

    @endpoint("POST", "/api/models/pin", answers={200: PinnedVersion}, errors=(404, 409))
    def pin(self, body: PinRequest) -> Json:
        """Pins a version, so that it is never removed automatically; or unpins it. Needs the password."""
        require_known(self._settings)
        project, versions = self._find(body.project)
        versions.pin(body.version, body.pinned)
        return {"version": body.version, "pinned": body.pinned, "project": project.uid}

    @endpoint("POST", "/api/models/delete", answers={200: DeletedVersion}, errors=(404, 409))
    def delete(self, body: VersionRequest) -> Json:
        """Deletes a version permanently, unless it is live or pinned; needs the password."""
        require_known(self._settings)
        project, versions = self._find(body.project)
        versions.delete(body.version)
        return {"deleted": body.version, "project": project.uid}

    @endpoint("POST", "/api/models/export", answers={200: ExportedVersion}, errors=(400, 404, 503))
    def export(self, body: VersionRequest) -> Json:
        """Starts making a version's ONNX module, unless it exists; needs the password."""
        require_known(self._settings)
        project = find_project(self._projects, body.project)
        return _exported(project, body.version, self._exports.request(project, body.version))

    @endpoint("GET", "/api/models/export", answers={200: ExportedVersion}, errors=(400, 404), query=VERSION_QUERY)
    def exported(self, project: str | None, version: str | None) -> Json:
        """The state of a version's ONNX module: `none`, `making`, `failed`, or `ready` for download."""
        name, found = _named(version), find_project(self._projects, project)
        return _exported(found, name, self._exports.state(found, name))

    @endpoint(
        "GET",
        "/api/models/download",
        answers={200: "application/zip"},
        errors=(400, 404, 409, 503),
        query={**VERSION_QUERY, "to": "`onnx` for the ONNX module; by default the version's own files"},
    )
    def download(self, project: str | None, version: str | None, to: str | None) -> Response:
        """A version as a ZIP file: its own files, for `image_classifier` or `publish` elsewhere, or its ONNX module."""
        name = _named(version)
        if to not in (None, "onnx"):
            raise BadRequest("`to` must be onnx; leave it out to get the version's own files")
        if not self._downloads.hold():  # slow clients would keep other requests out for hours
            raise Unavailable(f"{self._downloads.size} downloads are in progress: try again later")
        versions = self._find(project)[1]
        found = versions.get(name)
        folder = versions.exported(name) if to else found.folder
        if to and not folder.exists():
            raise Conflict(f"{name} hasn't been exported to ONNX yet: POST /api/models/export first")
        try:
            size = zipped_size(folder)
        except FileNotFoundError:
            raise NotFound(f"version {found.name} has just been deleted") from None
        response = Response(zipped(folder), mimetype="application/zip")
        response.content_length = size  # without it, slow clients would be cut off
        response.headers["Content-Disposition"] = f'attachment; filename="{folder.name}.zip"'
        return response

    def _find(self, name: str | None) -> tuple[Project, Versions]:
        project = find_project(self._projects, name)
        return project, project.versions


def _named(version: str | None) -> str:
    if version is None:
        raise BadRequest("version is missing: add ?version=NAME with a name that GET /versions lists")
    return version


def _exported(project: Project, version: str, export: Export) -> Json:
    compared = export.compared.model_dump() if export.compared else {"images": None, "difference": None}
    return {"version": version, "project": project.uid, "state": export.state, "failure": export.failure, **compared}
