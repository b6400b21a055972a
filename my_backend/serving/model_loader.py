"""Loads the model class, and makes its instances for projects."""

import gc
import sys

from my_backend.counters.in_process import EmbeddingCounts, ImageCounts
from my_backend.errors import BackendError
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media import Media, MediaPool, MediaRequest, open_media
from my_backend.named_import import import_named
from my_backend.projects.corrections import corrections_folder
from my_backend.projects.embeddings import embeddings_folder
from my_backend.projects.project import Project
from my_backend.projects.registry import Credentials, Projects
from my_backend.projects.versions import Version
from my_backend.serving.model_api import ModelAPI, with_defaults
from my_backend.settings import Settings


class ModelFactory:
    """Makes instances of MODEL_CLASS."""

    def __init__(self, settings: Settings, projects: Projects, connections: Connections, media_pool: MediaPool) -> None:
        self._settings, self._projects, self._media_pool = settings, projects, media_pool
        self._connections = connections
        self.images = ImageCounts()  # of everything that the instances fetch

    def load(self) -> type[ModelAPI]:
        """The class with its defaults; raises BackendError.

        The first call may take seconds because it imports, say, torch.
        """
        name = self._settings.model_class
        first = name.partition(":")[0] not in sys.modules
        model_class = import_named("MODEL_CLASS", name, "module:Class, for example model:ImageClassifierAPI")
        if first:
            # A library such as torch creates half a million permanent objects. Scanning them in each collection
            # would stop all threads for some tenths of a second, and copy their memory in each forked process.
            gc.freeze()
        if not isinstance(model_class, type):
            raise BackendError(f"can't load MODEL_CLASS={name}: {name.partition(':')[2]} isn't a class")
        return with_defaults(model_class)

    def __call__(self, project: Project, version: Version | None, missed: list[MediaRequest] | None = None) -> ModelAPI:
        """Makes an instance for a project with a version's resources; for `missed`, see Media."""
        return self.load()(
            label_config=project.label_config,
            train_output=(version.train_output or None) if version else None,
            media=self.open_media(project, missed),
            choices_name=self._settings.choices,
            embeddings=embeddings_folder(project.folder),
        )

    def credentials(self, project: Project) -> Credentials | None:
        """What `/setup` sent about the project's Label Studio; None if the settings have the URL and token."""
        if self._settings.label_studio_url and self._settings.label_studio_api_key.get_secret_value():
            return None
        return self._projects.credentials(project.uid)

    def open_media(self, project: Project, missed: list[MediaRequest] | None = None) -> Media:
        """Opens access to the images of a project's tasks and to its corrected images."""
        return open_media(
            self._settings,
            self._connections,
            self.credentials(project),
            self._media_pool,
            kept=corrections_folder(project.folder),
            counts=self.images,
            missed=missed,
            project=project.uid,
        )

    def embeddings(self) -> EmbeddingCounts:
        """The class's embedding-cache lookups in this process; none if it isn't loaded or doesn't count."""
        model_class = self.loaded()
        return EmbeddingCounts(model_class.cache_lookups() if model_class else {})

    def loaded(self) -> type[ModelAPI] | None:
        """The class with its defaults if this process has loaded it already."""
        module_name, _, class_name = self._settings.model_class.partition(":")
        model_class = getattr(sys.modules.get(module_name), class_name, None)
        return with_defaults(model_class) if isinstance(model_class, type) else None
