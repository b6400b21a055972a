"""Images to review: unlabeled tasks that the model is least certain of, and labels that it disagrees with."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import quote

from my_backend.label_studio.media import Media, MediaRequest
from my_backend.label_studio.media_cache import MediaFile
from my_backend.label_studio.project_connection import without_password
from my_backend.projects.recent_predictions import Sighting
from my_backend.web.pages.versions import Mistake
from safe_http.session import Origin

SHOWN = 60  # images of each list; *Show more* doubles them, up to MOST_SHOWN
MOST_SHOWN = 5_000


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


@dataclass(frozen=True)
class Wanted:
    """Which images to show, in which order, and how many. The default order and all images are ""."""

    label: str = ""
    predicted: str = ""
    sort: str = ""
    shown: int = SHOWN

    @property
    def anything(self) -> bool:
        """Whether the filter leaves anything out."""
        return bool(self.label or self.predicted)

    def has(self, predicted: tuple[str, ...], label: tuple[str, ...] = ()) -> bool:
        """Whether to show an image with this prediction and label; unlabeled images pass any label filter."""
        return self.predicted in ("", *predicted) and (not label or self.label in ("", *label))


SORTS = {"": "Least certain first", "sure": "Most confident first", "newest": "Newest first"}


def unsure_tiles(
    sightings: Iterable[Sighting], media: Media, tasks_url: str, wanted: Wanted = Wanted()
) -> tuple[list[Tile], int]:
    """Predicted tasks without an annotation, by default the least certain first; and their number."""
    found = [one for one in sightings if one.choices and wanted.has(one.choices)]
    orders: dict[str, Callable[[Sighting], float]] = {
        "": lambda one: 1.0 if one.score is None else one.score,
        "sure": lambda one: -1.0 if one.score is None else -one.score,
        "newest": lambda one: -one.at,
    }
    found.sort(key=orders.get(wanted.sort, orders[""]))
    tiles = [
        Tile(
            name=one.name,
            digest=_digest(media, one),
            link=task_link(tasks_url, str(one.task)),
            predicted=one.choices,
            confidence=one.score,
            version=one.version,
        )
        for one in found[: wanted.shown]
    ]
    return tiles, len(found)


def _digest(media: Media, sighting: Sighting) -> str:
    found = media.cached(MediaRequest(sighting.url, sighting.task)) if sighting.url else None
    return found.digest if isinstance(found, MediaFile) else ""


def mistake_tiles(all_found: Iterable[Mistake], tasks_url: str, wanted: Wanted) -> tuple[list[Tile], int]:
    """Annotated tasks for which a version predicts another label, by default the least likely labels first.

    Also returns their number.
    """
    found = [one for one in all_found if wanted.has(one.predicted, one.label)]
    if wanted.sort == "sure":
        found.sort(key=lambda one: -one.confidence)
    elif wanted.sort == "newest":
        found.sort(key=lambda one: -int(one.task) if one.task.isdigit() else -math.inf)
    return [_mistake_tile(one, tasks_url) for one in found[: wanted.shown]], len(found)


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
    """The URL of one of Label Studio's pages, without a password; "" if `hostname` isn't an http(s) URL."""
    try:
        Origin.of(hostname)
    except ValueError:
        return ""
    return f"{without_password(hostname).rstrip('/')}/{path}"


def task_link(tasks_url: str, task: str) -> str:
    return f"{tasks_url}?task={quote(task)}" if tasks_url and task.isdigit() else ""
