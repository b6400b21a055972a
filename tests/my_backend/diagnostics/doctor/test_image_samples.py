"""One image of each kind of URL is fetched, and nothing is cached."""

from typing import Any

import pytest

from my_backend.diagnostics.doctor.image_samples import fetch_samples, kind_of, samples_of
from my_backend.label_studio.connections import Connections
from testing.fake_label_studio.server import FakeLabelStudio
from tests.my_backend.conftest import MakeSettings

PNG = b"\x89PNG\r\n and so on"
LOCAL = "/data/local-files/?d=pets/cat.png"


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("/data/upload/7/cat.png", "uploads"),
        ("http://label-studio.example/sub/data/upload/7/cat.png", "uploads"),
        (LOCAL, "local files"),
        ("/storage-data/uploaded/?filepath=x", "storage that Label Studio proxies"),
        ("https://me:secret@images.example/cat.png?token=1", "https://images.example"),
        ("s3://bucket/cat.png", "s3://bucket"),
        ("azure-blob://container/data/upload/cat.png", "azure-blob://container"),
        ("gs:cat.png", "gs://"),
        ("data:image/png;base64,AAAA", "data: URIs"),
        ("cat.png", "paths without a host"),
        ("http://[", "invalid URLs"),
    ],
)
def test_kind_is_named_without_secrets(url: str, kind: str) -> None:
    assert kind_of(url) == kind


def test_first_image_of_each_kind_is_chosen() -> None:
    tasks: list[dict[str, Any]] = [
        {"id": 1, "data": {"image": "/data/upload/7/a.png"}},
        {"id": 2, "data": {"image": "/data/upload/7/b.png"}},
        {"id": 3, "data": {"$undefined$": LOCAL}},
        {"id": 4, "data": {"text": "none"}},
        {"id": 5, "data": None},
    ]

    found = samples_of(tasks, "image")

    assert {kind: (request.url, request.task_id) for kind, request in found.items()} == {
        "uploads": ("/data/upload/7/a.png", 1),
        "local files": (LOCAL, 3),
    }


def test_samples_are_found_by_the_value_of_the_image_tag() -> None:
    tasks = [{"id": 1, "data": {"file": "a.png"}}, {"id": 2, "data": {}}]

    found = samples_of(tasks, " HTTP://images.example/$file")

    assert {kind: request.url for kind, request in found.items()} == {
        "http://images.example": "http://images.example/a.png"
    }


def test_images_are_fetched_past_the_cache(label_studio: FakeLabelStudio, make_settings: MakeSettings) -> None:
    settings = make_settings(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat)
    label_studio.files["/data/upload/7/a.png"] = PNG
    tasks = [{"id": 1, "data": {"image": "/data/upload/7/a.png"}}, {"id": 3, "data": {"image": LOCAL}}]
    samples = samples_of(tasks, "image")

    first = fetch_samples(settings, Connections(settings), None, samples)
    label_studio.files.clear()
    second = fetch_samples(settings, Connections(settings), None, samples)

    assert first["uploads"] == ""
    assert "no Local Files storage" in first["local files"]
    assert "404" in second["uploads"]
    assert not settings.cache_dir.exists()
