"""The endpoints of whole projects: delete one, copy one's model to another."""

from my_backend.backend import Backend
from my_backend.errors import NotFound
from my_backend.web.api.responses import Answer, Asked
from my_backend.web.api.versions import LiveVersion
from my_backend.web.bodies import DeleteRequest, DuplicateRequest, Json
from my_backend.web.endpoint import endpoint
from my_backend.web.lookup import find_project
from my_backend.web.middleware.auth import is_known, require_token


class Deleted(Answer):
    """The project that was deleted."""

    deleted: str
    """The project's uid."""


class ProjectEndpoints:
    """Label Studio calls them, and so do people."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self._projects = backend, backend.projects

    @endpoint("POST", "/delete", answers={200: Deleted, 202: Asked}, errors=(404,))
    def delete(self, body: DeleteRequest) -> Json | tuple[Json, int]:
        """Deletes a project: cancels its jobs and removes its versions; needs the password or a token."""
        project = find_project(self._projects, body.project)
        if is_known(self._backend.settings):
            self._backend.delete(project)
            return {"deleted": project.uid}
        require_token(self._backend.settings, body.token)
        self._backend.token_gate.ask(project, body.token, "Deleting the project", lambda: self._backend.delete(project))
        return {"status": "asked"}, 202

    @endpoint("POST", "/duplicate_model", answers={200: LiveVersion}, errors=(404,))
    def duplicate_model(self, body: DuplicateRequest) -> Json:
        """Copies a project's live version to another project."""
        source = find_project(self._projects, body.project_src)
        destination = body.project_dst
        if "." not in destination:  # sent by people, not by Label Studio
            destination = self._projects.find(destination).uid
        live = source.versions.live()
        if live is None:
            raise NotFound(f"project {source.uid} has no version to copy yet")
        target = self._projects.remember(destination).versions
        copy = target.copy_from(live, cause=f"copied from project {source.uid}", choices=live.choices)
        return {"live": copy.name, "project": destination}
