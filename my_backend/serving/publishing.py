"""Publishes a model that was trained elsewhere as a version of a project."""

from dataclasses import dataclass
from pathlib import Path

from my_backend.errors import BadRequest
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media import media_pool
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from my_backend.projects.versions import Version
from my_backend.serving.model_loader import ModelFactory
from my_backend.settings import Settings


@dataclass(frozen=True)
class Published:
    """The published version, and the model's classes that aren't choices of the labeling config."""

    project: Project
    version: Version
    unknown: list[str]


def publish_model(settings: Settings, model: Path, project_name: str | None) -> Published:
    """Copies a model's files into a new version, which goes live at once, also in a running server.

    The model isn't compared with the live version, since publishing it was a deliberate decision. Raises BackendError.
    """
    projects = Projects.of(settings)
    project = projects.find(project_name)
    config = project.config
    if config.image_choices is None:
        raise BadRequest(f"project {project.uid}: {config.problem}")
    model_class = ModelFactory(settings, projects, Connections(settings), media_pool()).load()
    with project.versions.workdir() as workdir:
        train_output = model_class.adopt(model, workdir)
        classes = [str(name) for name in train_output.get("classes", [])]
        unknown = [name for name in classes if not config.image_choices.name_of(name)]
        if classes and len(unknown) == len(classes):
            raise BadRequest(
                f"none of the model's classes ({', '.join(classes)}) is a choice of project {project.uid} "
                f"({', '.join(config.choices)}): is it the right project?"
            )
        cause = f"published manually from {model}"
        version = project.versions.publish(train_output, workdir, cause=cause, choices=config.choices)
    return Published(project, version, unknown)
