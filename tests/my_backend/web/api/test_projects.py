"""Projects that are deleted, and models that are copied to another project."""

from pathlib import Path

from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import Script
from tests.my_backend.web.requests_of_label_studio import choices


def test_deleted_project_is_gone_with_its_jobs_and_versions(client: Client, script: Script) -> None:
    client.train()
    script.block("fit")
    running = client.submit_training()
    client.started(running)
    waiting = client.submit_training()

    assert client.post("/delete", {"project": 7}) == {"deleted": PROJECT}

    assert eventually(lambda: client.backend.queue._running["full"] is None)
    folder = client.backend.projects.folder(PROJECT)
    assert not folder.exists() or [path for path in folder.rglob("*") if path.is_file()] == []
    assert script.calls("fit") == script.calls("fit")[:2]  # what waited never ran
    for job in (running, waiting):
        client.post("/job_status", {"job": job}, 404)
    client.get("/is_training?project=7", 404)
    assert eventually(lambda: client.setup() == "untrained")


def test_what_is_left_of_a_deleted_project_goes_when_a_server_starts(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "models" / f".deleted-{PROJECT}-0a1b2c3d"
    (folder / "project" / "corrections").mkdir(parents=True)
    (folder / "project" / "corrections" / "image").touch()

    with serve():
        assert eventually(lambda: not folder.exists())


def test_duplicated_model_answers_for_the_other_project(client: Client) -> None:
    client.train()

    copied = client.post("/duplicate_model", {"project_src": PROJECT, "project_dst": "8.1"})

    assert eventually(lambda: client.setup("8.1") == copied["live"])
    assert choices(client.predict(project="8.1")["results"]) == ["Cat"]
    assert client.post("/duplicate_model", {"project_src": "8", "project_dst": "7"})["project"] == PROJECT
    client.setup("10.1")
    assert "no version" in client.post("/duplicate_model", {"project_src": "10.1", "project_dst": "9.1"}, 404)["error"]
    client.post("/duplicate_model", {"project_src": "7", "project_dst": "11"}, 404)
