"""Records in MODEL_DIR: whatever a file contains, the backend uses it or calls it damaged, and shows its pages."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from unittest.mock import patch

from my_backend import files
from my_backend.backend import Backend
from my_backend.errors import BackendError
from my_backend.projects.embeddings import Embeddings
from my_backend.projects.page_summaries import digest_of_annotations
from my_backend.settings import Settings
from my_backend.web.app import create_app
from tests.fuzzing.target import HOSTILE_JSON, Read, Target, named
from tests.my_backend.conftest import FAKE_MODEL, PROJECT
from tests.my_backend.fake_model import SCRIPT
from tests.my_backend.whole_project import FILES, PAGE, READ_BY_WORKERS, fill

PAGES = ("/projects/7", "/projects/7/versions", "/projects/7/look", "/problems")
SHARED = (".moved", ".tally.json")  # by all projects


@contextmanager
def _whole() -> Iterator[tuple[Backend, dict[str, Path]]]:
    """A backend whose project has every file, and these files by their names."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {SCRIPT: f"{folder}/script.json"}):
        folders = {"model_dir": Path(folder, "models"), "cache_dir": Path(folder, "cache")}
        backend = Backend(Settings(_env_file=None, model_class=FAKE_MODEL, **folders))
        try:
            project = fill(backend.projects, PROJECT)
            sums = {json.dumps(["a", {"project": PROJECT}]): 1.0}
            (backend.projects.root / ".tally.json").write_text(json.dumps(sums))
            found = {name: next(project.glob(name)) for name in (*FILES, *READ_BY_WORKERS)}
            yield backend, found | {name: backend.projects.root / name for name in SHARED}
        finally:
            backend._media_pool.shutdown()


@contextmanager
def _open() -> Iterator[Read]:
    with _whole() as (backend, paths):
        pages, times = create_app(backend).test_client(), count(1)
        whole = {path: path.read_bytes() for path in paths.values()}
        applied = [paths["annotated.json"], paths["events/*.json"]]  # reading the tasks replaces the events by them

        def put(path: Path, content: bytes) -> None:
            path.write_bytes(content)
            changed = next(times) * 1_000_000_000  # files look unchanged if they are written within a tick of the clock
            os.utime(path, ns=(changed, changed))

        def read(data: bytes) -> None:
            """The name of a file in the first line, then its content."""
            name, _, content = data.partition(b"\n")
            path = paths.get(name.decode(errors="replace"))
            if path is None:
                return
            put(path, content)
            try:
                _read_all(backend)
                if path not in files._damaged:
                    for page in PAGES:
                        answer = pages.get(page, headers={"Accept": "text/html"}, buffered=True)
                        assert answer.status_code in (200, 404), (page, answer.text)
            finally:
                for one in {path, *applied}:
                    put(one, whole[one])
                files._damaged.clear()

        yield read


def _read_all(backend: Backend) -> None:
    """Reads what is on disk as servers and workers do; raises only if a damaged file stops one of them."""
    backend.projects.refresh()
    backend.storage._read_all()
    backend.job_store.tally.sums()
    annotation_log = backend.projects.annotation_log(PROJECT)
    if tasks := annotation_log.tasks():
        digest_of_annotations([annotation_log.summaries.of(page) for page in (*tasks.pages, PAGE)])
    Embeddings(backend.projects.folder(PROJECT)).wanted()
    backend.recent.of(PROJECT)
    with suppress(BackendError):
        backend.projects.get(PROJECT)
    for run in backend.labeling.store.of_project(PROJECT):
        with suppress(BackendError):
            backend.labeling.store.plan(run)
    backend.acceptor.store.automatic(PROJECT)
    if newest := backend.acceptor.store.newest(PROJECT):
        with suppress(BackendError):
            backend.acceptor.store.predictions(newest)


def _seeds() -> Iterable[bytes]:
    with _whole() as (_, paths):
        yield from (named(name, path.read_bytes()) for name, path in paths.items())
    for name in ("project.json", "live", "annotated.json"):
        yield from (named(name, one) for one in HOSTILE_JSON)


TARGET = Target(_open, _seeds, (*FILES, *READ_BY_WORKERS, *SHARED, "NaN", "1e300", "Infinity"))
