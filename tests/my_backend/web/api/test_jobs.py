"""Trainings that people start, and what is told of jobs."""

import pytest

from my_backend.jobs.record import EMBED, new_job
from my_backend.projects.embeddings import Embeddings
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import LABEL_CONFIG, Script


@pytest.mark.parametrize("path", ["/train", "/api/models/train"])
def test_annotations_of_a_train_request_are_kept_until_they_are_learned(
    serve: Serve, script: Script, path: str
) -> None:
    body = {"project": PROJECT, "annotations": [{"id": 5, "data": {}}, {"id": 6, "data": {}}]}
    script.block("fit")
    with serve() as client:
        client.setup()
        job = client.post(path, body, 201)["job"]
        client.started(job)

    script.set()
    with serve() as client:
        assert client.ended(job).status == "finished"
        assert [call["tasks"] for call in script.calls("fit")] == [[5, 6], [5, 6]]
        error = client.ended(client.post(path, {}, 201)["job"]).error
        assert error.startswith("Can't read annotations because Label Studio's URL is unknown")


def test_training_by_hand_needs_no_body_where_there_is_one_project(client: Client) -> None:
    response = client.http.post("/api/models/train")

    assert response.status_code == 201
    assert client.ended(response.json["job"]).project == PROJECT


def test_older_label_studios_train_request_connects_the_project(client: Client) -> None:
    body = {"project": "9.1", "annotations": [{"data": {}}], "label_config": LABEL_CONFIG, "params": {}}

    job = client.ended(client.post("/train", body, 201)["job"])

    assert (job.project, job.status) == ("9.1", "finished")
    assert client.backend.projects.get("9.1").label_config == LABEL_CONFIG


def test_job_says_how_it_goes(client: Client, script: Script) -> None:
    script.block("fit")
    job = client.submit_training()
    client.started(job)
    assert eventually(lambda: "loss" in client.backend.job_store.get(job).progress)  # nothing follows it

    running = client.post("/job_status", {"job": job})
    assert (running["job_status"], running["error"]) == ("started", None)
    assert running["progress"]["epochs"] == 2
    assert client.get("/is_training?project=7") == {
        "is_training": True,
        "job": job,
        "jobs": [client.post("/job_status", {"job": job})],
        "model_version": "untrained",
    }

    script.release()
    client.ended(job)
    ended = client.post("/job_status", {"job": job})
    assert (ended["job_status"], ended["result"]["labels"]) == ("finished", {"Cat": 1})
    assert client.get("/is_training")["is_training"] is False


def test_failed_job_says_why(client: Client, script: Script) -> None:
    script.set(fit_raises="no luck")

    job = client.ended(client.submit_training())

    assert client.post("/job_status", {"job": job.id})["error"] == "RuntimeError: no luck"


def test_canceling_a_waiting_embedding_job_stops_all_and_is_no_training(client: Client) -> None:
    client.setup()
    embeddings = Embeddings(client.backend.projects.folder(PROJECT))
    embeddings.want()
    job = new_job(PROJECT, EMBED, "test")
    client.backend.job_store.add(job)
    assert client.get("/is_training")["is_training"] is False

    client.post(f"/api/jobs/{job.id}/cancel")

    assert embeddings.wanted() is None


def test_job_can_be_cancelled(client: Client, script: Script) -> None:
    script.block("fit")
    job = client.submit_training()
    client.started(job)

    client.post(f"/api/jobs/{job}/cancel")

    assert client.ended(job).status == "canceled"
    assert client.post(f"/api/jobs/{job}/cancel")["job_status"] == "canceled"
    assert client.predict()["model_version"] == "untrained"
