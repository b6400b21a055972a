"""The page Overview of a project: its live version, its training runs and shared embeddings."""

import json
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from my_backend import files
from my_backend.jobs.record import EMBED, new_job
from my_backend.projects.embeddings import Embeddings
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client
from tests.my_backend.embedded_ranges import SPACE, add_range
from tests.my_backend.fake_model import Script
from tests.my_backend.web.pages.page_text import EVIL, HERE, Tags, page, tag_of, words


def test_page_shows_the_live_version_its_figures_and_the_jobs(client: Client, script: Script) -> None:
    script.set(output={"figures": {"accuracy": 0.9375, "images": 16}, "labels": {"Cat": 3, "Dog": 2}})
    name = client.train()
    client.post("/webhook", {"action": "ANNOTATION_CREATED", "annotation": {"id": 1}})
    script.set(fit_raises="no luck")
    client.ended(client.submit_training())

    shown = words(client)

    assert "Live v1 Start training Accuracy 93.8% 16 held-out images" in shown
    assert "Training labels 5 2 choices Labels not yet used 1" in shown
    assert name in shown
    assert "Cat 3 Dog 2" in shown
    assert re.search(r"started manually Failed [\d.]+ s RuntimeError: no luck", shown)
    assert "The last training run failed. RuntimeError: no luck" in words(client, "/")


def test_page_shows_how_a_running_job_goes_and_what_waits(client: Client, script: Script) -> None:
    script.block("fit")
    running = client.submit_training()
    client.started(running)
    assert eventually(lambda: "loss" in client.backend.job_store.get(running).progress)
    client.backend.queue.submit(PROJECT, "full", "once more")

    shown = page(client)

    assert '<progress value="0.5" max="1"' in shown
    assert "epoch 1 of 2" in shown
    assert f'data-post="/api/jobs/{running}/cancel"' in shown
    assert "Waiting" in shown
    assert "once more" in shown
    assert 'data-busy="training"' in shown
    assert "Past training runs None yet." in words(client), "not below a heading that includes the running one"
    script.release()


def test_curves_grow_with_the_epochs_and_begin_again_with_a_phase(client: Client, script: Script) -> None:
    script.block("fit", epochs=[{"loss": 0.9}, {"loss": 0.5, "accuracy": 0.75}])
    client.started(client.submit_training())

    def drawn() -> bool:
        return all(name in page(client) for name in ("Loss <strong", "0.500", "Accuracy on held-out images", "75.0%"))

    assert eventually(drawn)
    assert page(client).count("<svg") == 2
    assert "Values by epoch Epoch Loss Accuracy 1 0.900 – 2 0.500 75.0%" in words(client)
    script.release()


@pytest.mark.parametrize(
    ("progress", "shown"),
    [
        ({"epoch": "x", "epochs": 8, "done": "half", "loss": [], "seconds_left": float("inf")}, ""),
        ({"epoch": 3, "epochs": 8, "fit": None, "fits": 5}, "epoch 3 of 8"),
        ({"epoch": 3, "epochs": 8, "fits": "many"}, "epoch 3 of 8"),
        ({"epoch": 10**400, "epochs": float("nan"), "images": 7}, "7 images"),
        ({"images": {}, "phase": [1]}, "[1]"),
    ],
)
def test_running_job_is_shown_whatever_the_model_class_says(
    client: Client, progress: dict[str, Any], shown: str
) -> None:
    job = replace(new_job(PROJECT, "full", "odd"), status="started", progress=progress)
    client.backend.job_store.save(job)

    assert shown in words(client)
    assert shown in words(client, "/")


def test_finished_job_is_shown_whatever_its_result_is(client: Client) -> None:
    for number, result in enumerate(({"versions": 5}, {"versions": {"a": 1}}, {"versions": [None, 7]})):
        job = replace(new_job(PROJECT, "full", f"odd {number}"), status="finished", started=1.0, ended=2.0)
        client.backend.job_store.save(replace(job, result=result))

    shown = words(client)

    assert all(f"odd {number} Finished" in shown for number in range(3))


def test_canceling_and_training_are_offered_where_they_can_be_done(client: Client, script: Script) -> None:
    posts = {attrs["data-post"] for tag, attrs in Tags(page(client)).found if "data-post" in attrs}
    assert posts == {"/api/models/train"}
    assert json.loads(next(a["data-body"] or "" for _, a in Tags(page(client)).found if "data-body" in a)) == {
        "project": PROJECT
    }


def test_progress_of_shared_embeddings_is_shown_where_they_are_shared(client: Client) -> None:
    embeddings, store = Embeddings(client.backend.projects.folder(PROJECT)), client.backend.job_store

    def posts() -> dict[str, str]:
        found = [attrs for tag, attrs in Tags(page(client)).found if "data-post" in attrs]
        return {str(one["data-post"]): str(one["data-body"]) for one in found}

    assert "Shared embeddings" not in words(client)
    embeddings.want()
    assert "Shared embeddings Stop Waiting for a worker. " in words(client)
    assert posts()["/api/embeddings/stop"] == json.dumps({"project": PROJECT})

    begun = embeddings.begin("v1", SPACE, 1200)
    assert begun is not None
    add_range(embeddings, 0, 1999, images=299, tasks=300)
    store.save(replace(new_job(PROJECT, EMBED, "x"), status="started"))
    store.save(replace(new_job(PROJECT, EMBED, "x"), status="started"))
    assert "Workers have finished 300 of 1,200 tasks; 1 image can’t be read. 2 workers" in words(client)
    assert '<progress value="0.25" max="1" aria-label="Finished tasks">' in page(client)
    assert "/api/embeddings/start" not in posts(), "workers are at it"

    for job in store.unfinished(PROJECT, (EMBED,)):
        store.save(replace(job, status="failed", error=f"no luck {EVIL}", ended=2.0))
    assert "The last job failed: no luck &lt;script&gt;" in words(client)
    assert "/api/embeddings/start" not in posts(), "another job comes by itself"
    embeddings.note_complete(begun)
    shown = words(client)
    assert "Try unreadable images again Stop Workers have finished all 1,200 tasks; 1 image can’t be read. " in shown
    assert "The last job failed" not in shown
    assert 'aria-label="Finished tasks"' not in page(client)
    assert posts()["/api/embeddings/start"] == json.dumps({"project": PROJECT})
    embeddings.stop()
    assert "Shared embeddings" not in words(client)


def test_page_changes_with_shared_embeddings(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    assert eventually(lambda: client.backend.serving.ready and client.backend.monitor.finding(PROJECT))
    embeddings = Embeddings(client.backend.projects.folder(PROJECT))
    tags = [tag_of(client, HERE)]
    embeddings.want()
    tags.append(tag_of(client, HERE))
    embeddings.stop()
    tags.append(tag_of(client, HERE))
    assert tags[0] == tags[2]
    assert tags[0] != tags[1]


def test_only_the_newest_jobs_are_read(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("full-20261120T101010-aaaaaa", "full-20261121T101010-cccccc", "head-20261121T101010-bbbbbb")
    for number, name in enumerate(names):
        job = replace(new_job(PROJECT, "full", "x"), id=name, status="finished", created=float(number))
        client.backend.job_store.save(job)
    read: list[Path] = []
    examine, asking = files.examine, threading.get_ident()

    def noted(path: Path, parse: Callable[[bytes], Any]) -> Any:
        if threading.get_ident() == asking:  # the backend's own threads read at any time
            read.append(path)
        return examine(path, parse)

    monkeypatch.setattr(files, "examine", noted)

    assert [job.id for job in client.backend.job_store.newest(PROJECT, 1)] == [names[2]]
    assert sorted(path.stem for path in read) == sorted(names[1:]), "and the other one of the same second"
    assert [job.id for job in client.backend.job_store.newest(PROJECT, 9)] == list(names[::-1])
