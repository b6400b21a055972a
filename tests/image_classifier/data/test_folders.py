"""Folders of images: thirty kinds of trouble, each with a clear message, and none that harms the rest."""

import errno
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from image_classifier.data.file_kinds import suffix_of
from image_classifier.data.folders import (
    MAX_FILE_BYTES,
    Finding,
    Split,
    find_split,
    images_below,
    list_folder,
    read_files,
    samples_of,
    shown,
)
from image_classifier.data.preprocessing import MAX_PIXELS, limit_pixels
from image_classifier.errors import UsersError
from tests.image_classifier.cli.pictures import looked_through, picture, two_classes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return two_classes(tmp_path / "images")


def broken_png(folder: Path) -> None:
    whole = (folder / "cat/1.png").read_bytes()
    (folder / "cat/cut.png").write_bytes(whole[: len(whole) // 2])


def circle(folder: Path) -> None:
    (folder / "cat/again").symlink_to(folder / "cat", target_is_directory=True)


def class_of_notes(folder: Path) -> None:
    (folder / "fish").mkdir()
    (folder / "fish/notes.txt").write_text("a fish")


TROUBLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "text called an image": (lambda f: (f / "cat/3.jpg").write_text("<html>"), "cat/3.jpg: not an image"),
    "empty file": (lambda f: (f / "cat/3.png").touch(), "cat/3.png: is empty"),
    "cut short": (broken_png, "cat/cut.png: is truncated"),
    "too small": (lambda f: picture(f / "cat/3.png", 9, side=8), "cat/3.png: too small: 8×8"),
    "format that is not read": (lambda f: picture(f / "cat/3.ico", 9, kind="ICO"), "cat/3.ico: not an image"),
    "twice in a class": (lambda f: picture(f / "cat/copy.png", 0), "cat/copy.png: the same image as"),
    "twice in a folder of a class": (lambda f: picture(f / "cat/old/1.png", 0), "old/1.png: the same image as"),
    "in two classes": (lambda f: picture(f / "dog/odd.png", 0), "dog/odd.png: the same image as"),
    "hard link": (lambda f: os.link(f / "cat/1.png", f / "cat/link.png"), "cat/link.png: the same image as"),
    "link to an image": (lambda f: (f / "cat/link.png").symlink_to(f / "cat/1.png"), "link.png: the same image as"),
    "link to nothing": (lambda f: (f / "cat/gone.png").symlink_to("nowhere.png"), "gone.png: is a dead link"),
    "link to itself": (lambda f: (f / "cat/self.png").symlink_to("self.png"), "self.png: is a dead link"),
    "links in a circle": (circle, "cat/again: leads to a folder that was already read"),
    "pipe": (lambda f: os.mkfifo(f / "cat/pipe.png"), "cat/pipe.png: isn't a regular file"),
    "file beside the classes": (lambda f: picture(f / "stray.png", 9), "stray.png: is next to the class folders"),
    "pipe beside the classes": (lambda f: os.mkfifo(f / "pipe"), "pipe: is next to the class folders"),
    "link to nothing beside": (lambda f: (f / "gone").symlink_to("nowhere"), "gone: is a dead link"),
    "empty class": (lambda f: (f / "fish").mkdir(), "fish: contains no images"),
    "class of empty folders": (lambda f: (f / "fish/a/b").mkdir(parents=True), "fish: contains no images"),
    "class of notes": (class_of_notes, "fish: contains no images"),
    "name that is not UTF-8": (lambda f: picture(Path(os.fsdecode(bytes(f / "cat") + b"/\xff.png")), 9), "not UTF-8"),
    "class that is not UTF-8": (lambda f: picture(Path(os.fsdecode(bytes(f) + b"/\xff/1.png")), 9), "not UTF-8"),
    "line break in a name": (lambda f: (f / "cat/a\nb.png").touch(), r"cat/a\nb.png: is empty"),
}


@pytest.mark.parametrize(("spoil", "message"), TROUBLES.values(), ids=TROUBLES)
def test_problem_has_a_message_and_leaves_the_rest_as_it_is(
    spoil: Callable[[Path], object], message: str, folder: Path
) -> None:
    spoil(folder)
    listing = looked_through(folder)
    lines = [str(finding) for finding in listing.findings]
    assert [line for line in lines if message in line], lines
    assert all(line.encode().isascii() or "×" in line for line in lines)  # can be printed
    unusable = {finding.path for finding in listing.findings}
    left = {path for files in listing.classes.values() for path in files} - unusable
    assert {folder / "cat/1.png", folder / "cat/2.png", folder / "dog/1.png", folder / "dog/2.png"} <= left


HARMLESS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda f: None,
    "hidden file": lambda f: (f / ".DS_Store").touch(),
    "hidden file in a class": lambda f: (f / "cat/.DS_Store").touch(),
    "hidden folder": lambda f: picture(f / ".ipynb_checkpoints/1.png", 9),
    "spaces and unicode": lambda f: picture(f / "großer Bär 🐻/ein Bild.png", 9),
    "ending in capitals": lambda f: picture(f / "cat/3.PNG", 9),
    "no ending": lambda f: picture(f / "cat/3", 9),
    "wrong ending": lambda f: picture(f / "cat/3.png", 9, kind="JPEG"),
    "folders in a class": lambda f: picture(f / "cat/2026/may/3.png", 9),
    "folder called an image": lambda f: picture(f / "cat/odd.png/3.png", 9),
    "link to a folder elsewhere": lambda f: (f / "bear").symlink_to(picture(f.parent / "else/1.png", 9).parent),
    "markup in a name": lambda f: picture(f / "[red]/[bold].png", 9),
}


@pytest.mark.parametrize("spoil", HARMLESS.values(), ids=HARMLESS)
def test_what_is_unusual_but_right_is_no_problem(spoil: Callable[[Path], object], folder: Path) -> None:
    spoil(folder)
    listing = looked_through(folder)
    assert listing.findings == []
    assert sum(map(len, listing.classes.values())) in (4, 5)


def test_heic_is_an_image_like_any_other(folder: Path) -> None:
    pytest.importorskip("pillow_heif")
    for number, name in enumerate(("cat/3.heic", "dog/3")):
        picture(folder / name, 9 + number, kind="HEIF")
    listing = looked_through(folder)
    assert (listing.findings, listing.skipped) == ([], {})  # so `prepare` keeps them
    assert {name: len(files) for name, files in listing.classes.items()} == {"cat": 3, "dog": 3}
    assert len(list(images_below(folder, [], Counter()))) == 6


SYSTEMS = ["__MACOSX", "@eaDir", "$RECYCLE.BIN", "$Recycle.Bin", "lost+found", ".git", ".thumbnails", "RECYCLER"]
SYSTEMS += ["System Volume Information", "#recycle", "@Recently-Snapshot", ".ipynb_checkpoints", ".dvc", "._x"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_folders_that_systems_add_are_no_classes_and_hold_no_images(name: str, folder: Path) -> None:
    for place in (name, f"{name}/cat", f"cat/{name}", f"cat/deep/{name}/cat"):
        picture(folder / place / "thumb.png", 9)
    listing = looked_through(folder)
    assert (listing.findings, listing.skipped) == ([], {})
    assert {name: len(files) for name, files in listing.classes.items()} == {"cat": 2, "dog": 2}


SYSTEMS_FILES = ["Thumbs.db", "THUMBS.DB", "ehthumbs.db", "desktop.ini", ".DS_Store", "._1.png", "Icon\r"]


@pytest.mark.parametrize("name", SYSTEMS_FILES)
@pytest.mark.parametrize("content", ["an image", "text", "nothing"])
def test_files_that_systems_add_are_neither_images_nor_counted(name: str, content: str, folder: Path) -> None:
    data = {"an image": picture(folder.parent / "other.png", 9).read_bytes(), "text": b"[.ShellClassInfo]"}
    for place in (folder, folder / "cat", folder / "dog", folder / "cat/deep"):
        place.mkdir(exist_ok=True)
        (place / name).write_bytes(data.get(content, b""))
    listing = looked_through(folder)
    assert (listing.findings, listing.skipped) == ([], {})
    assert {name: len(files) for name, files in listing.classes.items()} == {"cat": 2, "dog": 2}
    assert [path.name for path in images_below(folder, [], Counter())] == ["1.png", "2.png"] * 2  # to predict


@pytest.mark.parametrize("name", SYSTEMS)
def test_folders_that_systems_add_are_no_splits(name: str, folder: Path) -> None:
    picture(folder.parent / "val/cat/3.png", 9)
    folder.rename(folder.parent / "train")
    (folder.parent / name / "train/cat").mkdir(parents=True)
    assert find_split(folder.parent) == Split(folder.parent / "train", folder.parent / "val", None)


def test_files_that_are_no_images_are_counted_and_no_contradictions(folder: Path) -> None:
    (folder / "cat/more").mkdir()
    for name in ("cat/1", "dog/1", "cat/more/2", "README"):
        for suffix in (".txt", ".ogg", ".SVG"):
            (folder / f"{name}{suffix}").write_text("BM, the same side-car")
    (folder / "cat/LICENSE").touch()
    (folder / "cat/bmw.txt").write_text("BMW makes cars")
    listing = looked_through(folder)
    samples = samples_of(listing)
    assert listing.findings == []
    assert listing.skipped == {".txt": 5, ".ogg": 4, ".svg": 4, "": 1}
    assert len(samples) == 4


def test_sidecars_do_not_hide_that_a_folder_holds_splits(folder: Path) -> None:
    folder.rename(folder.parent / "train")
    picture(folder.parent / "test/cat/3.png", 9)
    (folder.parent / "test/notes.txt").touch()
    with pytest.raises(UsersError, match="are one level too deep"):
        list_folder(folder.parent)


@pytest.mark.parametrize(
    ("names", "better"),
    [
        (("test", "train"), "train"),
        (("Test", "Train"), "Train"),
        (("extra", "test", "train", "val"), "train"),
        (("test", "valid"), "test"),
        (("train",), "train"),
    ],
)
def test_split_is_refused_and_its_training_images_are_suggested(
    names: tuple[str, ...], better: str, tmp_path: Path
) -> None:
    for name in names:
        two_classes(tmp_path / name)
    with pytest.raises(UsersError, match=f"one level too deep .*such as {tmp_path}/{better}$"):
        list_folder(tmp_path)


@pytest.mark.parametrize("names", [("cat", "dog"), ("train", "bus"), ("2023", "2024", "2025", "2026")])
def test_classes_may_have_the_same_subfolders(names: tuple[str, ...], tmp_path: Path) -> None:
    for number, name in enumerate(names):
        for side in ("left", "right"):
            picture(tmp_path / name / side / "1.png", 2 * number + (side == "left"))
    listing = looked_through(tmp_path)
    assert {name: len(files) for name, files in listing.classes.items()} == dict.fromkeys(names, 2)
    assert listing.findings == []
    some = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
    assert listing.note.startswith(
        f"The classes are the subfolders of {tmp_path}: {some}. If left is meant to be a class"
    )


def test_classes_that_differ_only_in_case_are_two_and_that_is_said(folder: Path) -> None:
    picture(folder / "Cat/3.png", 3)
    if not (folder / "CAT").exists():  # as on Linux
        listing = list_folder(folder)
        assert (list(listing.classes), listing.findings) == (["Cat", "cat", "dog"], [])
        assert (
            listing.note == "Some classes differ only in case: Cat and cat. If two are one class, merge their folders"
        )


def test_classes_that_differ_only_in_case_take_one_line(folder: Path) -> None:
    for number, name in enumerate(["Masse", "Maße", *"aAbBcCdD"]):  # the first two aren't the same word
        picture(folder / name / "1.png", 10 + number)
    if not (folder / "CAT").exists():  # as on Linux
        assert list_folder(folder).note == (
            "Some classes differ only in case: A and a, B and b, C and c, …. If two are one class, merge their folders"
        )


def test_an_error_page_saved_twice_as_an_image_is_no_contradiction(folder: Path) -> None:
    for name in ("cat/3.jpg", "dog/3.jpg"):
        (folder / name).write_text("<html>")
    listing = list_folder(folder)
    samples_of(listing)
    [finding] = listing.findings
    assert str(finding).startswith(f"{folder}/dog/3.jpg: not an image")


def test_a_folder_that_may_only_be_listed_stops_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = Path.stat

    def guarded(path: Path, **more: Any) -> os.stat_result:
        if path.parent.name == "dog":  # whoever runs the tests may look into all folders
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **more)

    monkeypatch.setattr(Path, "stat", guarded)
    listing = looked_through(folder)
    assert [path.name for path in listing.classes["cat"]] == ["1.png", "2.png"]
    assert [finding.problem for finding in listing.findings[:2]] == ["can't be read (Permission denied)"] * 2


def test_a_folder_that_is_there_twice_by_a_mount_is_seen_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each image of it would be a second copy of itself."""
    (folder / "cat/again").mkdir()
    stat = Path.stat
    mounted = {folder / "cat/again": folder / "cat"}
    monkeypatch.setattr(Path, "stat", lambda path, **more: stat(mounted.get(path, path), **more))
    [finding] = looked_through(folder).findings
    assert str(finding) == f"{folder}/cat/again: leads to a folder that was already read: left out"


def test_a_file_that_vanishes_after_it_was_listed_stops_no_other(folder: Path) -> None:
    listing = list_folder(folder)
    (folder / "cat/1.png").unlink()
    assert len(samples_of(listing)) == 3
    assert [str(finding) for finding in listing.findings] == [
        f"{folder}/cat/1.png: can't be read (No such file or directory)"
    ]


@pytest.mark.parametrize(("name", "why"), [("pipe", "isn't a regular file"), ("cat", "is a folder")])
def test_what_is_no_file_is_never_waited_for(name: str, why: str, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    [finding] = read_files([folder / name])
    assert isinstance(finding, Finding)
    assert finding.problem == why


def test_a_file_that_no_memory_holds_is_named(folder: Path) -> None:
    with (folder / "cat/huge.tif").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse
    [finding] = looked_through(folder).findings
    assert finding.problem == "is larger than 2 GB: scale it down"
    assert not finding.surplus


def test_a_name_that_a_mac_has_decomposed_is_the_same_class(folder: Path) -> None:
    picture(folder / "caf\u00e9/1.png", 8)
    picture(folder / "cafe\u0301/2.png", 9)
    classes = list_folder(folder).classes
    assert {name: len(files) for name, files in classes.items()} == {"cat": 2, "caf\u00e9": 2, "dog": 2}


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda f: f / "none", "no such folder"),
    "a file": (lambda f: f / "cat/1.png", "isn't a folder"),
    "images without classes": (lambda f: f / "cat", "has no subfolders"),
    "folders of classes in folders": (lambda f: f.rename(f.parent / "train").parent, "subfolders, such as .*/train"),
}


@pytest.mark.parametrize(("spoil", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_classes_is_refused_with_the_fix(spoil: Callable[[Path], Path], message: str, folder: Path) -> None:
    picture(folder.parent / "test/cat/3.png", 9)
    with pytest.raises(UsersError, match=message):
        list_folder(spoil(folder))


def test_ten_thousand_files_are_listed_in_order(tmp_path: Path) -> None:
    whole = picture(tmp_path / "one.bmp", 0, side=16, kind="BMP").read_bytes()
    (tmp_path / "one.bmp").unlink()
    for number in range(10_000):
        path = tmp_path / "ab"[number % 2] / f"{number:05d}.bmp"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(whole[:-2] + number.to_bytes(2, "big"))  # another last pixel
    (tmp_path / "a/00002.bmp").write_bytes(whole[:100])
    listing = looked_through(tmp_path)
    [finding] = listing.findings
    assert finding.path == tmp_path / "a/00002.bmp"
    assert "is truncated" in finding.problem
    samples = samples_of(listing)
    assert len(samples) == 10_000
    assert [s.name for s in samples] == sorted(s.name for s in samples)


def test_an_image_twice_is_one_sample_and_one_in_two_classes_is_none(folder: Path) -> None:
    picture(folder / "cat/copy.png", 0)
    picture(folder / "dog/odd.png", 1)
    listing = list_folder(folder)
    names = [Path(s.name).relative_to(folder).as_posix() for s in samples_of(listing)]
    assert names == ["cat/1.png", "dog/1.png", "dog/2.png"]
    assert ["in another class" in str(finding) for finding in listing.findings] == [True]


def test_more_pixels_than_are_allowed_are_no_reason_to_remove_an_image(folder: Path) -> None:
    limit_pixels(32 * 32)
    try:
        picture(folder / "cat/large.png", 9, side=64)
        [finding] = looked_through(folder).findings
    finally:
        limit_pixels(MAX_PIXELS)
    assert "raise MAX_IMAGE_PIXELS" in str(finding)
    assert not finding.surplus


@pytest.mark.parametrize(
    "trouble", [OSError(errno.EIO, "Input/output error"), OSError(errno.ESTALE, "Stale file handle"), MemoryError()]
)
@pytest.mark.parametrize("reading", [1, 2])  # for the digest, and for the image
def test_what_cannot_be_read_just_now_is_not_removed(
    reading: int, trouble: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, readings = Path.open, []

    def guarded(path: Path, *arguments: Any, **more: Any) -> Any:
        if path == folder / "cat/1.png":
            readings.append(path)
            if len(readings) == reading:
                raise trouble
        return opened(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", guarded)
    [finding] = looked_through(folder).findings
    assert str(finding).startswith(f"{folder}/cat/1.png: can't be read (")
    assert not finding.surplus


def test_what_memory_does_not_suffice_for_is_not_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", fail)
    findings = looked_through(folder).findings
    assert len(findings) == 4
    assert not any(finding.surplus for finding in findings)


def test_a_name_that_no_file_can_have_is_named() -> None:
    [finding] = read_files([Path("a\0b.png")])
    assert isinstance(finding, Finding)
    assert str(finding) == r"a\x00b.png: can't be read (embedded null byte)"


def test_a_name_is_shown_on_one_line_that_can_be_printed() -> None:
    assert shown("a\tb\n\udcff\x1b[31m é 🐻") == r"a\tb\n\udcff\x1b[31m é 🐻"
    assert shown("a\u2028b\u202ec") == r"a\u2028b\u202ec"


@pytest.mark.parametrize(
    "name", ["at 9.41.00\u202fAM.png", "写真\u30001.png", "a\u00a0b", "👩\u200d🌾", "می\u200cخواهم"]
)
def test_other_spaces_and_invisible_joiners_are_shown_as_they_are(name: str) -> None:
    assert shown(name) == name


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("JPEG", ".jpg"),
        ("PNG", ".png"),
        ("WEBP", ".webp"),
        ("GIF", ".gif"),
        ("TIFF", ".tif"),
        ("BMP", ".bmp"),
        ("AVIF", ".avif"),
    ],
)
def test_suffix_follows_from_the_content(tmp_path: Path, kind: str, suffix: str) -> None:
    assert suffix_of(picture(tmp_path / "image", 1, kind=kind).read_bytes()) == suffix
