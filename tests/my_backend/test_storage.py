"""A disk that can't be written: requests are told, `/health` says it, and predictions go on."""

import errno
import os
import shutil
import time
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from my_backend import files
from my_backend.diagnostics.lasting import LastingProblems
from my_backend.diagnostics.rules.storage import disk_space_problems
from my_backend.storage import PART_SECONDS, Disk, check_folders, remove_parts
from testing.fake_label_studio.server import PNG
from testing.waiting import eventually
from tests.broken_disk import broken_disk
from tests.my_backend.conftest import PROJECT, Client, MakeSettings
from tests.my_backend.fake_model import OTHER_CONFIG

ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO]
EVENT = {
    "action": "ANNOTATION_CREATED",
    "project": {"id": 7, "created_at": "2026-11-20T13:35:51Z"},
    "annotation": {"id": 1, "updated_at": "t"},
    "task": {"id": 1, "data": {}},
}


def problems(client: Client) -> str:
    return "\n".join(client.get("/health")["problems"])


@pytest.mark.parametrize("number", ERRORS)
def test_disk_that_cannot_be_written_is_said_and_predictions_go_on(client: Client, number: int) -> None:
    name = client.train()
    with broken_disk(number):
        for path, body in (
            ("/webhook", EVENT),
            ("/webhook", {**EVENT, "action": "START_TRAINING"}),
            ("/train", {"project": PROJECT}),
            ("/train", {"project": PROJECT, "annotations": [{"id": 1, "data": {}, "annotations": []}]}),
            ("/api/models/activate", {"project": PROJECT, "version": name}),
            ("/setup", {"project": "9.1", "schema": OTHER_CONFIG}),
        ):
            assert os.strerror(number) in client.post(path, body, 507)["error"]
        correction = {"project": PROJECT, "label": "Cat", "image": (BytesIO(PNG), "cat.png")}
        assert client.http.post("/api/models/retrain", data=correction).status_code == 507
        assert client.predict({})["results"][0]["model_version"] == name
        assert client.setup() == name
        assert eventually(lambda: f": {os.strerror(number)}" in problems(client))
        assert "Can't write to MODEL_DIR=" in problems(client)
        # What Label Studio says of a project that is known is believed, and noted later.
        client.setup(config=OTHER_CONFIG)
        assert client.backend.projects.get(PROJECT).label_config == OTHER_CONFIG

    assert eventually(lambda: "Can't write to" not in problems(client))
    assert client.post("/webhook", EVENT)["status"] == "ok"
    assert client.train() != name


def test_failed_write_has_the_disk_tried_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert eventually(lambda: client.backend.storage._wrote_at > 0)
    monkeypatch.setattr("my_backend.storage.WRITE_SECONDS", 1e9)
    with broken_disk():
        client.post("/webhook", EVENT, 507)
        assert files.failed_writes() > 0
        assert eventually(lambda: "No space left" in problems(client))


def test_nearly_full_disk_is_said_before_a_write_fails(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(client.backend.settings.model_dir)
    lasting = LastingProblems(client.backend.projects, client.backend.summary.problems)
    monkeypatch.setattr("my_backend.diagnostics.lasting.LASTING_SECONDS", 0.0)
    monkeypatch.setattr("my_backend.storage.WRITE_SECONDS", 0.0)
    [said] = [problem.message for problem in disk_space_problems([Disk(("MODEL_DIR", "CACHE_DIR"), 1_500_000_000)])]
    with monkeypatch.context() as nearly_full:
        nearly_full.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_500_000_000))

        assert eventually(lambda: said in problems(client))
        [told] = [one for one in client.get("/problems")["troubles"] if one["code"] == "disk-space"]
        assert told["message"] == said
        for path in ("/", "/problems"):
            assert said in client.http.get(path, headers={"Accept": "text/html"}).text
        assert any(said in notice.message for notice in lasting())
        assert client.post("/webhook", EVENT)["status"] == "ok", "nothing failed yet"

    assert eventually(lambda: said not in problems(client))


@pytest.mark.parametrize(("number", "starts"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False)])
def test_server_starts_on_a_full_disk_but_not_on_a_forbidden_one(
    make_settings: MakeSettings, number: int, starts: bool
) -> None:
    with broken_disk(number):
        if starts:
            check_folders(make_settings())
        else:
            with pytest.raises(Exception, match="set it to a writable folder"):
                check_folders(make_settings())


def test_other_errors_of_files_stay_unexpected_ones(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    monkeypatch.setattr(files, "write_json", fail)

    assert "unexpected" in client.post("/webhook", EVENT, 500)["error"]


def test_what_killed_processes_left_half_written_is_removed_after_a_day(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    places = [settings.model_dir / "projects" / "7.1" / "jobs", settings.cache_dir / "media" / "contents"]
    young = {_half_written(place, monkeypatch) for place in places}
    for place in places:
        lock = place / ".lock"
        lock.touch()
        for old in (lock, _half_written(place, monkeypatch)):
            os.utime(old, (0, time.time() - PART_SECONDS - 1))

    remove_parts(settings)

    assert {path for place in places for path in place.iterdir()} == young | {place / ".lock" for place in places}


def test_folder_that_vanishes_meanwhile_does_not_keep_what_is_left(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    gone, left = settings.model_dir / "a-job", settings.cache_dir / f"{files.PART}1"
    gone.mkdir(parents=True)
    settings.cache_dir.mkdir(parents=True, exist_ok=True)
    left.touch()
    os.utime(left, (0, 0))
    scan = os.scandir

    def removed_first(path: Any) -> Any:
        if Path(path) == gone:
            gone.rmdir()
        return scan(path)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(os, "scandir", removed_first)
        remove_parts(settings)

    assert (gone.exists(), left.exists()) == (False, False)


def _half_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a process leaves that is killed before it renames what it has written."""
    before = set(place.glob("*"))
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(os, "replace", Mock(side_effect=KeyboardInterrupt))
        killed.setattr(os, "unlink", lambda path: None)
        files.create_folder(place, parents=True)
        files.write(place / "record", "half of ")
    [left] = set(place.glob("*")) - before
    return left
