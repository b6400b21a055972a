"""Images to review: the unlabeled tasks that the model is least certain of, and likely labeling mistakes."""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from my_backend.label_studio.media import Media, MediaFile, MediaRequest
from my_backend.label_studio.safe_http import Origin
from my_backend.projects.recent_predictions import Sighting
from my_backend.web.pages.versions import Mistake, VersionView, mistakes

SHOWN = 60
SHOWN_MISTAKES = 300


@dataclass(frozen=True)
class Tile:
    """An image with its prediction; `digest` is "" if the image isn't in the cache."""

    name: str
    digest: str
    link: str  # the task in Label Studio; "" if Label Studio's URL isn't known
    predicted: tuple[str, ...]
    confidence: float | None
    label: tuple[str, ...] = ()
    learned: bool = False
    version: str = ""


def unsure_tiles(sightings: Iterable[Sighting], media: Media, tasks_url: str) -> list[Tile]:
    """Predicted tasks without an annotation, the least certain first."""
    predicted = [one for one in sightings if one.choices]
    predicted.sort(key=lambda one: 1.0 if one.score is None else one.score)
    return [
        Tile(
            name=one.name,
            digest=_digest(media, one),
            link=task_link(tasks_url, str(one.task)),
            predicted=one.choices,
            confidence=one.score,
            version=one.version,
        )
        for one in predicted[:SHOWN]
    ]


def _digest(media: Media, sighting: Sighting) -> str:
    found = media.cached(MediaRequest(sighting.url, sighting.task)) if sighting.url else None
    return found.digest if isinstance(found, MediaFile) else ""


def mistake_tiles(version: VersionView | None, tasks_url: str) -> tuple[list[Tile], int]:
    """Annotated tasks for which the version predicts another label, least likely labels first; and their number."""
    found = mistakes(version) if version else []
    return [_mistake_tile(one, tasks_url) for one in found[:SHOWN_MISTAKES]], len(found)


def _mistake_tile(mistake: Mistake, tasks_url: str) -> Tile:
    return Tile(
        name=f"task {mistake.task}" if mistake.task else "corrected here",
        digest=mistake.digest,
        link=task_link(tasks_url, mistake.task),
        predicted=mistake.predicted,
        confidence=mistake.confidence,
        label=mistake.label,
        learned=mistake.learned,
    )


def page_of_label_studio(hostname: str, path: str) -> str:
    """The URL of one of Label Studio's pages; "" if `hostname` isn't an http(s) URL."""
    try:
        Origin.of(hostname)
    except ValueError:
        return ""
    return f"{hostname.rstrip('/')}/{path}"


def task_link(tasks_url: str, task: str) -> str:
    return f"{tasks_url}?task={quote(task)}" if tasks_url and task.isdigit() else ""
