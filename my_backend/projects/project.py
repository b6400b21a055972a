"""A Label Studio project, and what is kept of it on disk."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from label_studio_format.labeling_config import LabelConfig, parse_label_config
from my_backend.projects.annotation_log import AnnotationLog
from my_backend.projects.corrections import Corrections
from my_backend.projects.versions import Versions

NOWHERE = Path(os.devnull)


@dataclass(frozen=True)
class Project:
    """A project as Label Studio describes it, with the folder that has all of its files."""

    uid: str  # Label Studio's id, a dot, and the creation time in Unix seconds
    label_config: str = ""
    title: str = ""
    folder: Path = field(default=NOWHERE, compare=False, repr=False)
    choices_name: str = field(default="", compare=False, repr=False)  # the setting CHOICES

    @property
    def id(self) -> int:
        """The project's id in Label Studio."""
        return int(self.uid.partition(".")[0])

    @property
    def config(self) -> LabelConfig:
        """The labeling config, parsed; each config is parsed once."""
        return parse_label_config(self.label_config, self.choices_name)

    @property
    def versions(self) -> Versions:
        return Versions(self.folder)

    @property
    def annotation_log(self) -> AnnotationLog:
        """The annotation log."""
        return AnnotationLog(self.folder)

    @property
    def corrections(self) -> Corrections:
        return Corrections(self.folder)
