"""Real processes: a Redis for the session, and workers and servers that end with each test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testing.fake_label_studio.annotated_projects import TOKEN, AnnotatedProjects
from testing.production import Production, Redis
from tests.production.digit_images import SETTINGS, DigitImages
from tests.production.memorizing_model import FOLDER, MODEL_CLASS, Script

ROOT = Path(__file__).resolve().parents[2]

MakeProduction = Callable[..., Production]


@pytest.fixture(scope="session")
def session_redis() -> Iterator[Redis]:
    with Redis() as running:
        yield running


@pytest.fixture
def redis(session_redis: Redis) -> Redis:
    """The session's, empty; it is to stay alive."""
    session_redis.client.flushall()
    return session_redis


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    """One that the test may kill."""
    with Redis() as running:
        yield running


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """What the memorizing model does, in this process and in those that it starts."""
    folder = tmp_path / "script"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    monkeypatch.setenv("MODEL_CLASS", MODEL_CLASS)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Script(folder)


@pytest.fixture
def label_studio(monkeypatch: pytest.MonkeyPatch) -> Iterator[AnnotatedProjects]:
    """The Label Studio that is configured for this process and for those that it starts."""
    with AnnotatedProjects().running() as running:
        monkeypatch.setenv("LABEL_STUDIO_URL", running.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
        yield running


@pytest.fixture
def production(tmp_path: Path) -> Iterator[MakeProduction]:
    """Makes the production mode on a Redis, with a MODEL_DIR of its own; the settings are its arguments."""
    made: list[Production] = []

    def make(redis: Redis, **settings: str) -> Production:
        made.append(Production(tmp_path / f"production-{len(made)}", redis.url, **settings))
        return made[-1]

    yield make
    for production in made:
        production.__exit__(None, None, None)


@pytest.fixture
def images(digits: list[tuple[Path, str]]) -> Iterator[DigitImages]:
    """Digits on an HTTP server."""
    with DigitImages(digits).served() as served:
        yield served


@pytest.fixture
def classifier(redis: Redis, production: MakeProduction, monkeypatch: pytest.MonkeyPatch) -> Production:
    """The production mode with the model class that is really served; nothing is started yet."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return production(redis, **SETTINGS)
