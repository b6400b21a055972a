"""A real Label Studio for the tests of a session, and digits to label."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from demo.backend import Backend
from demo.digits import write_digits
from demo.label_studio import LabelStudio
from tests.e2e.browser import chromium


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    with LabelStudio(tmp_path_factory.mktemp("label-studio")) as running:
        yield running


@pytest.fixture(scope="session")
def label_studio_with_legacy_tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    with LabelStudio(tmp_path_factory.mktemp("label-studio-legacy"), legacy_tokens=True) as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def servers(label_studio: LabelStudio, label_studio_with_legacy_tokens: LabelStudio) -> None:
    """Starts before the first test, because each test is checked for processes it leaves behind."""


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


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
