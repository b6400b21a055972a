"""What outlasts a loss of power: each way to change a file, and whether the trials would notice."""

from collections.abc import Callable
from pathlib import Path

import pytest

from my_backend import files
from tests.my_backend.crashes.disk import Disk, Fault, Killed, Tree, read_tree
from tests.my_backend.crashes.power import states

Change = Callable[[Path], object]


def found_after(root: Path, change: Change) -> list[Tree]:
    """Everything that may be found if power is lost right after a change."""
    disk = Disk(root)
    with disk.watching():
        change(root)
    assert disk.tree() == read_tree(root), "a call isn't recorded"
    return [tree for _, tree in states(disk, len(disk.calls))]


def in_file(trees: list[Tree], name: str = "file") -> set[bytes | None]:
    return {tree.get(name) for tree in trees}


def test_unsynced_file_may_be_missing_empty_torn_or_zeros(tmp_path: Path) -> None:
    found = found_after(tmp_path, lambda root: (root / "file").write_bytes(b"1234"))

    assert in_file(found) == {None, b"", b"12", bytes(4), b"1234"}


def test_unsynced_names_may_be_found_in_any_order(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        (root / "folder").mkdir()
        (root / "folder" / "one").touch()
        (root / "folder" / "two").touch()

    found = {tuple(tree) for tree in found_after(tmp_path, change)}

    everything = {(), ("folder",), ("folder", "folder/one"), ("folder", "folder/two")}
    assert found == {*everything, ("folder", "folder/one", "folder/two")}


@pytest.mark.parametrize(
    ("sync", "expected"),
    [("all", {b"new"}), ("data", {b"old", b"new"}), ("none", {b"old", b"new", b"", b"n", bytes(3)})],
)
def test_written_file_outlasts_power_as_asked(tmp_path: Path, sync: files.Sync, expected: set[bytes]) -> None:
    (tmp_path / "file").write_bytes(b"old")

    assert in_file(found_after(tmp_path, lambda root: files.write(root / "file", "new", sync=sync))) == expected


def test_file_in_new_folders_outlasts_power(tmp_path: Path) -> None:
    def write(root: Path) -> None:
        files.create_folder(root / "a" / "b", parents=True)
        files.write(root / "a" / "b" / "file", "new")

    found = found_after(tmp_path, write)

    assert in_file(found, "a/b/file") == {b"new"}


def test_moved_folder_is_in_its_new_place_only(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "old" / "folder").mkdir()

    found = found_after(tmp_path, lambda root: files.move(root / "old" / "folder", root / "new" / "folder"))

    assert {tuple(tree) for tree in found} == {("new", "new/folder", "old")}


def test_removed_file_does_not_come_back(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert in_file(found_after(tmp_path, lambda root: files.remove(root / "file"))) == {None}


def test_synced_tree_is_whole(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        (root / "part" / "model").mkdir(parents=True)
        (root / "part" / "model" / "weights").write_bytes(b"1234")
        files.sync_tree(root / "part")
        files.move(root / "part", root / "whole")

    found = found_after(tmp_path, change)

    assert found == [{"whole": None, "whole/model": None, "whole/model/weights": b"1234"}] * len(found)


def test_killed_process_cleans_up_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    disk = Disk(tmp_path, Fault(at=1, half=True))  # after `open`, in the middle of the write

    with disk.watching(), pytest.raises(Killed):
        files.write(tmp_path / "file", "new!")

    [left] = read_tree(tmp_path).keys() - {"file"}
    assert read_tree(tmp_path) == {"file": b"old", left: b"ne"}
