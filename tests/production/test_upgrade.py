"""A MODEL_DIR that an earlier release wrote is served, shown and trained on; its CACHE_DIR is used."""

import base64
import json
import os
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from my_backend.jobs.record import new_job
from my_backend.jobs.run import cancel_waiting
from my_backend.jobs.store import JobStore
from my_backend.projects.versions import Versions
from testing.digits import LABEL_CONFIG
from testing.fake_label_studio.server import FakeLabelStudio
from testing.process import Process, answers, free_port
from testing.production import Server
from testing.waiting import eventually
from tests.data.record_model_dir import FOLDER, SETTINGS, annotated, finish, predictions
from tests.production.conftest import ROOT
from tests.production.site import DEADLINE

RECORDINGS = sorted(FOLDER.glob("model_dir_*.tar.xz"))
# How many embeddings the server found in its cache, and how many it did not find.
LOOKUPS = re.compile(r'^ml_backend_embedding_cache_lookups_total\{[^}]*result="(\w+)"[^}]*\} (\d+)\.0$', re.MULTILINE)
SCORE_TOLERANCE = 0.02  # another processor may compute in another precision


@contextmanager
def running(folder: Path, label_studio: FakeLabelStudio) -> Iterator[Server]:
    port = free_port()
    own = {
        "PORT": str(port),
        "MODEL_DIR": str(folder / "data"),
        "CACHE_DIR": str(folder / "cache"),
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.pat,
        "RETRAIN_AFTER_ANNOTATIONS": "0",  # or the annotation that 0.1.0 had not learned starts a training by itself
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "my_backend", "serve"]
    with Process(command, env={**os.environ, **SETTINGS, **own}, folder=folder, log=folder / "server.log") as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_until(lambda: answers(f"{url}/ready"), DEADLINE)
        yield Server(process, url)


def choice(result: dict[str, Any]) -> list[str]:
    return list(result["result"][0]["value"]["choices"])


def test_there_is_a_recording() -> None:
    assert RECORDINGS


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
def test_model_dir_of_earlier_release_is_served_shown_and_trained_on(recording: Path, tmp_path: Path) -> None:
    with tarfile.open(recording) as archive:
        archive.extractall(tmp_path, filter="data")
    expected = json.loads((tmp_path / "expected.json").read_text("utf-8"))
    project, (first, live) = expected["project"], expected["versions"]
    images = []
    for number, uri in enumerate(expected["images"]):
        images.append(tmp_path / f"{number}.png")
        images[-1].write_bytes(base64.b64decode(uri.partition(",")[2]))

    # 0.1.0 did not note which corrections its versions know, so ten seconds after its start the server would train by
    # itself: on a busy machine in the middle of all this. It does not after a training that somebody has canceled.
    store = JobStore(tmp_path / "data" / "projects")
    store.save(canceled := new_job(project, "head", "test"))
    cancel_waiting(canceled, store)

    labels = ["3" if number % 2 else "8" for number in range(len(images))]
    label_studio = FakeLabelStudio()
    label_studio.project["label_config"] = LABEL_CONFIG
    label_studio.annotated = [annotated(*task) for task in zip(range(1, 100), images, labels, strict=False)]

    with label_studio.running(), running(tmp_path, label_studio) as server:
        results = predictions(server, images)
        assert [choice(result) for result in results] == [choice(result) for result in expected["results"]]
        assert [result["score"] for result in results] == pytest.approx(
            [result["score"] for result in expected["results"]], abs=SCORE_TOLERANCE
        )
        assert {result["model_version"] for result in results} == {live}
        lookups = Counter[str]()
        for result, number in LOOKUPS.findall(server.request("GET", "/metrics").text):
            lookups[result] += int(number)
        # At least: while the machine is busy, the server also looks up the project's tasks before it is asked.
        assert lookups["hit"] >= len(images) and not lookups["miss"], "its cache is used"

        browser = {"Accept": "text/html"}
        for page in ("", "/versions", f"/versions/{first}", f"/versions/{live}", "/look"):
            text = server.request("GET", f"/projects/{project}{page}", headers=browser).text
            assert live.partition("-")[0] in text, page
        assert server.get("/health")["projects"] == 2
        assert server.post("/versions", {"project": project})["versions"] == [live, first]
        assert Versions(tmp_path / "data" / "projects" / project).pinned() == [first]

        newest = finish(server, server.post("/api/models/train", {"project": project})["job"])
        assert int(newest.partition("-")[0][1:]) == 3
        assert [choice(result) for result in predictions(server, images)] == [[label] for label in labels]
        server.post("/api/models/activate", {"project": project, "version": first})
        assert eventually(lambda: predictions(server, images[:1])[0]["model_version"] == first)
