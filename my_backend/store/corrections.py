"""Images that were corrected over HTTP: kept with their right labels, and learned by every later training."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from my_backend import files
from my_backend.protocol.label_config import ImageChoices

KEPT = "kept:"  # begins the URL of an image that came with a request; its digest follows


def corrections_folder(project_folder: Path) -> Path:
    """Where a project's corrected images lie, each under the digest of its content, with its labels beside it."""
    return project_folder / "corrections"


class Corrections:
    """The corrected images of one project."""

    def __init__(self, project_folder: Path) -> None:
        self._folder = corrections_folder(project_folder)

    def keep(self, image: bytes, digest: str, labels: Sequence[str]) -> None:
        """Keeps an image with the names of its choices, in the place of what was said of it before."""
        files.write(self._folder / digest, image)
        said = {"labels": list(labels), "corrected_at": _now()}
        files.write_json(self._folder / f"{digest}.json", said)

    def tasks(self, tag: ImageChoices) -> list[dict[str, Any]]:
        """As annotated tasks of the labeling config's tag; `corrected` tells them from Label Studio's."""
        found = ((path.stem, files.read_json(path)) for path in sorted(self._folder.glob("*.json")))
        return [_task(digest, said["labels"], said["corrected_at"], tag) for digest, said in found if said]


def _task(digest: str, labels: list[str], corrected_at: str, tag: ImageChoices) -> dict[str, Any]:
    region = {
        "from_name": tag.from_name,
        "to_name": tag.to_name,
        "type": "choices",
        "value": {"choices": labels},
    }
    annotation = {"updated_at": corrected_at, "result": [region]}
    return {"data": {tag.field: KEPT + digest}, "annotations": [annotation], "corrected": True}


def _now() -> str:
    """As Label Studio writes it, so that the two can be compared."""
    seconds = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1e6):06d}Z"
