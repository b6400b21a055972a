"""The LabelStudioMLBase to serve: found by its name, and made for a project."""

import gc
import importlib
import sys
from pathlib import Path
from typing import Any

from my_backend.errors import BackendError
from my_backend.label_studio.media import Media, MediaPool, open_media
from my_backend.metrics.counters import EmbeddingCounts, ImageCounts
from my_backend.projects.corrections import corrections_folder
from my_backend.projects.registry import Credentials, Project, Projects
from my_backend.projects.versions import Version
from my_backend.redaction import said
from my_backend.settings import Settings


class ModelFactory:
    """Makes instances of MODEL_CLASS."""

    def __init__(self, settings: Settings, projects: Projects, media_pool: MediaPool) -> None:
        self._settings, self._projects, self._media_pool = settings, projects, media_pool
        self.images = ImageCounts()  # of all that its instances fetch

    def load(self) -> Any:
        """The class; raises BackendError. The first call may take seconds: it imports the network's library."""
        name = self._settings.model_class
        module_name, _, class_name = name.partition(":")
        if not class_name:
            raise BackendError(f"MODEL_CLASS={name}: write it as module:Class, as in model:ImageClassifierAPI")
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.append(here)  # a model.py of the user's own lies where the server is started
        first = module_name not in sys.modules
        try:
            module = importlib.import_module(module_name)
            if first:
                # A network's library is half a million objects that stay. Looking at each of them again and again
                # would stop all threads for some tenths of a second, and copy their memory in each forked process.
                gc.freeze()
            return getattr(module, class_name)
        except (ImportError, AttributeError) as error:
            raise BackendError(f"MODEL_CLASS={name} cannot be loaded: {said(error)}") from error

    def __call__(self, project: Project, version: Version | None) -> Any:
        """An instance for a project, with a version's resources."""
        return self.load()(
            label_config=project.label_config,
            train_output=version.train_output if version else None,
            media=self.open_media(project),
        )

    def credentials(self, project: Project) -> Credentials | None:
        """What `/setup` said of the project's Label Studio; None where the settings say all of it."""
        if self._settings.label_studio_url and self._settings.label_studio_api_key.get_secret_value():
            return None
        return self._projects.credentials(project.uid)

    def open_media(self, project: Project) -> Media:
        """The images of a project's tasks, and those that were corrected by hand."""
        kept = corrections_folder(self._projects.folder(project.uid))
        return open_media(self._settings, self.credentials(project), self._media_pool, kept, self.images)

    def embeddings(self) -> EmbeddingCounts:
        """What the class, where it is loaded and counts them, has looked up in its cache in this process."""
        loaded = sys.modules.get(self._settings.model_class.partition(":")[0])
        model_class = getattr(loaded, self._settings.model_class.partition(":")[2], None)
        tells = getattr(model_class, "cache_lookups", None)
        return EmbeddingCounts(tells() if tells else {})
