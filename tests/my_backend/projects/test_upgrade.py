"""A MODEL_DIR of another release: of an older one, and of a newer one, from which somebody goes back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from my_backend.projects.registry import Projects
from tests.my_backend.conftest import PROJECT, Client, MakeSettings, Serve
from tests.my_backend.fake_model import LABEL_CONFIG

VERSION = "v3-20261120T132501"
JOB = {
    "id": "full-20261120T132455-0a1b2c",
    "project": PROJECT,
    "kind": "full",
    "cause": "Start training was pressed",
    "status": "finished",
    "created": 1795181095.0,
    "started": 1795181096.0,
    "ended": 1795181101.0,
    "attempts": 1,
    "annotations_read": True,
    "progress": {"phase": "training", "epoch": 2},
    "history": [],
    "error": "",
    "result": {"versions": [VERSION]},
}
# As the first release wrote them, by their paths in the project's folder.
FIRST_RELEASE: dict[str, Any] = {
    "project.json": {"uid": PROJECT, "label_config": LABEL_CONFIG, "title": "Pets"},
    "credentials.json": {"hostname": "http://localhost:8080", "access_token": "a-token"},
    "learned.json": {"watermark": "", "digest": ""},
    "unlearned.json": [12, 10],
    f"jobs/{JOB['id']}.json": JOB,
    f"versions/{VERSION}/version.json": {
        "name": VERSION,
        "created": 1795181101.0,
        "cause": "Start training was pressed",
        "choices": ["Cat", "Dog"],
        "train_output": {"model_dir": "{version}/model", "labels": {"Cat": 3}},
        "held_back": "",
        "grew_from": "",
    },
}


def noted_beside(content: Any) -> Any:
    """As a release of the future may write it."""
    return {**content, "of_the_future": {"anything": 1}} if isinstance(content, dict) else content


@pytest.fixture(params=["the first release", "a newer release"])
def client(request: pytest.FixtureRequest, make_settings: MakeSettings, serve: Serve) -> Iterator[Client]:
    folder: Path = Projects(make_settings().model_dir / "projects").folder(PROJECT)
    for name, content in FIRST_RELEASE.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content if request.param == "the first release" else noted_beside(content)))
    (folder / "live").write_text(VERSION + "\n")
    model = folder / "versions" / VERSION / "model"
    model.mkdir()
    (model / "weights.txt").write_text("Dog")
    with serve(retrain_after_annotations=0) as client:
        yield client


def test_what_another_release_wrote_is_served_shown_and_trained_on(client: Client) -> None:
    answer = client.predict({"image": "/data/upload/7/a.png"})
    assert answer["model_version"] == VERSION
    assert answer["results"][0]["result"][0]["value"] == {"choices": ["Dog"]}
    assert client.post("/job_status", {"job": JOB["id"]})["job_status"] == "finished"
    assert client.post("/versions", {"project": 7})["versions"] == [VERSION]
    assert client.backend.projects.annotation_log(PROJECT).unlearned() == 2
    credentials = client.backend.projects.credentials(PROJECT)
    assert credentials is not None
    assert credentials.access_token == "a-token"
    for page in ("/", "/projects/7", "/projects/7/versions", f"/projects/7/versions/{VERSION}"):
        assert client.http.get(page, headers={"Accept": "text/html"}).status_code == 200

    assert client.train().startswith("v4-")
