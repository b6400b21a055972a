import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from label_studio_format.events import Change
from my_backend import files
from my_backend.errors import BadRequest, NotFound, TooMany
from my_backend.projects.project import Project
from my_backend.projects.registry import Credentials, Projects, project_folders
from tests.broken_disk import broken_disk, disk_error, failing


@pytest.fixture
def projects(tmp_path: Path) -> Projects:
    return Projects(tmp_path)


def test_what_label_studio_said_outlives_the_process(projects: Projects, tmp_path: Path) -> None:
    projects.remember("7.1", label_config="<View/>")
    projects.remember("7.1", title="Pets")
    projects.annotation_log("7.1").add([Change({"id": 1})])

    again = Projects(tmp_path)

    assert again.all() == [Project("7.1", "<View/>", "Pets")]
    assert again.get("7.1").id == 7
    assert again.annotation_log("7.1").unlearned() == 1


def test_projects_and_their_configs_are_limited_in_all(projects: Projects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("my_backend.projects.registry.MOST_PROJECTS", 2)
    monkeypatch.setattr("my_backend.projects.registry.MOST_CONFIG_CHARACTERS", 10)
    projects.remember("7.1", label_config="<View/>")
    projects.remember("8.1", label_config="<a>")

    with pytest.raises(TooMany, match="2 projects are already connected"):
        projects.remember("9.1")
    with pytest.raises(TooMany, match="exceed 10 characters"):
        projects.remember("8.1", label_config="<ab>")
    projects.remember("8.1", title="Pets")
    projects.delete("7.1")
    projects.remember("9.1", label_config="<View/>")

    assert projects.all() == [Project("8.1", "<a>", "Pets"), Project("9.1", "<View/>")]


@pytest.mark.parametrize(("name", "found"), [("7", "7.1"), ("7.1", "7.1"), ("8", "8.2")])
def test_project_is_found_by_its_id_or_its_full_name(projects: Projects, name: str, found: str) -> None:
    projects.remember("7.1")
    projects.remember("8.2")

    assert projects.find(name).uid == found


def test_only_project_needs_no_name(projects: Projects) -> None:
    projects.remember("7.1")

    assert projects.find(None).uid == "7.1"


@pytest.mark.parametrize("name", [None, "7"])
def test_project_that_is_not_clear_is_refused_with_the_list(projects: Projects, name: str | None) -> None:
    projects.remember("7.1", title="Pets")
    projects.remember("7.2")

    with pytest.raises(BadRequest, match=r"7\.1 \(Pets\), 7\.2"):
        projects.find(name)


def test_unknown_project_is_refused_with_the_list(projects: Projects) -> None:
    with pytest.raises(NotFound, match="no project is connected yet"):
        projects.find(None)
    projects.remember("7.1")
    for look in (projects.find, projects.get):
        with pytest.raises(NotFound, match=r"project 9 is not connected; connected projects: 7\.1"):
            look("9")


def test_credentials_are_readable_by_the_owner_alone(projects: Projects, tmp_path: Path) -> None:
    credentials = Credentials("http://label-studio:8080", "a-token")
    projects.remember("7.1")
    projects.remember_credentials("7.1", credentials)

    assert Projects(tmp_path).credentials("7.1") == credentials
    assert stat.S_IMODE((tmp_path / "7.1" / "credentials.json").stat().st_mode) == 0o600
    assert "a-token" not in repr(credentials)
    assert projects.credentials("8.1") is None


def test_deleted_project_leaves_nothing(projects: Projects, tmp_path: Path) -> None:
    projects.remember("7.1")
    projects.remember_credentials("7.1", Credentials("http://label-studio:8080", "a-token"))
    projects.annotation_log("7.1").add([Change({"id": 1})])

    projects.delete("7.1")

    assert projects.all() == []
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_deleted_project_get_no_new_owner_and_go_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects = Projects(tmp_path / "projects")
    projects.remember("7.1")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            projects.delete("7.1")
    left = [path for path in tmp_path.iterdir() if path.name != "projects"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in left] == [0o700]
    assert [path.name for path in left[0].iterdir()] == ["project.json"]
    assert projects.all() == []

    (tmp_path / ".deleted-8.1-of-an-older-release" / "versions").mkdir(parents=True)
    Projects(tmp_path / "projects").remove_leftovers()

    assert [path.name for path in tmp_path.iterdir()] == ["projects"]


def test_deleted_project_that_cannot_be_removed_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    projects = Projects(tmp_path / "projects")
    projects.remember("7.1", title="Pets")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing(errno.EIO))
        projects.delete("7.1")

    assert projects.all() == []
    assert ".deleted-7.1-" in caplog.text
    assert "Input/output error" in caplog.text


def test_project_can_be_deleted_on_a_full_disk(projects: Projects, tmp_path: Path) -> None:
    projects.remember("7.1", title="Pets")
    with broken_disk():
        projects.delete("7.1")

    assert projects.all() == []
    assert list(tmp_path.parent.glob(".deleted-*")) == list(tmp_path.iterdir()) == []


def test_what_is_said_of_a_known_project_is_noted(projects: Projects, tmp_path: Path) -> None:
    projects.remember("7.1", label_config="<View/>")

    assert projects.update("7.1", title="Pets") == projects.get("7.1") == Project("7.1", "<View/>", "Pets")
    assert Projects(tmp_path).all() == projects.all()


@pytest.mark.parametrize("who", ["this process", "another process"])
def test_what_is_said_of_a_deleted_project_does_not_bring_it_back(projects: Projects, tmp_path: Path, who: str) -> None:
    projects.remember("7.1", label_config="<View/>")
    (projects if who == "this process" else Projects(tmp_path)).delete("7.1")

    assert projects.update("7.1", title="Pets") is None

    assert Projects(tmp_path).all() == []
    assert not projects.folder("7.1").exists()


def test_what_another_process_notes_is_learned(projects: Projects, tmp_path: Path) -> None:
    other = Projects(tmp_path)
    other.remember("7.1", title="Pets")
    other.remember("8.1")
    projects.refresh()
    assert [project.title for project in projects.all()] == ["Pets", ""]

    other.remember("7.1", title="Animals")
    other.delete("8.1")
    projects.refresh()

    assert [project.title for project in projects.all()] == ["Animals"]


def test_what_another_process_has_noted_is_not_undone(projects: Projects, tmp_path: Path) -> None:
    projects.remember("7.1", label_config="<View/>")
    other = Projects(tmp_path)
    other.remember("7.1", label_config="<View><Image/></View>")

    projects.remember("7.1", title="Pets")

    assert Projects(tmp_path).get("7.1") == Project("7.1", "<View><Image/></View>", "Pets") == projects.get("7.1")


def test_project_added_during_a_look_for_changes_is_not_seen_as_removed(
    projects: Projects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coming = threading.Thread(target=projects.remember, args=("8.1",))

    def look_and_remember(root: Path) -> set[str]:
        found = project_folders(root)
        coming.start()
        coming.join(0.1)
        return found

    with monkeypatch.context() as patch:
        patch.setattr("my_backend.projects.registry.project_folders", look_and_remember)
        projects.refresh()
    coming.join()

    assert [project.uid for project in projects.all()] == ["8.1"]
    projects.refresh()
    assert [project.uid for project in projects.all()] == ["8.1"]


def test_project_that_another_process_removes_meanwhile_is_passed_over(
    projects: Projects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Projects(tmp_path)
    other.remember("7.1")
    other.remember("8.1")
    examine = files.examine

    def delete_and_read(path: Path, parse: Callable[[bytes], object]) -> object:
        other.delete("7.1")
        return examine(path, parse)

    monkeypatch.setattr(files, "examine", delete_and_read)
    projects.refresh()

    assert [project.uid for project in projects.all()] == ["8.1"]


def test_what_is_known_is_answered_while_the_disk_does_not_answer(
    projects: Projects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = Credentials("http://label-studio:8080", "a-token")
    projects.remember("7.1", title="Pets")
    projects.remember_credentials("7.1", credentials)
    Projects(tmp_path).remember("8.1")
    answers = threading.Event()
    examine = files.examine

    def wait_and_read(path: Path, parse: Callable[[bytes], object]) -> object:
        assert answers.wait(60)
        return examine(path, parse)

    monkeypatch.setattr(files, "examine", wait_and_read)
    looking = threading.Thread(target=projects.refresh)
    looking.start()
    (tmp_path / "7.1" / "credentials.json").rename(tmp_path / "gone")
    looking.join(0.1)
    assert looking.is_alive()

    assert projects.all() == [projects.get("7.1")] == [projects.remember("7.1", title="Pets")]
    projects.remember_credentials("7.1", credentials)

    assert not (tmp_path / "7.1" / "credentials.json").exists(), "nothing was read or written"
    answers.set()
    looking.join()
    assert [project.uid for project in projects.all()] == ["7.1", "8.1"]


def test_project_stays_listed_if_its_folder_cannot_be_read(
    projects: Projects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for uid in ("7.1", "8.1"):
        projects.remember(uid, title=uid)
    is_dir = Path.is_dir

    def fail(path: Path) -> bool:
        if path.name == "7.1":
            raise disk_error(errno.EIO)
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", fail)
    Projects(tmp_path).remember("9.1")
    projects.refresh()

    assert [project.uid for project in projects.all()] == ["7.1", "8.1", "9.1"]


def test_project_not_saved_on_full_disk_is_kept_until_file_changes(projects: Projects, tmp_path: Path) -> None:
    projects.remember("7.1", label_config="<View/>")
    with broken_disk():
        projects.remember("7.1", label_config="<New/>")

        assert projects.read_again("7.1").label_config == "<New/>"

    projects.refresh()
    assert projects.get("7.1").label_config == "<New/>"
    projects.remember("7.1", label_config="<New/>")  # said again, now that there is room
    assert Projects(tmp_path).get("7.1").label_config == "<New/>"
    with broken_disk():
        projects.remember("7.1", label_config="<Newer/>")
    projects.update("7.1", label_config="<Newer/>")
    assert Projects(tmp_path).get("7.1").label_config == "<Newer/>"

    with broken_disk():
        projects.remember("7.1", label_config="<Unsaved/>")
    Projects(tmp_path).remember("7.1", label_config="<Newest/>")
    os.utime(tmp_path / "7.1" / "project.json", ns=(1, 1))  # in another tick of the clock, surely
    assert projects.read_again("7.1").label_config == "<Newest/>"


@pytest.mark.parametrize("left", [(), (f"{files.PART}1",), (f"{files.PART}1", "unlearned.json")])
def test_project_that_another_process_deleted_is_connected_again(left: tuple[str, ...], tmp_path: Path) -> None:
    """Also if a third process, which was killed while it connected the project, has left its folder."""
    credentials = Credentials("http://localhost:8080", "a token")
    server, other = Projects(tmp_path), Projects(tmp_path)
    server.remember("7.1", label_config="<View/>")
    server.remember_credentials("7.1", credentials)

    other.delete("7.1")
    for name in left:
        other.folder("7.1").mkdir(exist_ok=True)
        (other.folder("7.1") / name).touch()
    server.notice_deletion("7.1")
    server.remember("7.1", label_config="<View/>")
    server.remember_credentials("7.1", credentials)

    other.refresh()
    assert [project.uid for project in other.all()] == ["7.1"]
    assert other.credentials("7.1") == credentials


def test_newest_title_replaces_what_another_process_was_told_meanwhile(tmp_path: Path) -> None:
    server, other = Projects(tmp_path), Projects(tmp_path)
    server.remember("7.1", title="Pets")
    other.remember("7.1", title="Dogs")
    file = other.folder("7.1") / "project.json"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))  # both may be in the same tick of the file system's clock

    server.remember("7.1", title="Pets")

    assert Projects(tmp_path).get("7.1").title == "Pets"
