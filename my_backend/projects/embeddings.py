"""The embeddings of a project's tasks that all hosts share: whether people want them, and which exist.

Tasks are divided into ranges of their ids, each with a file. The name of a file says everything about it, so the files
themselves are the record of what is done, and no process can leave another record that contradicts them.
"""

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import rmtree
from uuid import uuid4

from pydantic import TypeAdapter

from my_backend import files
from my_backend.errors import Conflict
from my_backend.files import Moment
from my_backend.projects.deleted import unless_deleted

EMBEDDINGS_FOLDER = "embeddings"  # in a project's folder
WANTED_FILE = "embeddings.json"
RANGE_TASKS = 2_000  # task ids of a range: with ResNet18, half a minute on two cores, and 4 MB


@dataclass(frozen=True)
class Wanted:
    """The request to share a project's embeddings, and what workers know about them."""

    since: Moment  # when people last asked for them
    version: str = ""  # the live version when a worker last looked
    space: str = ""  # what this version's model calls its embeddings; those of another space can't be compared
    tasks: int = 0  # of the project, as last counted
    embedded: int = 0  # tasks of all ranges when the last pass was complete
    complete: bool = False  # whether all tasks that were counted are in ranges


@dataclass(frozen=True)
class Range:
    """The tasks of a range, up to an id, and how many of their images have an embedding."""

    number: int
    through: int  # the highest id that was looked for
    images: int
    tasks: int
    path: Path

    @classmethod
    def of(cls, path: Path) -> "Range | None":
        """The range that a file has; None for other files."""
        try:
            number, through, images, tasks = map(int, path.name.split("-"))
        except ValueError:
            return None
        return cls(number, through, images, tasks, path)

    def is_done(self, newest: int, since: float) -> bool:
        """Whether there is nothing to do if `newest` is the project's newest task.

        Images that couldn't be read are tried again if people have requested that after the last attempt, at `since`.
        """
        is_whole = self.through >= min(last_of(self.number), newest)
        return is_whole and (self.images == self.tasks or files.changed_ns(self.path) >= since * 1e9)


@dataclass(frozen=True)
class Totals:
    """The totals of the finished ranges of a space."""

    ranges: int
    tasks: int
    images: int  # tasks whose image has an embedding


_WANTED = TypeAdapter(Wanted)


def range_of(task: int) -> int:
    """The number of the range that a task id is in."""
    return task // RANGE_TASKS


def first_of(number: int) -> int:
    """The lowest task id of a range."""
    return number * RANGE_TASKS


def last_of(number: int) -> int:
    """The highest task id of a range."""
    return first_of(number + 1) - 1


def embeddings_folder(project_folder: Path) -> Path:
    """The folder with a subfolder for each space."""
    return project_folder / EMBEDDINGS_FOLDER


class Embeddings:
    """What is stored of a project's shared embeddings."""

    def __init__(self, project_folder: Path) -> None:
        self._project_folder, self._folder = project_folder, embeddings_folder(project_folder)

    # --- what people want ---------------------------------------------------

    def wanted(self) -> Wanted | None:
        """None if nobody wants shared embeddings, or no longer."""
        return files.read_record(self._project_folder / WANTED_FILE, _WANTED)

    def want(self) -> None:
        """Notes that people want the embeddings of all tasks; raises NotFound if the project was deleted."""
        with self._changing():
            self._write(replace(self.wanted() or Wanted(0.0), since=time.time(), complete=False))

    def stop(self) -> None:
        """Notes that nobody wants them any longer; existing ones stay."""
        with self._changing():
            files.remove(self._project_folder / WANTED_FILE)

    def begin(self, version: str, space: str, tasks: int) -> Wanted | None:
        """Notes what a worker is about to embed; returns None if nobody wants it any longer.

        Raises Conflict if other workers embed the same version in another space: each would undo the others' work.
        """
        with self._changing():
            if (wanted := self.wanted()) is None:
                return None
            if wanted.version == version and wanted.space != space:
                raise Conflict(
                    "This worker's embeddings differ from the first worker's, for example because of a different "
                    "precision. Use the same settings and the same kind of processor on all hosts. To start over: "
                    "`embed stop`, then `embed start`"
                )
            same = (wanted.space, wanted.tasks) == (space, tasks)
            wanted = replace(wanted, version=version, space=space, tasks=tasks, complete=wanted.complete and same)
            self._write(wanted)
            return wanted

    def note_complete(self, begun: Wanted) -> bool:
        """Notes that all ranges are done, and removes other spaces; returns False if others are wanted meanwhile."""
        with self._changing():
            if self.wanted() != begun:
                return False
            self._write(replace(begun, complete=True, embedded=self.totals(begun.space).tasks))
            for folder in self._folder.glob("*"):  # none if the project has no tasks
                if folder.name != begun.space:
                    rmtree(folder, ignore_errors=True)
        return True

    def _write(self, wanted: Wanted) -> None:
        files.write_json(self._project_folder / WANTED_FILE, asdict(wanted))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """A lock of all processes. Raises NotFound if the project was deleted."""
        with unless_deleted(self._project_folder), files.locked(self._project_folder / ".embeddings"):
            yield

    # --- ranges ---------------------------------------------------------------

    def folder(self, space: str) -> Path:
        """The folder with the files of a space; it changes whenever one of them does."""
        return self._folder / space

    def ranges(self, space: str) -> dict[int, Range]:
        """The ranges that have a file, by their numbers."""
        try:
            found = [one for entry in os.scandir(self.folder(space)) if (one := Range.of(Path(entry.path)))]
        except FileNotFoundError:
            return {}
        return {one.number: one for one in sorted(found, key=lambda one: (one.number, one.through))}

    def totals(self, space: str) -> Totals:
        """Lists the files once, however many tasks there are; all are 0 in a space without files."""
        found = self.ranges(space).values()
        return Totals(len(found), sum(one.tasks for one in found), sum(one.images for one in found))

    def claimed(self, space: str, number: int) -> AbstractContextManager[None]:
        """Holds a range while a process embeds it; raises InUse if another one does, NotFound if all was deleted.

        A process that has lost its lock without noticing only repeats another one's work.
        """
        return self._claimed(self.folder(space), number)

    @contextmanager
    def _claimed(self, folder: Path, number: int) -> Iterator[None]:
        with unless_deleted(self._project_folder):
            self._folder.mkdir(exist_ok=True)
            folder.mkdir(exist_ok=True)
            claim = folder / f".range-{number}"
            with files.claimed(claim):
                try:
                    yield
                finally:
                    claim.unlink(missing_ok=True)

    def new_file(self, space: str) -> Path:
        """A path to write a range to, which `add` then gives its name."""
        return self.folder(space) / f"{files.PART}{uuid4().hex}"

    def add(self, written: Path, number: int, through: int, images: int, tasks: int) -> None:
        """Takes a file that was written to `new_file` as that of a range, in place of earlier ones."""
        path = written.with_name(f"{number}-{through}-{images}-{tasks}")
        files.move(written, path)
        for entry in os.scandir(path.parent):
            earlier = Range.of(Path(entry.path))
            if earlier and earlier.number == number and earlier.path != path:
                earlier.path.unlink(missing_ok=True)
