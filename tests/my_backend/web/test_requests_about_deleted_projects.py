"""Requests about a project that another server has just deleted."""

import io
from typing import Any

import pytest

from my_backend.projects.registry import Projects
from testing.fake_label_studio.server import PNG
from tests.my_backend.conftest import PROJECT, Client

DESCRIBED = {"id": 7, "created_at": "2026-11-20T13:35:51Z"}
ANNOTATION = {"id": 1, "task": 1, "updated_at": "2026-11-20T13:35:51Z", "result": []}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "an event": ("/webhook", {"action": "ANNOTATION_CREATED", "project": DESCRIBED, "annotation": ANNOTATION}),
    "a training": ("/api/models/train", {}),
    "sent annotations": ("/train", {"annotations": [{"id": 1, "data": {}, "annotations": [ANNOTATION]}]}),
    "a pin": ("/api/models/pin", {"version": "v1-20261120T133551"}),
    "the end of sharing": ("/api/embeddings/stop", {}),
}


@pytest.fixture
def deleted(client: Client, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A server that doesn't know yet that another one has deleted the project."""
    monkeypatch.setattr(client.backend.projects, "refresh", lambda: None)
    projects = Projects(client.backend.projects.root)
    projects.delete(PROJECT)
    return client


@pytest.mark.parametrize("name", REQUESTS)
def test_request_about_a_deleted_project_gets_404_and_brings_nothing_back(name: str, deleted: Client) -> None:
    answer = deleted.post(*REQUESTS[name], status=404)

    assert answer["error"] == f"project {PROJECT} was deleted"
    assert not deleted.backend.projects.folder(PROJECT).exists()


def test_correction_in_a_deleted_project_gets_404_and_brings_nothing_back(deleted: Client) -> None:
    answer = deleted.http.post("/api/models/retrain", data={"image": (io.BytesIO(PNG), "a.png"), "label": "Cat"})

    assert (answer.status_code, answer.json["error"]) == (404, f"project {PROJECT} was deleted")
    assert not deleted.backend.projects.folder(PROJECT).exists()


def test_deleted_project_can_be_connected_again(deleted: Client) -> None:
    deleted.setup()

    assert [project.uid for project in Projects(deleted.backend.projects.root).all()] == [PROJECT]
