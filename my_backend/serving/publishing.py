"""A model that was trained elsewhere becomes a version of a project."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from label_studio_format.labeling_config import parse_label_config
from my_backend.errors import BadRequest
from my_backend.label_studio.media import media_pool
from my_backend.projects.registry import Project, Projects
from my_backend.projects.versions import Version, Versions
from my_backend.serving.model_loader import ModelFactory
from my_backend.settings import Settings


@dataclass(frozen=True)
class Published:
    """What was published, and which of the model's classes the labeling config does not have."""

    project: Project
    version: Version
    unknown: list[str]


def publish_model(settings: Settings, model: Path, project_name: str | None) -> Published:
    """Copies a model's files into a new version, which goes live at once; a server that runs takes it up by itself.

    Nothing compares it with the live version: whoever publishes by hand means it. Raises BackendError.
    """
    projects = Projects(settings.model_dir / "projects")
    project = projects.find(project_name)
    config = parse_label_config(project.label_config, settings.choices)
    if config.image_choices is None:
        raise BadRequest(f"project {project.uid}: {config.problem}")
    model_class = ModelFactory(settings, projects, media_pool()).load()
    if not hasattr(model_class, "adopt"):
        raise BadRequest(f"MODEL_CLASS={settings.model_class} has no method `adopt`, which reads models of elsewhere")
    folder = projects.folder(project.uid)
    with TemporaryDirectory(dir=folder, prefix=".publishing-") as workdir:
        train_output = model_class.adopt(model, Path(workdir))
        classes = [str(name) for name in train_output.get("classes", [])]
        unknown = [name for name in classes if not config.image_choices.name_of(name)]
        if classes and len(unknown) == len(classes):
            raise BadRequest(
                f"the model knows {', '.join(classes)}, and the labeling config of project {project.uid} none of them, "
                f"but {', '.join(config.choices)}: is it the right project?"
            )
        cause = f"published by hand from {model}"
        version = Versions(folder).publish(train_output, Path(workdir), cause=cause, choices=config.choices)
    return Published(project, version, unknown)
