"""`python -m my_backend backup`: whole, whatever happens meanwhile."""

import errno
import json
import os
import shutil
import signal
import socket
import stat
import threading
from pathlib import Path
from typing import IO, Any

import pytest
from typer.testing import CliRunner

from label_studio_format.events import Change
from my_backend import files
from my_backend.commands.backup import BackedUp, back_up
from my_backend.commands.cli import app
from my_backend.errors import Conflict, NotFound
from my_backend.projects.packed_tasks import PackedTasks
from my_backend.projects.registry import Credentials, Projects
from my_backend.projects.versions import Version, Versions

UID = "7.1795181751"


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """With a project that has two versions, which share a file, and everything else that there may be."""
    folder = tmp_path / "models"
    projects = Projects(folder / "projects")
    projects.remember(UID, title="Pets")
    projects.remember_credentials(UID, Credentials("http://label-studio:8080", "a-token"))
    publish(folder)
    versions = versions_in(folder)
    versions.copy_from(live_in(folder), cause="the same again", choices=("Cat",))
    versions.pin(versions.names()[0])
    annotation_log = projects.annotation_log(UID)
    annotation_log.keep_tasks(PackedTasks([]), annotation_log.begin_reading())
    annotation_log.add([Change({"id": 1})])
    others = ("corrections/0123.json", "jobs/head-1.json", "work/head-1/checkpoint", "embeddings/0/0-1-1-1", ".lock")
    for name in others:
        path = projects.folder(UID) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return folder


def versions_in(model_dir: Path) -> Versions:
    return Versions(model_dir / "projects" / UID)


def live_in(model_dir: Path) -> Version:
    live = versions_in(model_dir).live()
    assert live is not None
    return live


def publish(model_dir: Path) -> Version:
    workdir = model_dir / "projects" / UID / "work" / "publish"
    (workdir / "model").mkdir(parents=True, exist_ok=True)
    (workdir / "model" / "weights").write_bytes(os.urandom(1000))
    output = {"model_dir": str(workdir / "model")}
    return versions_in(model_dir).publish(output, workdir, cause="test", choices=("Cat",))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_backup_is_a_model_dir_with_all_but_what_label_studio_tells_again(model_dir: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backups" / "monday"

    assert back_up(model_dir, backup) == BackedUp(projects=1, versions=2)

    left_out = ("annotated.json", "events/", "work/", "embeddings/")
    expected = {
        name: content
        for name, content in contents(model_dir).items()
        if not name.removeprefix(f"projects/{UID}/").startswith(left_out) and "/." not in name
    }
    assert contents(backup) == expected
    assert Projects(backup / "projects").get(UID).title == "Pets"
    assert Projects(backup / "projects").annotation_log(UID).unlearned() == 1
    assert Projects(backup / "projects").annotation_log(UID).tasks() is None
    assert versions_in(backup).live_name() == versions_in(model_dir).live_name()
    assert versions_in(backup).pinned() == versions_in(model_dir).pinned()
    assert str(backup) in live_in(backup).train_output["model_dir"]


def test_files_that_versions_share_take_their_room_once(model_dir: Path, tmp_path: Path) -> None:
    back_up(model_dir, tmp_path / "backup")

    first, second = (tmp_path / "backup" / "projects" / UID / "versions").glob("v*/model/weights")
    assert first.stat().st_ino == second.stat().st_ino
    assert first.stat().st_ino != (live_in(model_dir).folder / "model" / "weights").stat().st_ino


def test_backup_on_a_file_system_without_links_has_copies(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)

    assert back_up(model_dir, tmp_path / "backup") == BackedUp(projects=1, versions=2)

    first, second = (tmp_path / "backup" / "projects" / UID / "versions").glob("v*/model/weights")
    assert first.read_bytes() == second.read_bytes() == (live_in(model_dir).folder / "model/weights").read_bytes()


def test_backup_is_the_owners_alone(model_dir: Path, tmp_path: Path) -> None:
    back_up(model_dir, tmp_path / "backup")

    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o700


def test_backup_while_versions_are_published_has_the_live_one(model_dir: Path, tmp_path: Path) -> None:
    ended = threading.Event()

    def publish_on() -> None:
        while not ended.is_set():
            publish(model_dir)

    publishing = threading.Thread(target=publish_on)
    publishing.start()
    try:
        for number in range(20):
            backup = tmp_path / f"backup-{number}"
            back_up(model_dir, backup)
            versions = versions_in(backup)
            assert versions.live_name() == versions.names()[-1]
            for version in versions.all():
                assert len((version.folder / "model" / "weights").read_bytes()) == 1000
                assert json.loads((version.folder / "version.json").read_text())["name"] == version.name
    finally:
        ended.set()
        publishing.join()


def test_backup_replaces_nothing_and_wants_something_to_back_up(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="already exists"):
        back_up(model_dir, model_dir)
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(Conflict, match="already exists"):
        back_up(model_dir, tmp_path / "link")
    with pytest.raises(NotFound, match="nothing to back up"):
        back_up(tmp_path / "elsewhere", tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_backup_that_is_ended_leaves_nothing(
    number: signal.Signals, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_DIR", str(model_dir))
    monkeypatch.setattr(files, "sync_tree", lambda _: signal.raise_signal(number))
    before = {one: signal.signal(one, signal.SIG_DFL) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        ended = CliRunner().invoke(app, ["backup", str(tmp_path / "backups" / "monday")])
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)

    assert ended.exit_code == 128 + number
    assert list((tmp_path / "backups").iterdir()) == []


def test_backup_into_what_is_backed_up_is_refused(model_dir: Path, tmp_path: Path) -> None:
    """Otherwise each backup would contain all earlier ones."""
    (tmp_path / "link").symlink_to(model_dir / "projects" / UID)
    for target in (model_dir / "projects" / UID / "backup", tmp_path / "link" / "new" / "backup"):
        with pytest.raises(Conflict, match=r"is in .*, which is backed up itself"):
            back_up(model_dir, target)
    assert not list(model_dir.rglob("*backup*"))


def test_backup_steps_over_what_cannot_be_copied_and_says_it(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_dir / "projects" / UID
    model = live_in(model_dir).folder / "model"
    (folder / "to itself").symlink_to("to itself")
    (folder / "around").symlink_to(folder)
    (model / "up").symlink_to("../..")
    (model / "to nothing").symlink_to("missing")
    (folder / "elsewhere").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("copied, as ever")
    os.mkfifo(model / "pipe")
    with socket.socket(socket.AF_UNIX) as listening, monkeypatch.context() as patch:
        patch.chdir(folder)
        listening.bind("socket")
    (folder / "unreadable").write_text("secret")
    opened = Path.open

    def fail(path: Path, mode: str = "r") -> IO[Any]:
        if path.name == "unreadable" and mode == "rb":
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, mode)

    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setenv("MODEL_DIR", str(model_dir))
    result = CliRunner().invoke(app, ["backup", str(tmp_path / "backup")])

    assert result.exit_code == 3, result.output
    said = {line.partition(":")[0].rpartition("/")[2] for line in result.stderr.splitlines()[:-1]}
    assert said == {"to itself", "around", "up", "to nothing", "pipe", "socket", "unreadable"}
    assert f"Can't read {folder}/unreadable: Permission denied" in result.stderr.splitlines()
    copied = contents(tmp_path / "backup")
    assert copied[f"projects/{UID}/elsewhere/file"] == b"copied, as ever"
    assert not any(path.is_symlink() or path.is_fifo() for path in (tmp_path / "backup").rglob("*"))
    assert live_in(tmp_path / "backup").name == live_in(model_dir).name


@pytest.mark.parametrize(
    ("fails", "name", "copied"),
    [
        ("iterdir", ".", [UID]),
        ("open", ".versions", [UID]),  # the lock
        ("iterdir", "versions", ["5.1", UID]),
        ("stat", "corrections", ["5.1", UID]),
    ],
)
def test_unreadable_project_does_not_stop_the_backup_of_the_others(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, name: str, copied: list[str]
) -> None:
    folder = model_dir / "projects" / "5.1"
    shutil.copytree(model_dir / "projects" / UID, folder)
    where: Any = os if fails == "open" else Path
    real = getattr(where, fails)

    def fail(path: Any, *more: Any, **options: Any) -> Any:
        if Path(path) == folder / name:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *more, **options)

    monkeypatch.setenv("MODEL_DIR", str(model_dir))
    monkeypatch.setattr(where, fails, fail)
    result = CliRunner().invoke(app, ["backup", str(tmp_path / "backup")])

    assert result.exit_code == 3, result.output
    assert f"Can't read {folder / name if copied != [UID] else folder}: " in result.stderr
    assert "Permission denied" in result.stderr
    assert live_in(tmp_path / "backup").name == live_in(model_dir).name
    assert sorted(path.name for path in (tmp_path / "backup" / "projects").iterdir()) == copied


def test_project_that_is_deleted_meanwhile_is_no_failure(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("my_backend.commands.backup.project_folders", lambda root: {UID, "5.1"})

    assert back_up(model_dir, tmp_path / "backup") == BackedUp(projects=1, versions=2)


def test_backup_has_projects_and_versions_whose_records_are_damaged(model_dir: Path, tmp_path: Path) -> None:
    (model_dir / "projects" / UID / "project.json").write_bytes(bytes(50))
    (live_in(model_dir).folder / "version.json").write_text("{")

    assert back_up(model_dir, tmp_path / "backup") == BackedUp(projects=1, versions=2)
    assert (tmp_path / "backup" / "projects" / UID / "project.json").read_bytes() == bytes(50)


def test_backup_that_fails_leaves_nothing(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("my_backend.commands.backup.shutil.copystat", fail)
    with pytest.raises(OSError, match="disk full"):
        back_up(model_dir, tmp_path / "backups" / "monday")

    assert list((tmp_path / "backups").iterdir()) == []


def test_command_says_what_it_did(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_DIR", str(model_dir))

    done = CliRunner().invoke(app, ["backup", str(tmp_path / "backup")])
    again = CliRunner().invoke(app, ["backup", str(tmp_path / "backup")])

    assert (done.exit_code, done.output) == (0, f"Backed up to {tmp_path / 'backup'}; projects: 1, versions: 2\n")
    assert again.exit_code == 1
    assert "already exists" in again.output
