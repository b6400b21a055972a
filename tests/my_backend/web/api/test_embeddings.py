"""Sharing a project's embeddings over HTTP: start, state and stop; and the errors."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from my_backend.jobs.record import EMBED, Status
from my_backend.projects.embeddings import Embeddings
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.embedded_ranges import SPACE, add_range

REDIS = "redis://127.0.0.1:1"  # nothing listens there, so jobs wait
NOTHING = {
    "project": PROJECT,
    "wanted": False,
    "complete": False,
    "tasks": 0,
    "embedded": 0,
    "unreadable": 0,
    "ranges": 0,
    "error": None,
    "jobs": [],
}


@pytest.fixture
def client(serve: Serve) -> Iterator[Client]:
    """A server that leaves its jobs to workers."""
    with serve(redis_url=REDIS) as client:
        client.setup()
        yield client


@pytest.fixture
def embeddings(client: Client) -> Embeddings:
    return Embeddings(client.backend.projects.folder(PROJECT))


def test_start_submits_one_job_and_stop_cancels_it(client: Client) -> None:
    assert client.get("/api/embeddings") == NOTHING

    started = client.post("/api/embeddings/start", {"project": 7}, 201)
    again = client.post("/api/embeddings/start", {"project": PROJECT}, 201)

    assert started == again
    assert (started["job"].partition("-")[0], started["job_status"]) == (EMBED, "queued")
    state = client.get("/api/embeddings?project=7")
    assert state == {**NOTHING, "wanted": True, "jobs": [client.post("/job_status", {"job": started["job"]})]}
    assert client.get("/is_training")["is_training"] is False

    assert client.post("/api/embeddings/stop", {"project": 7}) == NOTHING
    assert client.post("/job_status", {"job": started["job"]})["job_status"] == "canceled"
    assert client.post("/api/embeddings/stop") == NOTHING


def test_state_counts_tasks_ranges_and_unreadable_images(client: Client, embeddings: Embeddings) -> None:
    client.post("/api/embeddings/start", status=201)
    begun = embeddings.begin("v1", SPACE, 12)
    assert begun is not None
    add_range(embeddings, 0, 1999)
    add_range(embeddings, 7, 15_999, images=3, tasks=4)

    state = client.get("/api/embeddings")

    counts = {"tasks": 12, "embedded": 9, "unreadable": 1, "ranges": 2}
    assert {name: state[name] for name in counts} == counts
    assert state["complete"] is False
    embeddings.note_complete(begun)
    assert client.get("/api/embeddings")["complete"] is True


def test_error_of_the_last_job_is_shown_until_all_is_complete(client: Client, embeddings: Embeddings) -> None:
    store, job = client.backend.job_store, client.post("/api/embeddings/start", status=201)["job"]
    store.save(replace(store.get(job), status="failed", error="the disk is full", ended=2.0))
    assert client.get("/api/embeddings")["error"] == "the disk is full"

    client.post("/api/embeddings/start", status=201)  # another one waits
    assert client.get("/api/embeddings")["error"] == "the disk is full"

    begun = embeddings.begin("v1", SPACE, 0)
    assert begun is not None
    embeddings.note_complete(begun)
    assert client.get("/api/embeddings")["error"] is None


@pytest.mark.parametrize("status", ["finished", "canceled"])
def test_job_that_did_not_fail_has_no_error(client: Client, status: Status) -> None:
    store, job = client.backend.job_store, client.post("/api/embeddings/start", status=201)["job"]
    store.save(replace(store.get(job), status=status, error="it was canceled", ended=2.0))
    assert client.get("/api/embeddings")["error"] is None


def test_without_redis_nothing_is_shared_and_sharing_can_be_stopped(serve: Serve) -> None:
    with serve() as client:
        client.setup()
        error = client.post("/api/embeddings/start", status=409)["error"]
        assert error.startswith("Can't share embeddings: neither REDIS_URL nor REDIS_HOST is set, so there are no")
        assert "set REDIS_URL and start workers" in error
        assert client.get("/api/embeddings") == NOTHING

        Embeddings(client.backend.projects.folder(PROJECT)).want()
        assert client.get("/api/embeddings")["wanted"] is True
        assert client.post("/api/embeddings/stop") == NOTHING
