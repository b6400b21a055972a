"""When the model's title in Label Studio becomes the live version, and what happens to the user's title."""

from pathlib import Path
from typing import Any

import pytest

from my_backend.active_learning.title import Remembered, Title, TitleStatus
from my_backend.errors import LabelStudioError
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.snapshot import Snapshot
from safe_http.session import SafeSession
from testing.fake_label_studio.server import FakeLabelStudio

FIRST, SECOND, THIRD = (f"v{n}-20261120T13250{n}" for n in (1, 2, 3))
URL = "http://127.0.0.1:9090"


def backend(number: int, title: str, version: str, **fields: Any) -> dict[str, Any]:
    return {"id": number, "url": URL, "project": 7, "title": title, "model_version": version, **fields}


def title_of(server: FakeLabelStudio, folder: Path) -> Title:
    """The title as it is in Label Studio at this moment."""
    client = LabelStudio(server.url, server.pat, SafeSession(["127.0.0.1"]))
    return Title(Snapshot(client, 7), folder)


def put(server: FakeLabelStudio, folder: Path, live: str, *, kept: bool, renewing: bool = False) -> None:
    title = title_of(server, folder)
    title.put(title.look(live, renewing=renewing), live, kept=kept)


@pytest.fixture
def titled(label_studio: FakeLabelStudio) -> FakeLabelStudio:
    """A model titled “Mine” by the user, with a prediction of its second version for one of two tasks."""
    label_studio.backends = [backend(1, "Mine", SECOND)]
    label_studio.project |= {"model_version": "Mine", "show_collab_predictions": True}
    label_studio.predicted.add((SECOND, 0.5))
    label_studio.predicted.add()
    return label_studio


def test_title_waits_for_the_first_stored_prediction(titled: FakeLabelStudio, tmp_path: Path) -> None:
    title = title_of(titled, tmp_path)
    assert title.look(SECOND, renewing=False).state == "out of sync"

    titled.predicted.all[0]["is_labeled"] = True
    assert title.look(SECOND, renewing=False).state == "waiting"


@pytest.mark.parametrize(
    ("live", "stored", "renewing", "state"),
    [
        (SECOND, 4, False, "waiting"),
        (SECOND, 5, False, "out of sync"),
        (SECOND, 1, True, "out of sync"),
        (SECOND, 0, True, "waiting"),
        (FIRST, 1, False, "out of sync"),
    ],
    ids=["few", "half", "renewing", "none", "rolled back"],
)
def test_older_scores_order_until_there_are_half_as_many_new_ones(
    label_studio: FakeLabelStudio, tmp_path: Path, live: str, stored: int, renewing: bool, state: str
) -> None:
    now = FIRST if live == SECOND else SECOND
    label_studio.backends = [backend(1, now, live)]
    label_studio.project["model_version"] = now
    for number in range(10):
        label_studio.predicted.add((now, 0.5), *([(live, 0.5)] if number < stored else []))

    assert title_of(label_studio, tmp_path).look(live, renewing=renewing).state == state


@pytest.mark.parametrize(
    ("backends", "project", "status"),
    [
        ([backend(1, SECOND, SECOND)], {"model_version": SECOND}, ("in sync", 1)),
        ([backend(1, SECOND, SECOND)], {"model_version": ""}, ("out of sync", 1)),
        ([backend(1, SECOND, SECOND)], {"model_version": None}, ("out of sync", 1)),
        ([backend(1, "Mine", SECOND)], {"model_version": FIRST}, ("out of sync", 1)),
        ([backend(1, "Mine", SECOND)], {"model_version": "yolo-8"}, ("elsewhere", 1)),
        ([backend(1, "Mine", SECOND)], {"show_collab_predictions": False}, ("unused", 1)),
        ([backend(1, "Mine", FIRST)], {}, ("unknown", None)),
        ([backend(1, "Mine", "0.0.1"), backend(2, "Other", SECOND)], {"model_version": "Mine"}, ("elsewhere", 2)),
        ([backend(1, FIRST, FIRST), backend(2, "Other", SECOND)], {"model_version": FIRST}, ("elsewhere", 2)),
        ([backend(1, "Mine", SECOND), backend(2, SECOND, SECOND)], {"model_version": SECOND}, ("in sync", 2)),
        ([], {}, ("unknown", None)),
    ],
)
def test_only_the_own_title_counts_and_other_choices_of_the_user_stay(
    titled: FakeLabelStudio, tmp_path: Path, backends: list[Any], project: Any, status: tuple[str, int | None]
) -> None:
    titled.backends, titled.project = backends, {**titled.project, **project}
    found = title_of(titled, tmp_path).look(SECOND, renewing=False)

    assert (found.state, found.backend and found.backend["id"]) == status


def test_title_becomes_the_version_and_the_users_comes_back(titled: FakeLabelStudio, tmp_path: Path) -> None:
    title = title_of(titled, tmp_path)
    put(titled, tmp_path, SECOND, kept=True)

    assert titled.patched == [("/api/ml/1", {"title": SECOND, "url": URL, "project": 7})]
    assert titled.project["model_version"] == SECOND
    assert title.remembered() == Remembered(1, "Mine", kept=True)
    titled.backends[0]["model_version"] = THIRD
    titled.predicted.add((THIRD, 0.5))
    put(titled, tmp_path, THIRD, kept=True, renewing=True)
    assert title.remembered() == Remembered(1, "Mine", kept=True)

    assert title_of(titled, tmp_path).give_back() == "Mine"
    assert (titled.backends[0]["title"], titled.project["model_version"]) == ("Mine", "Mine")
    assert title.remembered() is None
    assert title.give_back() == ""


def test_next_look_sees_what_was_changed(titled: FakeLabelStudio, tmp_path: Path) -> None:
    title = title_of(titled, tmp_path)
    title.put(title.look(SECOND, renewing=False), SECOND, kept=True)
    assert title.look(SECOND, renewing=False).state == "in sync"

    assert title.give_back() == "Mine"
    assert title.look(SECOND, renewing=False).title == "Mine"


def test_title_that_the_user_gave_meanwhile_is_the_one_to_remember(titled: FakeLabelStudio, tmp_path: Path) -> None:
    title = title_of(titled, tmp_path)
    put(titled, tmp_path, SECOND, kept=True)
    titled.backends[0]["title"] = titled.project["model_version"] = "Renamed"
    put(titled, tmp_path, SECOND, kept=True)
    assert title.remembered() == Remembered(1, "Renamed", kept=True)

    titled.backends[0]["title"] = "Renamed again"
    assert title.give_back() == ""
    assert titled.backends[0]["title"] == "Renamed again"
    assert title.remembered() is None


def test_title_that_the_doctor_set_once_stays_the_doctors(titled: FakeLabelStudio, tmp_path: Path) -> None:
    title = title_of(titled, tmp_path)
    put(titled, tmp_path, SECOND, kept=False)
    assert title.remembered() == Remembered(1, "Mine", kept=False)

    titled.backends[0]["model_version"] = THIRD
    titled.predicted.add((THIRD, 0.5))
    put(titled, tmp_path, THIRD, kept=True, renewing=True)
    assert title.remembered() == Remembered(1, "Mine", kept=True)
    title.put(TitleStatus("out of sync", titled.backends[0], THIRD), THIRD, kept=False)
    assert title.remembered() == Remembered(1, "Mine", kept=True), "the server still gives it back"


def test_password_that_label_studio_has_is_neither_needed_nor_sent(titled: FakeLabelStudio, tmp_path: Path) -> None:
    titled.backends[0] |= {"auth_method": "BASIC_AUTH", "basic_auth_user": "me"}
    put(titled, tmp_path, SECOND, kept=True)

    [(_, sent)] = titled.patched
    auth = {"auth_method": "BASIC_AUTH", "basic_auth_user": "me", "basic_auth_pass": ""}
    assert sent == {"title": SECOND, "url": URL, "project": 7, **auth}


@pytest.mark.parametrize("uses", ["", FIRST])
def test_project_that_uses_no_title_of_ours_is_told_to(titled: FakeLabelStudio, tmp_path: Path, uses: str) -> None:
    titled.project["model_version"] = uses
    put(titled, tmp_path, SECOND, kept=True, renewing=True)

    assert [path for path, _ in titled.patched] == ["/api/ml/1", "/api/projects/7/"]
    assert titled.project["model_version"] == SECOND


def test_title_is_saved_before_its_change_and_missing_rights_are_named(titled: FakeLabelStudio, tmp_path: Path) -> None:
    titled.forbids = {"/api/ml/1"}
    title = title_of(titled, tmp_path)
    status = title.look(SECOND, renewing=False)
    with pytest.raises(LabelStudioError, match=r"403 to PATCH /api/ml/1.*who may change the project's settings"):
        title.put(status, SECOND, kept=True)

    assert title.remembered() == Remembered(1, "Mine", kept=True)
    assert isinstance(status, TitleStatus)
