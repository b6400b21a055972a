"""Folders of images: thirty kinds of trouble, each with a clear message, and none that harms the rest."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_classifier.preprocessing import MAX_PIXELS, limit_pixels
from image_classifier.recipes.errors import UsersError
from image_classifier.recipes.folders import (
    Finding,
    Listing,
    examine,
    files_below,
    list_folder,
    move,
    read_files,
    remove,
    samples_of,
    shown,
)


def picture(path: Path, seed: int, side: int = 32, kind: str = "PNG") -> Path:
    """Noise, another one for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, kind)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of two images each."""
    folder = tmp_path / "images"
    for number, name in enumerate(("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")):
        picture(folder / name, number)
    return folder


def looked_through(folder: Path) -> Listing:
    listing = list_folder(folder)
    examine(listing)
    return listing


def broken_png(folder: Path) -> None:
    whole = (folder / "cat/1.png").read_bytes()
    (folder / "cat/cut.png").write_bytes(whole[: len(whole) // 2])


def circle(folder: Path) -> None:
    (folder / "cat/again").symlink_to(folder / "cat", target_is_directory=True)


TROUBLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda f: (f / "cat/notes.txt").write_text("a cat"), "cat/notes.txt: not an image"),
    "text called an image": (lambda f: (f / "cat/3.jpg").write_text("<html>"), "cat/3.jpg: not an image"),
    "empty file": (lambda f: (f / "cat/3.png").touch(), "cat/3.png: not an image"),
    "cut short": (broken_png, "cat/cut.png: broken image"),
    "too small": (lambda f: picture(f / "cat/3.png", 9, side=8), "cat/3.png: too small: 8×8"),
    "format that is not read": (lambda f: picture(f / "cat/3.ico", 9, kind="ICO"), "cat/3.ico: not an image"),
    "twice in a class": (lambda f: picture(f / "cat/copy.png", 0), "cat/copy.png: the same image as"),
    "twice in a folder of a class": (lambda f: picture(f / "cat/old/1.png", 0), "old/1.png: the same image as"),
    "in two classes": (lambda f: picture(f / "dog/odd.png", 0), "dog/odd.png: the same image as"),
    "hard link": (lambda f: os.link(f / "cat/1.png", f / "cat/link.png"), "cat/link.png: the same image as"),
    "link to an image": (lambda f: (f / "cat/link.png").symlink_to(f / "cat/1.png"), "link.png: the same image as"),
    "link to nothing": (lambda f: (f / "cat/gone.png").symlink_to("nowhere.png"), "gone.png: is a link to nothing"),
    "link to itself": (lambda f: (f / "cat/self.png").symlink_to("self.png"), "self.png: is a link to nothing"),
    "links in a circle": (circle, "cat/again: leads to a folder that has been seen"),
    "pipe": (lambda f: os.mkfifo(f / "cat/pipe.png"), "cat/pipe.png: is no regular file"),
    "file beside the classes": (lambda f: picture(f / "stray.png", 9), "stray.png: lies beside the class folders"),
    "table beside the classes": (lambda f: (f / "labels.csv").touch(), "labels.csv: lies beside the class folders"),
    "link to nothing beside": (lambda f: (f / "gone").symlink_to("nowhere"), "gone: lies beside the class folders"),
    "empty class": (lambda f: (f / "fish").mkdir(), "fish: holds no files"),
    "class of empty folders": (lambda f: (f / "fish/a/b").mkdir(parents=True), "fish: holds no files"),
    "name that is not UTF-8": (lambda f: picture(Path(os.fsdecode(bytes(f / "cat") + b"/\xff.png")), 9), "not UTF-8"),
    "class that is not UTF-8": (lambda f: picture(Path(os.fsdecode(bytes(f) + b"/\xff/1.png")), 9), "not UTF-8"),
    "line break in a name": (lambda f: (f / "cat/a\nb.png").touch(), r"cat/a\nb.png: not an image"),
}


@pytest.mark.parametrize(("spoil", "message"), TROUBLES.values(), ids=TROUBLES)
def test_trouble_has_a_message_and_leaves_the_rest_as_it_is(
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
def test_what_is_unusual_but_right_is_no_trouble(spoil: Callable[[Path], object], folder: Path) -> None:
    spoil(folder)
    listing = looked_through(folder)
    assert listing.findings == []
    assert sum(map(len, listing.classes.values())) in (4, 5)


def test_a_name_that_a_mac_has_decomposed_is_the_same_class(folder: Path) -> None:
    picture(folder / "caf\u00e9/1.png", 8)
    picture(folder / "cafe\u0301/2.png", 9)
    classes = list_folder(folder).classes
    assert {name: len(files) for name, files in classes.items()} == {"cat": 2, "caf\u00e9": 2, "dog": 2}


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda f: f / "none", "there is no such folder"),
    "a file": (lambda f: f / "cat/1.png", "is no folder"),
    "images without classes": (lambda f: f / "cat", "has no folders"),
    "folders of classes in folders": (lambda f: f.parent, "give one of them, such as"),
}


@pytest.mark.parametrize(("spoil", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_classes_is_refused_with_the_remedy(
    spoil: Callable[[Path], Path], message: str, folder: Path
) -> None:
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
    assert "image" in finding.problem
    samples = samples_of(listing)
    assert len(samples) == 10_000
    assert [s.name for s in samples] == sorted(s.name for s in samples)


def test_an_image_twice_is_one_sample_and_one_in_two_classes_is_none(folder: Path) -> None:
    picture(folder / "cat/copy.png", 0)
    picture(folder / "dog/odd.png", 1)
    listing = list_folder(folder)
    names = [Path(s.name).relative_to(folder).as_posix() for s in samples_of(listing)]
    assert names == ["cat/1.png", "dog/1.png", "dog/2.png"]
    assert ["of another class" in str(finding) for finding in listing.findings] == [True]


def test_what_is_surplus_is_removed_and_nothing_else(folder: Path) -> None:
    picture(folder / "cat/copy.png", 0)
    picture(folder / "dog/odd.png", 1)  # which of the two is wrong, only a person can say
    (folder / "cat/gone.png").symlink_to("nowhere.png")
    (folder / "labels.csv").touch()
    before = set(files_below(folder, []))
    remove([finding for finding in looked_through(folder).findings if finding.surplus])
    assert before - set(files_below(folder, [])) == {folder / "cat/copy.png"}
    assert not (folder / "cat/gone.png").is_symlink()


def a_link_that_comes_first(folder: Path) -> None:
    (folder / "cat/0-best.png").symlink_to("1.png")


def links_to_links(folder: Path) -> None:
    """The images themselves are elsewhere, as with git-annex."""
    image = picture(folder.parent / "store/9.png", 9)
    (folder / "cat/9.png").symlink_to(image)
    (folder / "cat/8.png").symlink_to("9.png")
    (folder / "cat/7.png").symlink_to("8.png")


def a_link_and_a_copy(folder: Path) -> None:
    (folder / "cat/0-link.png").symlink_to(picture(folder.parent / "store/9.png", 9))
    picture(folder / "cat/9.png", 9)


def hard_links(folder: Path) -> None:
    os.link(folder / "cat/1.png", folder / "cat/0-hard.png")
    (folder / "cat/00-soft.png").symlink_to("1.png")


def a_class_under_two_names(folder: Path) -> None:
    """One of them a link, decomposed as macOS does it, so that both are the same class."""
    picture(folder / "caf\u00e9/1.png", 9)
    (folder / "cafe\u0301").symlink_to("caf\u00e9")


def a_link_from_another_class(folder: Path) -> None:
    """Whoever decides that it is a dog needs the file that the link leads to."""
    picture(folder / "cat/copy.png", 0)
    (folder / "dog/odd.png").symlink_to("../cat/copy.png")


LINKED: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "a link that comes first": (a_link_that_comes_first, {"cat/0-best.png"}),
    "links to links": (links_to_links, {"cat/7.png", "cat/8.png"}),
    "a link and a copy": (a_link_and_a_copy, {"cat/0-link.png"}),
    "hard links": (hard_links, {"cat/00-soft.png", "cat/1.png"}),
    "a class under two names": (a_class_under_two_names, set()),
    "a link from another class": (a_link_from_another_class, set()),
}


@pytest.mark.parametrize("how", ["remove", "move"])
@pytest.mark.parametrize(("spoil", "gone"), LINKED.values(), ids=LINKED)
def test_of_links_to_an_image_only_the_links_are_surplus(
    spoil: Callable[[Path], object], gone: set[str], how: str, folder: Path, tmp_path: Path
) -> None:
    spoil(folder)
    before = {path: path.read_bytes() for path in files_below(folder, [])}
    surplus = [finding for finding in looked_through(folder).findings if finding.surplus]
    if how == "remove":
        remove(surplus)
    else:
        move(surplus, folder, tmp_path / "away")
    after = {path: path.read_bytes() for path in files_below(folder, [])}
    assert {path.relative_to(folder).as_posix() for path in before.keys() - after.keys()} == gone
    assert set(after.values()) == set(before.values())  # no image is lost
    assert not [path for path in folder.rglob("*") if not path.exists()]  # no link leads to nothing


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
    read_bytes, readings = Path.read_bytes, []

    def read(path: Path) -> bytes:
        if path == folder / "cat/1.png":
            readings.append(path)
            if len(readings) == reading:
                raise trouble
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    [finding] = looked_through(folder).findings
    assert str(finding).startswith(f"{folder}/cat/1.png: cannot be read (")
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
    assert str(finding) == r"a\x00b.png: cannot be read (embedded null byte)"


def test_what_is_surplus_is_moved_with_its_folder(folder: Path, tmp_path: Path) -> None:
    picture(folder / "cat/copy.png", 0)
    surplus = [finding for finding in looked_through(folder).findings if finding.surplus]
    with pytest.raises(UsersError, match="would be a class"):
        move(surplus, folder, folder / "away")
    move(surplus, folder, tmp_path / "away")
    assert (tmp_path / "away/cat/copy.png").is_file()
    assert looked_through(folder).findings == []
    picture(folder / "cat/copy.png", 0)
    with pytest.raises(UsersError, match="is there already"):
        move(surplus, folder, tmp_path / "away")


def test_a_name_is_shown_on_one_line_that_can_be_printed() -> None:
    assert shown("a\tb\n\udcff\x1b[31m é 🐻") == r"a\tb\n\udcff\x1b[31m é 🐻"
