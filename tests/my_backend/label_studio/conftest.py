"""Media of tests: with scripted image servers, and a cache in a temporary folder."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest

from my_backend.errors import MediaError
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.media import ImageLimits, Media, MediaPool, MediaRequest, media_pool
from my_backend.label_studio.media_cache import MediaFile
from safe_http.session import SafeSession
from testing.fake_label_studio.server import PNG, FakeLabelStudio
from testing.http_server import FakeServer, Reply

UPLOAD = "/data/upload/7/a.png"


@pytest.fixture
def pool() -> Iterator[MediaPool]:
    with media_pool() as pool:
        yield pool


OpenMedia = Callable[..., Media]


@pytest.fixture
def open_media(tmp_path: Path, pool: MediaPool) -> OpenMedia:
    def open_media(
        server: FakeLabelStudio | None = None,
        *allowed: str,
        token: str | None = None,
        limits: ImageLimits = ImageLimits(),  # noqa: B008  # frozen
        project: str = "",
    ) -> Media:
        session = SafeSession(allowed)
        label_studio = None
        if server is not None:
            key = server.pat if token is None else token
            label_studio = LabelStudio(server.url, key, SafeSession([server.server.host, *allowed]))
        return Media(tmp_path / "media", session, label_studio, pool, limits, project=project)

    return open_media


@pytest.fixture
def start() -> Iterator[Callable[..., FakeServer]]:
    """Starts image servers."""
    with ExitStack() as stack:
        yield lambda answer=lambda seen: Reply(200, PNG): stack.enter_context(FakeServer(answer))


Start = Callable[..., FakeServer]


def content(file: MediaFile | MediaError) -> bytes:
    assert isinstance(file, MediaFile), file
    body = file.path.read_bytes()
    assert file.digest == sha256(body).hexdigest()
    return body


def why_not(media: Media, url: str, task_id: int | None = 3) -> str:
    with pytest.raises(MediaError) as failed:
        media.fetch(MediaRequest(url, task_id))
    return str(failed.value)


def stored(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "media").rglob("*") if path.is_file())
