import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from my_backend import files
from my_backend.errors import Conflict, NotFound, TakenOver
from my_backend.projects import versions as versions_module
from my_backend.projects.versions import KEPT_VERSIONS, UNTRAINED, Version, Versions, last_move
from testing.waiting import eventually
from tests.broken_disk import broken_disk

ROOT = Path(__file__).resolve().parents[3]
CHOICES = ("Cat", "Dog")


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    (tmp_path / "project").mkdir()
    return Versions(tmp_path / "project")


def publish(versions: Versions, text: str = "weights", **options: Any) -> Version:
    """Publishes a version with a file, from a work folder of its own."""
    workdir = versions.pointer.parent / "work" / str(random.random())
    (workdir / "model").mkdir(parents=True)
    (workdir / "model" / "weights").write_text(text)
    (workdir / "checkpoint").write_text("is not part of the version")
    output = {"model_dir": str(workdir / "model"), "list": [str(workdir / "model" / "weights")], "figures": {"n": 1}}
    return versions.publish(output, workdir, **{"cause": "test", "choices": CHOICES, **options})


def weights(version: Version | None) -> str:
    assert version is not None
    return (Path(version.train_output["model_dir"]) / "weights").read_text()


def folders(versions: Versions) -> list[str]:
    """All that lies beside the versions, staging folders included."""
    return sorted(path.name for path in (versions.pointer.parent / "versions").iterdir())


def test_before_the_first_version_there_is_none(versions: Versions) -> None:
    assert (versions.live_name(), versions.live(), versions.names()) == (UNTRAINED, None, [])


def test_published_version_is_live_and_has_its_files(versions: Versions) -> None:
    first = publish(versions, "first")
    second = publish(versions, "second", cause="again", choices=("Cat",))

    assert versions.names() == [first.name, second.name]
    assert versions.live() == second
    assert (weights(first), weights(second)) == ("first", "second")
    assert (second.cause, second.choices, second.grew_from, first.grew_from) == ("again", ("Cat",), first.name, "")
    assert second.train_output["list"] == [f"{second.folder}/model/weights"]
    assert second.train_output["figures"] == {"n": 1}
    assert sorted(path.name for path in second.folder.iterdir()) == ["README.md", "model", "version.json"]


def test_export_replaces_a_damaged_one_and_is_kept_only_with_its_version(versions: Versions, tmp_path: Path) -> None:
    first = publish(versions)
    for content in ("one", "other"):
        (part := tmp_path / content).mkdir()
        (part / "model.onnx").write_text(content)
        versions.exported(first.name).parent.mkdir(exist_ok=True)
        versions.keep_exported(first.name, part)
    assert (versions.exported(first.name) / "model.onnx").read_text() == "other"
    publish(versions)
    versions.delete(first.name)
    with pytest.raises(NotFound):
        versions.keep_exported(first.name, tmp_path / "other")
    assert not versions.exported(first.name).exists()
    shutil.rmtree(versions.pointer.parent)
    with pytest.raises(NotFound, match="project project was deleted"):
        versions.keep_exported(first.name, tmp_path / "other")


def test_who_follows_many_projects_is_told_that_a_pointer_was_moved(versions: Versions) -> None:
    projects = versions.pointer.parents[1]
    told = [last_move(projects)]
    first = publish(versions)
    told.append(last_move(projects))
    publish(versions)
    told.append(last_move(projects))
    versions.activate(first.name)
    told.append(last_move(projects))

    assert len(set(told)) == 4
    publish(versions, held_back="it is worse")
    assert last_move(projects) == told[-1]


def test_pointer_is_not_reported_missing_if_the_first_version_goes_live_while_it_is_read(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, published = Versions(versions.pointer.parent), list[Version]()
    has_lost_pointer = reader._has_lost_pointer

    def publish_first() -> bool:
        published.append(publish(versions))
        return has_lost_pointer()

    monkeypatch.setattr(reader, "_has_lost_pointer", publish_first)

    assert reader.read_pointer() == published[0].name
    assert reader.damages() == []


def test_version_that_must_not_be_published_leaves_nothing(versions: Versions) -> None:
    first = publish(versions, "first")

    def refuse() -> None:
        raise TakenOver("another process is at it")

    with pytest.raises(TakenOver):
        publish(versions, "second", confirm=refuse)

    assert versions.live() == first
    assert folders(versions) == [first.name]


def test_fit_may_publish_twice_from_one_work_folder(versions: Versions, tmp_path: Path) -> None:
    workdir = tmp_path / "work"
    published = []
    for text in ("head", "all layers"):
        (workdir / "model").mkdir(parents=True)
        (workdir / "model" / "weights").write_text(text)
        output = {"model_dir": str(workdir / "model")}
        published.append(versions.publish(output, workdir, cause="fit", choices=CHOICES))

    assert [weights(version) for version in published] == ["head", "all layers"]


def test_version_needs_no_files(versions: Versions, tmp_path: Path) -> None:
    output = {"threshold": 0.5, "path": "/elsewhere/file", "none": None}

    assert versions.publish(output, tmp_path, cause="test", choices=()).train_output == output


def test_names_grow_by_number(versions: Versions) -> None:
    published = [publish(versions).name for _ in range(11)]

    assert versions.names()[-KEPT_VERSIONS:] == published[-KEPT_VERSIONS:]
    assert [name.partition("-")[0] for name in published] == [f"v{number}" for number in range(1, 12)]
    assert [name.partition("-")[2] for name in published] == sorted({name.partition("-")[2] for name in published})


def test_name_has_the_time_in_utc(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("my_backend.projects.versions.time.time", lambda: 1795181101.5)

    assert publish(versions).name == "v1-20261120T132501"


@pytest.mark.parametrize("seconds", [-86400 * 365, -1, 0], ids=["a year back", "a second back", "standing"])
def test_clock_that_is_set_back_makes_no_name_twice(
    versions: Versions, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    before = publish(versions)
    now = time.time()
    monkeypatch.setattr("my_backend.projects.versions.time.time", lambda: now + seconds)

    after = publish(versions)

    assert (before.name.partition("-")[2], before.created) < (after.name.partition("-")[2], after.created)


def test_emptied_folder_makes_no_name_twice(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {publish(versions).name for _ in range(5)}
    shutil.rmtree(versions.pointer.parent)
    now = time.time()
    monkeypatch.setattr("my_backend.projects.versions.time.time", lambda: now + 1)

    after = {publish(versions).name for _ in range(8)}

    assert not before & after


def test_version_that_is_held_back_does_not_go_live_until_it_is_activated(versions: Versions) -> None:
    live = publish(versions)

    held = publish(versions, held_back="clearly worse")

    assert (versions.live_name(), versions.get(held.name).held_back) == (live.name, "clearly worse")
    assert versions.activate(held.name) == held
    assert versions.live_name() == held.name


def test_first_version_that_is_held_back_leaves_the_project_untrained(versions: Versions) -> None:
    publish(versions, held_back="clearly worse")

    assert versions.live() is None


def test_rollback_makes_an_old_name_live_again(versions: Versions) -> None:
    old, new = publish(versions, "old"), publish(versions, "new")

    versions.activate(old.name)

    assert (versions.live_name(), weights(versions.live())) == (old.name, "old")
    assert versions.names() == [old.name, new.name]
    assert publish(versions).grew_from == old.name


@pytest.mark.parametrize("form", ["{}", "{}\n", "\ufeff{}\r\n"])
def test_pointer_may_be_edited_with_any_editor(versions: Versions, form: str) -> None:
    old = publish(versions).name
    publish(versions)

    versions.pointer.write_text(form.format(old), "utf-8")

    assert versions.live_name() == old


@pytest.mark.parametrize("name", ["v9-20200101T000000", "untrained", "", ".", "..", "../versions", "v1", "v1-x/.."])
def test_unknown_version_is_refused_with_the_list(versions: Versions, name: str) -> None:
    known = publish(versions).name

    for look in (versions.get, versions.activate):
        with pytest.raises(NotFound, match=known):
            look(name)
    assert versions.live_name() == known


def test_moved_folder_still_knows_its_files(versions: Versions, tmp_path: Path) -> None:
    publish(versions, "kept")

    shutil.move(versions.pointer.parent, tmp_path / "moved")

    moved = Versions(tmp_path / "moved").live()
    assert moved is not None
    assert moved.folder.is_relative_to(tmp_path / "moved")
    assert weights(moved) == "kept"


@pytest.mark.parametrize("lowest", [0.5, float("nan")])
def test_old_versions_go_but_for_the_live_and_the_best_one(versions: Versions, lowest: float) -> None:
    def learned(accuracy: Any) -> str:
        workdir = versions.pointer.parent / "work" / str(random.random())
        return versions.publish({"figures": {"accuracy": accuracy}}, workdir, cause="test", choices=CHOICES).name

    first = [learned(accuracy) for accuracy in (lowest, 0.9, 0.7, None)]
    versions.activate(first[2])
    newer = [
        versions.publish({}, versions.pointer.parent / "work", cause="test", choices=CHOICES, held_back="worse").name
        for _ in range(KEPT_VERSIONS)
    ]

    assert versions.names() == [first[1], first[2], *newer]
    assert [version.name for version in versions.all()] == versions.names()
    assert versions.live_name() == first[2]
    assert folders(versions) == sorted(versions.names())
    with pytest.raises(NotFound):
        versions.activate(first[0])


def test_best_version_is_one_that_was_evaluated_like_the_newest(versions: Versions) -> None:
    def learned(accuracy: float | None, **figures: Any) -> str:
        workdir = versions.pointer.parent / "work" / str(random.random())
        output = {"figures": {"accuracy": accuracy, **figures}}
        return versions.publish(output, workdir, cause="test", choices=CHOICES).name

    learned(0.99, judged_by="cross-validation")  # near-duplicates had votes of their own
    learned(0.98, judged_by="held-out images", groups=9)
    learned(0.97, judged_by="cross-validation", groups=9, labels_since=3)  # measured on an earlier version
    best = learned(0.8, judged_by="cross-validation", groups=9)
    newer = [learned(0.7, judged_by="cross-validation", groups=9) for _ in range(KEPT_VERSIONS - 1)]
    newer.append(learned(None, judged_by="cross-validation"))

    assert versions.names() == [best, *newer]


def test_pinned_versions_stay_until_they_are_unpinned(versions: Versions) -> None:
    kept, other = publish(versions).name, publish(versions).name
    versions.pin(kept)
    newer = [publish(versions).name for _ in range(KEPT_VERSIONS)]
    assert versions.names() == [kept, *newer]
    with pytest.raises(NotFound):
        versions.pin(other)

    versions.pin(kept, pinned=False)
    newer.append(publish(versions).name)
    assert versions.names() == newer[-KEPT_VERSIONS:]


def test_deleted_version_is_gone_and_its_number_never_comes_again(versions: Versions) -> None:
    first, second = publish(versions), publish(versions)
    with pytest.raises(Conflict, match="is live"):
        versions.delete(second.name)
    versions.activate(first.name)
    versions.pin(second.name)
    with pytest.raises(Conflict, match="is pinned"):
        versions.delete(second.name)
    versions.pin(second.name, pinned=False)
    versions.delete(second.name)

    assert folders(versions) == [first.name]
    third = publish(versions)
    assert third.name.startswith("v3-")
    assert third.created > second.created


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("how", ["", "cut short"])
def test_versions_can_be_deleted_on_a_full_disk(versions: Versions, noted: bool, how: str) -> None:
    """`noted`: the file of numbers was written; otherwise the disk was full before that, or the file was lost."""
    older, newest = publish(versions), publish(versions)
    given = versions.pointer.parent / "removed.json"
    if not noted:
        given.unlink()
    if how:
        damage(versions, newest.name, how)
    else:
        versions.activate(older.name)

    with broken_disk():
        versions.delete(newest.name)
        assert versions.names() == [older.name]
        assert not any(path.is_file() for path in (versions.pointer.parent / "versions").rglob(f"*{newest.name}/*"))
        assert versions.live_name() == (UNTRAINED if how else older.name)

    third = publish(versions)
    assert third.number == 3
    assert third.name.partition("-")[2] > newest.name.partition("-")[2]


def test_leftover_of_a_removed_version_goes_once_its_number_is_noted(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newest = publish(versions), publish(versions)
    versions.activate(older.name)
    (versions.pointer.parent / "removed.json").unlink()
    with broken_disk():
        versions.delete(newest.name)
    monkeypatch.setattr("my_backend.projects.versions.STAGING_SECONDS", -1)

    third = publish(versions)
    assert third.number == 3
    fourth = publish(versions)
    assert folders(versions) == [older.name, third.name, fourth.name]


@pytest.mark.parametrize("moment", ["replace", "_empty", "_ensure_noted"])
def test_number_of_a_version_whose_deletion_was_killed_never_comes_again(
    versions: Versions, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    older, newest = publish(versions), publish(versions)
    versions.activate(older.name)
    (versions.pointer.parent / "removed.json").unlink()
    target: Any = {"replace": os, "_ensure_noted": Versions}.get(moment, versions_module)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(target, moment, kill)
        versions.delete(newest.name)

    assert versions.live() == older
    assert publish(versions).number == 3


CUT_SHORT = '{"created": 17'


def damage(versions: Versions, name: str, how: str) -> None:
    folder = versions.pointer.parent / "versions" / name
    if how == "folder gone":
        shutil.rmtree(folder)
    elif how == "record gone":
        (folder / "version.json").unlink()
    elif how == "file in its place":
        shutil.rmtree(folder)
        folder.touch()
    elif how == "link to itself":
        shutil.rmtree(folder)
        folder.symlink_to(folder.name)
    else:
        (folder / "version.json").write_text(CUT_SHORT)


DAMAGES = ("cut short", "record gone", "folder gone", "file in its place", "link to itself")


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_newest_version_stops_nothing_and_its_number_stays_used(versions: Versions, how: str) -> None:
    older, newest = publish(versions), publish(versions)
    damage(versions, newest.name, how)

    assert versions.all() == [older]
    with pytest.raises(NotFound, match=newest.name):
        versions.live()
    third = publish(versions)
    assert third.name.startswith("v3-")
    assert third.name.partition("-")[2] > newest.name.partition("-")[2]
    assert versions.live() == third
    if how != "folder gone":
        versions.delete(newest.name)
    assert versions.names() == [older.name, third.name]
    assert publish(versions).number == 4


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_only_version_can_be_deleted(versions: Versions, how: str) -> None:
    only = publish(versions)
    damage(versions, only.name, how)

    versions.delete(only.name)

    assert (versions.live_name(), versions.live(), versions.names(), folders(versions)) == (UNTRAINED, None, [], [])
    assert publish(versions).number == 2


@pytest.mark.parametrize("left", ["versions", "live", "removed.json", "pinned.json"])
def test_number_is_never_given_twice_although_only_one_file_is_left(versions: Versions, left: str) -> None:
    for _ in range(3):
        publish(versions)
    versions.pin(versions.names()[-1])
    for path in list(versions.pointer.parent.iterdir()):
        if path.name != left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    assert publish(versions).number == 4


def test_damaged_version_can_be_unpinned_and_deleted(versions: Versions) -> None:
    first = publish(versions)
    publish(versions)
    versions.pin(first.name)
    damage(versions, first.name, "cut short")
    with pytest.raises(Conflict, match="is pinned"):
        versions.delete(first.name)

    versions.pin(first.name, pinned=False)
    versions.delete(first.name)

    assert first.name not in versions.names()


@pytest.mark.parametrize("content", ["", '["v1-', '{"v1": true}', "[1]", "null"])
def test_while_the_list_of_pins_is_damaged_nothing_is_removed_or_unpinned(versions: Versions, content: str) -> None:
    kept = publish(versions).name
    versions.pin(kept)
    pins = versions.pointer.parent / "pinned.json"
    whole = pins.read_text()
    pins.write_text(content)

    names = [kept, *(publish(versions).name for _ in range(KEPT_VERSIONS + 2))]

    assert versions.names() == names
    for change in (versions.delete, versions.pin, lambda name: versions.pin(name, pinned=False)):
        with pytest.raises(Conflict, match="which versions are pinned"):
            change(names[1])
    assert pins.read_text() == content
    assert str(pins) in str(files.damages(versions.pointer.parent))

    pins.write_text(whole)
    newest = publish(versions).name
    assert versions.names() == [kept, *names[-KEPT_VERSIONS + 1 :], newest]


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b"\xff\xfe", b"v1", b"{}", None])
def test_while_the_pointer_is_damaged_nothing_is_removed(versions: Versions, content: bytes | None) -> None:
    published = [publish(versions).name for _ in range(KEPT_VERSIONS)]
    versions.activate(published[0])
    versions.pointer.unlink()
    if content is not None:
        versions.pointer.write_bytes(content)

    assert versions.live_name() == UNTRAINED
    assert str(versions.pointer) in str(files.damages(versions.pointer.parent))
    published.append(publish(versions, held_back="clearly worse").name)
    published.append(publish(versions, held_back="clearly worse").name)
    assert versions.names() == published
    with pytest.raises(Conflict, match="which version is live"):
        versions.delete(published[0])

    versions.activate(published[0])
    assert files.damages(versions.pointer.parent) == []
    assert versions.live_name() == published[0]


def test_what_follows_a_publishing_does_not_undo_it(versions: Versions) -> None:
    (versions.pointer.parent / "removed.json").mkdir(parents=True)

    published = publish(versions)

    assert versions.live() == published


def test_exported_version_is_whole_and_never_over_another(versions: Versions, tmp_path: Path) -> None:
    version = publish(versions)
    versions.export(version.name, tmp_path / "exported")

    assert (tmp_path / "exported" / "model" / "weights").read_text() == "weights"
    with pytest.raises(Conflict, match="already exists"):
        versions.export(version.name, tmp_path / "exported")
    assert sorted(path.name for path in tmp_path.iterdir() if "exported" in path.name) == ["exported"]


def test_version_that_is_thinned_out_while_versions_are_listed_is_left_out(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = publish(versions)
    monkeypatch.setattr(versions, "names", lambda: ["v9-20260101T000000", kept.name])

    assert versions.all() == [kept]


def test_changed_choices_give_the_live_version_a_new_name_once(versions: Versions) -> None:
    old = publish(versions, "kept")

    new = versions.renew_live(cause="choices changed", choices=("Cat", "Bird"))

    assert new is not None
    assert (versions.live(), versions.names()) == (new, [old.name, new.name])
    assert (new.choices, new.cause, new.grew_from) == (("Cat", "Bird"), "choices changed", old.name)
    assert versions.get(old.name) == old
    shutil.rmtree(old.folder)
    assert weights(new) == "kept"
    assert versions.renew_live(cause="choices changed", choices=("Cat", "Bird")) is None


def test_nothing_is_renewed_before_the_first_version(versions: Versions) -> None:
    assert versions.renew_live(cause="choices changed", choices=CHOICES) is None


def test_nothing_is_published_in_a_project_that_is_deleted_meanwhile(versions: Versions) -> None:
    with pytest.raises(NotFound, match="project project was deleted"):
        publish(versions, confirm=lambda: shutil.rmtree(versions.pointer.parent))

    assert versions.names() == []
    assert versions.live_name() == UNTRAINED


def test_renewed_version_keeps_how_its_labels_were_made(versions: Versions) -> None:
    history = {"days": [{"day": "2026-11-27", "scratch": 3}]}
    publish(versions, labeling_history=history)

    renewed = versions.renew_live(cause="choices changed", choices=("Bird",))

    assert renewed is not None
    assert renewed.labeling_history == history


def test_many_that_see_changed_choices_renew_once(versions: Versions) -> None:
    publish(versions)
    start = threading.Barrier(6)

    def renew() -> None:
        start.wait()
        Versions(versions.pointer.parent).renew_live(cause="choices changed", choices=("Bird",))

    run_all([renew] * 6)

    assert len(versions.names()) == 2


def test_version_that_goes_live_while_the_last_one_is_renewed_stays_live(versions: Versions) -> None:
    old, new = publish(versions, "old"), publish(versions, "new")
    versions.activate(old.name)
    renewed: list[Version | None] = []
    renewing = threading.Thread(
        target=lambda: renewed.append(versions.renew_live(cause="choices changed", choices=("Bird",)))
    )

    with versions.unchanging():  # as a job does that publishes
        renewing.start()
        assert eventually(lambda: list((versions.pointer.parent / "versions").glob(".staging-*/model/weights")))
        versions.pointer.write_text(new.name)
    renewing.join()

    assert (renewed, versions.live_name(), versions.names()) == ([None], new.name, [old.name, new.name])
    assert folders(versions) == versions.names()


def test_copy_on_a_file_system_without_links(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    live = publish(versions, "kept")

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    copy = versions.copy_from(live, cause="copy", choices=CHOICES)
    (live.folder / "model" / "weights").write_text("changed")

    assert weights(copy) == "kept"


def test_failed_publish_leaves_nothing_and_the_live_version(
    versions: Versions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    live = publish(versions)

    def fail(*_: object, **options: object) -> None:
        raise OSError("disk full")

    with pytest.raises(FileNotFoundError):
        versions.publish({"model_dir": str(tmp_path / "gone")}, tmp_path, cause="test", choices=())
    monkeypatch.setattr(files, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        publish(versions)
    with pytest.raises(OSError, match="disk full"):
        versions.copy_from(live, cause="test", choices=())

    assert versions.live() == live
    assert folders(versions) == [live.name]


def run_all(works: list[Any]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_concurrent_publishers_in_threads_and_processes_make_no_name_twice(versions: Versions) -> None:
    each = 12
    with publisher(versions, each) as one, publisher(versions, each) as two:
        published: list[str] = []
        run_all([lambda: published.extend(publish(versions).name for _ in range(each))] * 2)
        for process in (one, two):
            assert process.stdout is not None
            published += process.stdout.read().decode().split()
        assert (one.wait(60), two.wait(60)) == (0, 0)

    assert len(published) == len({name.partition("-")[2] for name in published}) == 4 * each
    names = versions.names()
    assert set(names) < set(published)
    assert {weights(versions.get(name)) for name in names} == {"weights"}
    assert versions.live_name() in names


PUBLISHER = """
import sys
from pathlib import Path
from my_backend.projects.versions import Versions
versions, rounds = Versions(Path(sys.argv[1])), int(sys.argv[2])
workdir = Path(sys.argv[1]) / "work" / sys.argv[3]
print("ready", flush=True)
for number in range(rounds):
    (workdir / "model").mkdir(parents=True, exist_ok=True)
    (workdir / "model" / "weights").write_text("weights")
    version = versions.publish({"model_dir": str(workdir / "model")}, workdir, cause="test", choices=["Cat"])
    print(version.name, flush=True)
    if number % 3 == 2:
        versions.activate(versions.names()[-2])
"""


@contextmanager
def publisher(versions: Versions, rounds: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that publishes, and now and then activates an older version; killed at the end."""
    folder = str(versions.pointer.parent)
    command = [sys.executable, "-c", PUBLISHER, folder, str(rounds), str(random.random())]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("kills", [6, pytest.param(150, marks=pytest.mark.slow)])
def test_killed_publisher_leaves_whole_versions_and_a_live_one_that_loads(versions: Versions, kills: int) -> None:
    publish(versions)
    ended = threading.Event()
    faults: list[object] = []

    def read() -> None:
        while not ended.is_set():
            try:
                if weights(versions.live()) != "weights":
                    faults.append("half a file")
                for name in versions.names()[-3:]:
                    weights(versions.get(name))
            except Exception as error:
                faults.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(kills):
            with publisher(versions, 1_000_000):
                time.sleep(random.uniform(0, 0.05))  # the moment of death is what is tried
            assert weights(versions.live()) == "weights"
        with publisher(versions, 1_000_000) as process:  # all the others may have died before their first version
            assert process.stdout is not None
            assert process.stdout.readline()
    finally:
        ended.set()
        reader.join()

    assert faults == []
    names = versions.names()
    assert len(names) > 1
    assert {weights(versions.get(name)) for name in names} == {"weights"}
    assert len({name.partition("-")[2] for name in names}) == len(names)
    after = publish(versions)
    assert (versions.live_name(), versions.names()[-1]) == (after.name, after.name)
