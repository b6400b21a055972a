"""The endpoint for the map of a project's images."""

from my_backend.backend import Backend
from my_backend.web.api.project_images import ProjectImages, project_images
from my_backend.web.bodies import Json, ProjectRequest
from my_backend.web.endpoint import endpoint
from my_backend.web.lookup import find_project


class Map(ProjectImages):
    """All collected images in two dimensions; texts with numbers are base64 of little-endian unsigned integers."""

    arranged: bool
    """Whether look-alikes are near each other. The server arranges the map once all images are collected, which takes a
    few seconds; after that, request `positions` again."""

    ids: list[int]
    """The ids of the images' tasks; the fields below have a value for each of them."""

    positions: str
    """Two 16-bit numbers for each image, its distance from the left and from the top; 65535 is the opposite edge."""

    labels: str
    """A 16-bit number for each image: 0 if the task has no annotation, 65535 if its annotation isn't one of `choices`,
    otherwise the position of the choice in `choices`, counted from 1."""

    proposals: str
    """A 16-bit number for each image: the position of the most probable choice, counted from 1; 0 without a model."""

    doubts: str
    """An 8-bit number for each image: how improbable that choice is; 255 stands for a probability of 0."""


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
        return {**told, "arranged": images.arranged, **images.packed(found.tag.choices)}
