"""Fetches one image of each kind of URL in a project."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from label_studio_format.image_value import image_url
from my_backend.errors import MediaError
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media import MediaRequest, media_pool, open_media
from my_backend.projects.registry import Credentials
from my_backend.settings import Settings


def samples_of(tasks: Iterable[dict[str, Any]], field: str) -> dict[str, MediaRequest]:
    """The first image of each kind of URL, by the kind's name; skips tasks without an image."""
    found: dict[str, MediaRequest] = {}
    for task in tasks:
        data = task.get("data")
        url = image_url(data, field) if isinstance(data, dict) else None
        if url:
            number = task.get("id")
            request = MediaRequest(url, number if isinstance(number, int) else None)
            found.setdefault(kind_of(request.url), request)
    return found


def kind_of(url: str) -> str:
    """Where an image comes from, in words."""
    if url.startswith("data:"):
        return "data: URIs"
    try:
        parts = urlsplit(url)
    except ValueError:
        return "invalid URLs"
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if parts.netloc and parts.scheme not in ("http", "https", ""):  # a bucket, whose keys may contain anything
        return place
    for mark, name in (
        ("/data/upload/", "uploads"),
        ("/data/local-files/", "local files"),
        ("/storage-data/", "storage that Label Studio proxies"),
    ):
        if mark in parts.path:
            return name
    return place if parts.scheme else "paths without a host"


def fetch_samples(
    settings: Settings, connections: Connections, credentials: Credentials | None, samples: dict[str, MediaRequest]
) -> dict[str, str]:
    """For each kind, why its image can't be read ("" if it can); bypasses the cache."""
    with TemporaryDirectory(prefix="image-samples-") as folder, media_pool() as pool:
        apart = settings.model_copy(update={"cache_dir": Path(folder)})
        media = open_media(apart, connections, credentials, pool)
        results = media.fetch_all(list(samples.values()))
    return {
        kind: str(result) if isinstance(result, MediaError) else ""
        for kind, result in zip(samples, results, strict=True)
    }
