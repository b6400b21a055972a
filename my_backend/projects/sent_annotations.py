"""The annotated tasks that came with POST /train: kept until a training run has learned them."""

import os
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from label_studio_format.tasks import AnnotatedTask
from my_backend import files
from my_backend.files import Damaged
from my_backend.projects.deleted import unless_deleted

SET_ASIDE = "annotations-set-aside.json"  # the last ones that couldn't be learned, for people to inspect
UNREADABLE = "unreadable"  # not JSON, so it counts as damaged

_TASKS = TypeAdapter(list[AnnotatedTask])


class SentAnnotations:
    """The annotations sent with the latest request about a project; another request replaces them.

    They are read as text, which tells whether they are still the same when a training run has ended.
    """

    def __init__(self, project_folder: Path) -> None:
        self.path = project_folder / "annotations.json"

    def keep(self, tasks: list[dict[str, Any]]) -> None:
        """Keeps annotated tasks, replacing earlier ones; raises NotFound."""
        with unless_deleted(self.path.parent):
            files.write_json(self.path, tasks)

    def read(self) -> str:
        """The annotations; "" if there are none, or another job has learned them.

        Also "" if they can't be opened at the moment: they stay, and `Backlog` starts a training run once they can be.
        """
        text = files.examine(self.path, bytes.decode)
        if text is None or (isinstance(text, Damaged) and text.unopened):
            return ""
        if isinstance(text, Damaged) or not text:  # a loss of power may leave an empty file
            return UNREADABLE
        return text

    def exist(self) -> bool:
        """Whether there are any, readable or not."""
        return self.path.exists()

    def can_be_opened(self) -> bool:
        """False if the disk returns an error at the moment."""
        found = files.examine(self.path, len)
        return not (isinstance(found, Damaged) and found.unopened)

    def came_ns(self) -> int:
        """When they were stored, in nanoseconds since 1970."""
        return files.changed_ns(self.path)

    def set_aside(self, text: str) -> None:
        """Moves these annotations away, unless new ones have come since."""
        if self.read() == text:
            os.replace(self.path, self.path.with_name(SET_ASIDE))

    def forget(self, text: str) -> None:
        """Removes these annotations, unless new ones have come since."""
        if text and self.read() == text:
            self.path.unlink(missing_ok=True)

    def forget_all(self) -> None:
        """Removes the annotations, whichever they are: their training run was canceled before it started."""
        self.path.unlink(missing_ok=True)


def are_tasks(text: str) -> bool:
    """Whether the text is a list of annotated tasks, as JSON."""
    try:
        _TASKS.validate_json(text)
    except ValidationError:
        return False
    return True
