"""`image-classifier prepare`: what it prints, and what it says where something is wrong."""

import shutil
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from image_classifier.data.preprocessing import MAX_MEMORY, MAX_PIXELS, limit_memory, limit_pixels
from tests.image_classifier.cli.command import Command


@pytest.fixture
def spoiled(folder: Path, tmp_path: Path) -> Path:
    """With a second copy of an image, one that no program reads, and notes."""
    spoiled = Path(shutil.copytree(folder, tmp_path / "spoiled"))
    shutil.copy(next((spoiled / "0").iterdir()), spoiled / "0/copy.png")
    (spoiled / "1/photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(400))
    (spoiled / "0/notes.txt").write_text("no")
    return spoiled


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}


def test_prepare_changes_nothing_unless_told(run: Command, spoiled: Path) -> None:
    before = names(spoiled)
    for _ in range(2):
        said = run("prepare", spoiled)
        assert said.status == 1
        copy, photo, *counts = said.out.splitlines()
        assert photo.startswith(f"{spoiled}/1/photo.heic: ")
        assert copy.startswith(f"{spoiled}/0/")
        assert counts == ["0\t12", "1\t12", "2\t12"]
        assert said.err.splitlines() == [
            "reading images",
            "checking images",
            f"1 file can be removed: add --clean to move it to {spoiled}-surplus",
            "1 other file skipped (1 .txt)",
        ]
    assert names(spoiled) == before


def test_prepare_moves_what_is_surplus_to_a_new_folder(run: Command, spoiled: Path, tmp_path: Path) -> None:
    before = names(spoiled)
    for place in ("spoiled-surplus", "spoiled-surplus-2"):
        said = run("prepare", spoiled, "--clean")
        assert f"1 file moved to {tmp_path / place}" in said.err
        assert said.status == 1  # for the photo that stays
        [moved] = (tmp_path / place / "0").iterdir()
        assert before - names(spoiled) == {f"0/{moved.name}"}
        shutil.copy(moved, spoiled / "0")
    run("prepare", spoiled, "--move-to", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine/0").iterdir()] == [moved.name]
    assert "1 file" not in run("prepare", spoiled, "--clean").err.replace("1 other file", "")
    assert not (tmp_path / "spoiled-surplus-3").exists()


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_prepare_deletes_after_a_question_alone(run: Command, spoiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (spoiled / "1/photo.heic").unlink()
    before = names(spoiled)
    monkeypatch.setattr("sys.stdin", StringIO("y\n"))
    said = run("prepare", spoiled, "--delete")
    assert (said.status, names(spoiled)) == (1, before)
    assert "Nothing deleted: there is no terminal in which to ask for confirmation. Add --yes" in said.err
    for answer in ("n\n", "\n", ""):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        said = run("prepare", spoiled, "--delete")
        assert (said.status, names(spoiled)) == (1, before)
        assert "Delete 1 file permanently?" in said.err
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    asked = run("prepare", spoiled, "--delete")
    assert (asked.status, "1 file deleted" in asked.err) == (0, True)
    [gone] = before - names(spoiled)
    assert Path(gone).parent == Path("0")
    assert asked.err.index(str(spoiled / gone)) < asked.err.index("Delete 1 file permanently?")


def test_ctrl_c_at_the_question_deletes_nothing_and_ends_with_130(
    run: Command, spoiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Terminal):
        def readline(self, *_: object) -> str:
            raise KeyboardInterrupt

    before = names(spoiled)
    monkeypatch.setattr("sys.stdin", Interrupted())
    assert (run("prepare", spoiled, "--delete").status, names(spoiled)) == (130, before)


def test_prepare_deletes_without_a_question_for_scripts(run: Command, spoiled: Path) -> None:
    before = names(spoiled)
    assert "1 file deleted" in run("prepare", spoiled, "--delete", "--yes").err
    assert len(before - names(spoiled)) == 1
    (spoiled / "1/photo.heic").unlink()
    assert run("prepare", spoiled, "--delete").status == 0  # nobody is asked about nothing


@pytest.mark.parametrize("options", [("--clean", "--delete"), ("--delete", "--move-to", "x"), ("--yes",)])
def test_prepare_takes_one_way_of_cleaning(options: tuple[str, ...], run: Command, spoiled: Path) -> None:
    assert run("prepare", spoiled, *options).status == 2


@pytest.fixture
def limits_of_this_process() -> Iterator[None]:
    yield
    limit_pixels(MAX_PIXELS)
    limit_memory(MAX_MEMORY)


@pytest.mark.usefixtures("limits_of_this_process")
@pytest.mark.parametrize("setting", ["MAX_IMAGE_PIXELS", "MAX_IMAGE_MEMORY"])
def test_prepare_keeps_to_the_limits_that_are_set(
    setting: str, run: Command, spoiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spoiled / "1/photo.heic").unlink()
    monkeypatch.setenv(setting, "1000")
    assert run("prepare", spoiled).out.count(f"raise {setting}") == 37


def test_prepare_says_which_files_it_could_not_move(run: Command, spoiled: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    before = names(spoiled)
    said = run("prepare", spoiled, "--move-to", tmp_path / "taken")
    assert (said.status, names(spoiled)) == (1, before)
    assert "0 files moved" in said.err
    assert ": can't be moved or deleted (" in said.err
