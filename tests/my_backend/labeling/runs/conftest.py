"""A project with unlabeled tasks in a fake Label Studio, and a writer that works without a thread."""

from collections.abc import Callable

import pytest

from my_backend.counters.on_disk import Tally
from my_backend.label_studio.connections import Connections
from my_backend.labeling.runs.records import Labels, Run
from my_backend.labeling.runs.writer import Writer
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from testing.fake_label_studio.server import FakeLabelStudio
from tests.my_backend.conftest import PROJECT, MakeSettings
from tests.my_backend.fake_model import LABEL_CONFIG

CONNECTED = Project(PROJECT, LABEL_CONFIG)

MakeWriter = Callable[[], Writer]


@pytest.fixture
def make_writer(make_settings: MakeSettings, label_studio: FakeLabelStudio) -> MakeWriter:
    """Makes writers for the same MODEL_DIR, as different processes have them."""

    def make() -> Writer:
        settings = make_settings(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat)
        projects = Projects.of(settings)
        projects.remember(PROJECT, label_config=LABEL_CONFIG)
        return Writer(projects, Connections(settings), Tally(projects.root))

    return make


@pytest.fixture
def writer(make_writer: MakeWriter) -> Writer:
    return make_writer()


def submit(writer: Writer, *labels: tuple[str, list[int]]) -> Run:
    return writer.submit(CONNECTED, [Labels([choice], tasks) for choice, tasks in labels])


def end(writer: Writer, run: Run) -> Run:
    """Carries the run out until it ends."""
    for _ in range(100):
        run = writer.store.get(run.id)
        if not run.unfinished:
            return run
        writer.carry_out(run)
    raise AssertionError(run)
