"""The endpoint for the map of a project's images."""

from my_backend.backend import Backend
from my_backend.web.api.project_images import ProjectImages, project_images
from my_backend.web.bodies import Json, ProjectRequest
from my_backend.web.endpoint import endpoint
from my_backend.web.lookup import find_project


class Map(ProjectImages):
    """All collected images in two dimensions; texts with numbers are base64 of little-endian unsigned integers."""

    arranged: bool
    """Whether look-alikes are near each other: the server arranges the map once all images are collected, which takes
    some seconds; then ask again for `positions`."""

    ids: list[int]
    """The ids of the images' tasks; the fields below have a value for each of them."""

    positions: str
    """Two numbers of 16 bits for each image, from the left and from the top; 65535 is the opposite edge."""

    labels: str
    """16 bits for each image: 0 if the task has no annotation, 65535 if its annotation isn't one of `choices`,
    otherwise the place of the choice in `choices`, counted from 1."""

    proposals: str
    """16 bits for each image: the place of the most probable choice, counted from 1; 0 without a model."""

    doubts: str
    """8 bits for each image: how improbable the proposal is; 255 is a probability of 0."""


class MapEndpoints:
    """The request doesn't call Label Studio: threads collect the images."""

    def __init__(self, backend: Backend) -> None:
        self._projects, self._serving, self._pools = backend.projects, backend.serving, backend.pools

    @endpoint("POST", "/api/labeling/map", answers={200: Map}, errors=(404, 409))
    def map(self, body: ProjectRequest) -> Json:
        """All images of a project in two dimensions; the first call starts to collect them."""
        project = find_project(self._projects, body.project)
        found, images = self._pools.map(project)
        told = project_images(self._serving, project, found)
        return {**told, "arranged": images.arranged, **images.packed(found.choices)}
