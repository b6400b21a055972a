"""Each change that the doctor offers, made in Label Studio."""

from pathlib import Path
from typing import Any

import pytest

from my_backend.active_learning.title import Remembered, TitleStatus, remembered_title
from my_backend.diagnostics.actions import AddWebhook, ChangeWebhook, ChooseModel, DeleteWebhook, RenameModel
from my_backend.label_studio.client import LabelStudio
from my_backend.projects.project import Project
from safe_http.session import SafeSession
from testing.fake_label_studio.server import FakeLabelStudio
from tests.my_backend.conftest import PROJECT, basic

HOOK = "http://127.0.0.1:9090/webhook"
LIVE = "v7-20261120T132501"


@pytest.fixture
def client(label_studio: FakeLabelStudio) -> LabelStudio:
    return LabelStudio(label_studio.url, label_studio.pat, SafeSession(["127.0.0.1"]))


@pytest.mark.parametrize("headers", [{}, basic("user", "password")])
def test_webhook_is_added_as_label_studio_makes_it(
    label_studio: FakeLabelStudio, client: LabelStudio, headers: dict[str, Any]
) -> None:
    AddWebhook(7, HOOK, headers).perform(client)

    [added] = label_studio.added
    assert added == {"project": 7, "url": HOOK, "send_payload": True, "send_for_all_actions": True, "headers": headers}


def test_only_the_named_fields_change(label_studio: FakeLabelStudio, client: LabelStudio) -> None:
    ChangeWebhook(5, {"send_payload": True}).perform(client)
    ChooseModel(7, "ours").perform(client)

    assert label_studio.patched == [
        ("/api/webhooks/5/", {"send_payload": True}),
        ("/api/projects/7/", {"model_version": "ours"}),
    ]


def test_webhook_is_deleted(label_studio: FakeLabelStudio, client: LabelStudio) -> None:
    DeleteWebhook(8).perform(client)

    assert label_studio.deleted == ["/api/webhooks/8/"]


def test_model_is_renamed_and_its_title_remembered(
    label_studio: FakeLabelStudio, client: LabelStudio, tmp_path: Path
) -> None:
    label_studio.backends[0] |= {"title": "Mine", "model_version": LIVE, "project": 7}
    label_studio.project["model_version"] = "Mine"
    status = TitleStatus("out of sync", dict(label_studio.backends[0]), "Mine")

    RenameModel(Project(PROJECT, folder=tmp_path), status, LIVE, kept=False).perform(client)

    assert label_studio.backends[0]["title"] == label_studio.project["model_version"] == LIVE
    assert remembered_title(tmp_path) == Remembered(1, "Mine", kept=False)


def test_title_that_label_studio_brings_back_is_replaced_again(
    label_studio: FakeLabelStudio, client: LabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of the models that was being made meanwhile saves them as it read them."""
    label_studio.backends[0] |= {"title": "Mine", "model_version": LIVE, "project": 7}
    label_studio.project["model_version"] = "Mine"
    label_studio.predicted.add((LIVE, 0.5))
    status = TitleStatus("out of sync", dict(label_studio.backends[0]), "Mine")
    change, lost = label_studio._patch, []

    def lose_the_first(path: str, body: Any) -> None:
        change(path, body)
        if not lost:
            label_studio.backends[0]["title"] = "Mine"
        lost.append(path)

    monkeypatch.setattr(label_studio, "_patch", lose_the_first)
    RenameModel(Project(PROJECT, folder=tmp_path), status, LIVE, kept=False).perform(client)

    assert label_studio.backends[0]["title"] == label_studio.project["model_version"] == LIVE
    assert remembered_title(tmp_path) == Remembered(1, "Mine", kept=False)
