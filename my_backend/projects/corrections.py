"""Images corrected over HTTP: kept with their correct labels, and used in every later training run."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from label_studio_format.labeling_config import ImageChoices
from my_backend import files
from my_backend.errors import NotFound
from my_backend.projects.deleted import unless_deleted

KEPT = "kept:"  # prefix, before the digest, of the URL of an image that came with a request


@dataclass(frozen=True)
class Correction:
    """A corrected image, by its content's SHA-256, its labels, and when they were given (UTC, ISO 8601)."""

    image: str
    labels: list[str]
    corrected_at: str


@dataclass(frozen=True)
class _Said:
    """The record stored next to a corrected image."""

    labels: list[str]
    corrected_at: str


_SAID = TypeAdapter(_Said)


def corrections_folder(project_folder: Path) -> Path:
    """The folder of a project's corrected images, each named by its content's digest, next to its labels."""
    return project_folder / "corrections"


class Corrections:
    """The corrected images of one project."""

    def __init__(self, project_folder: Path) -> None:
        self._folder = corrections_folder(project_folder)

    def keep(self, image: bytes, digest: str, labels: Sequence[str]) -> None:
        """Keeps an image with the names of its choices, replacing earlier ones; raises NotFound."""
        with unless_deleted(self._folder.parent):
            files.write(self._folder / digest, image, make_folder=True)
            files.write_json(self._folder / f"{digest}.json", asdict(_Said(list(labels), _now())))

    def newest_first(self) -> list[Correction]:
        return sorted(self._all(), key=lambda one: (one.corrected_at, one.image), reverse=True)

    def given(self) -> dict[str, str | None]:
        """When each image's labels were given; None if they can't be read at the moment."""
        known = {one.image: one.corrected_at for one in self._all()}
        return {path.stem: known.get(path.stem) for path in self._records()}

    def check(self, image: str) -> None:
        """Raises NotFound if there is no correction of this image."""
        if not any(image == path.stem for path in self._records()):
            raise _unknown(image)

    def remove(self, image: str) -> None:
        """Has later training runs ignore a corrected image, and deletes it; raises NotFound."""
        self.check(image)
        with unless_deleted(self._folder.parent):
            # First, since labels must not outlive their image. Another process may remove them at the same time.
            if not files.remove(self._folder / f"{image}.json"):
                raise _unknown(image)
            files.remove(self._folder / image)

    def _records(self) -> list[Path]:
        """The files with labels; raises OSError if the folder can't be listed: it must not look empty."""
        if not self._folder.exists():
            return []
        return [path for path in self._folder.iterdir() if path.suffix == ".json"]

    def _all(self) -> Iterator[Correction]:
        for path in self._records():
            if said := files.read_record(path, _SAID):
                yield Correction(path.stem, said.labels, said.corrected_at)

    def look(self) -> None:
        """Reads all labels, which lists the damaged ones."""
        for path in self._records():
            files.read_record(path, _SAID)


def _unknown(image: str) -> NotFound:
    return NotFound(f"there is no correction for image {image[:64]}")


def as_tasks(corrections: Sequence[Correction], tag: ImageChoices) -> list[dict[str, Any]]:
    """Corrections as annotated tasks for a tag of the labeling config; `corrected` marks them."""
    return [_task(one, tag) for one in sorted(corrections, key=lambda one: one.image)]


def _task(one: Correction, tag: ImageChoices) -> dict[str, Any]:
    region = {
        "from_name": tag.from_name,
        "to_name": tag.to_name,
        "type": "choices",
        "value": {"choices": one.labels},
    }
    annotation = {"updated_at": one.corrected_at, "result": [region]}
    return {"data": {tag.field: KEPT + one.image}, "annotations": [annotation], "corrected": True}


def _now() -> str:
    """The time in Label Studio's format, so that the two can be compared."""
    seconds = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1e6):06d}Z"
