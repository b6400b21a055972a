"""The real Label Studio of the session, and digits to label."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from testing.backend import Backend
from testing.digits import write_digits
from testing.label_studio import LabelStudio
from tests.e2e.browser import chromium


@pytest.fixture(scope="session", autouse=True)
def label_studio(real_label_studio: LabelStudio) -> LabelStudio:
    """Starts before the first test, because each test is checked for processes it leaves behind."""
    return real_label_studio


@pytest.fixture
def legacy_tokens(label_studio: LabelStudio) -> Iterator[None]:
    """Label Studio accepts legacy tokens, as an organization can allow."""
    settings = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
    label_studio.request("POST", "/api/jwt/settings", json=settings)
    yield
    label_studio.request("POST", "/api/jwt/settings", json={**settings, "legacy_api_tokens_enabled": False})


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def shared_backend(tmp_path_factory: pytest.TempPathFactory, label_studio: LabelStudio) -> Iterator[Backend]:
    """For tests that need no settings of their own, and ask for nothing but their own project."""
    settings = {"IMAGE_SIZE": "64", "WEIGHTS": "none", "RETRAIN_AFTER_ANNOTATIONS": "0", "TRAIN_MODE": "head"}
    with Backend(tmp_path_factory.mktemp("shared-backend"), label_studio, **settings) as backend:
        yield backend


@pytest.fixture
def serve(tmp_path: Path, label_studio: LabelStudio) -> Iterator[Callable[..., Backend]]:
    """Starts backends, by default for the shared Label Studio; ends them after the test."""
    started: list[Backend] = []

    def start(label_studio: LabelStudio = label_studio, **settings: str) -> Backend:
        backend = Backend(tmp_path / f"backend-{len(started)}", label_studio, **settings)
        started.append(backend)
        backend.__enter__()
        return backend

    yield start
    for backend in started:
        backend.__exit__(None, None, None)
