"""A Label Studio project, and what is kept of it on disk."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from my_backend.projects.annotation_log import Changes
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

    @property
    def id(self) -> int:
        """Returns the project's id in Label Studio."""
        return int(self.uid.partition(".")[0])

    @property
    def versions(self) -> Versions:
        return Versions(self.folder)

    @property
    def changes(self) -> Changes:
        """Returns the annotation log."""
        return Changes(self.folder)

    @property
    def corrections(self) -> Corrections:
        return Corrections(self.folder)
