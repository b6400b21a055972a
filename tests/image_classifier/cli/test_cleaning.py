"""What `prepare` takes out of a folder: only what is proven to be surplus, and nothing that a person may need."""

import errno
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from image_classifier.cli.cleaning import Act, clean, moving, place_beside
from image_classifier.errors import UsersError
from tests.broken_disk import disk_error
from tests.image_classifier.cli.pictures import looked_through, picture, two_classes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return two_classes(tmp_path / "images")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def png_with_long_text(folder: Path) -> bytes:
    """As ComfyUI writes it; Pillow refuses to unpack so much text."""
    whole = (folder / "cat/1.png").read_bytes()
    text = b"zTXt" + b"workflow\0\0" + zlib.compress(b'{"node":1}' * 1_000_000)
    return whole[:33] + struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text)) + whole[33:]


def damaged_jpeg(folder: Path) -> bytes:
    """With its end, so that it is not cut short."""
    data = BytesIO()
    Image.open(folder / "cat/1.png").save(data, "JPEG")
    whole = data.getvalue()
    start = whole.index(b"\xff\xc4") + 4
    return whole[:start] + b"\xff" * 20 + whole[start + 20 :]


def damaged_png(folder: Path) -> bytes:
    """With its end, and more after it."""
    whole = (folder / "cat/1.png").read_bytes()
    start = whole.index(b"IDAT") + 4
    return whole[:start] + b"\xff" * 20 + whole[start + 20 :] + b"more"


def bmp_of_an_unknown_kind(folder: Path) -> bytes:
    """As long as its header says."""
    data = BytesIO()
    Image.open(folder / "cat/1.png").save(data, "BMP")
    whole = data.getvalue()
    return whole[:30] + b"\x0c" + whole[31:]  # compressed for a printer


NEVER: dict[str, Callable[[Path], bytes]] = {
    "IMG_1.HEIC": lambda f: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + os.urandom(400),
    "IMG_2.heif": lambda f: b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + os.urandom(400),
    "photo.avif": lambda f: b"\0\0\0\x1cftypavif\0\0\0\0mif1avif" + os.urandom(400),
    "new.jxl": lambda f: b"\xff\x0a" + os.urandom(200),
    "DSC.CR2": lambda f: b"II*\0\x10\0\0\0CR\x02\0" + os.urandom(300),
    "DSC.nef": lambda f: b"MM\0*" + os.urandom(300),
    "DSC.raf": lambda f: b"FUJIFILMCCD-RAW " + os.urandom(300),
    "long.png": png_with_long_text,
    "damaged.jpg": damaged_jpeg,
    "damaged, with a film.jpg": lambda f: damaged_jpeg(f) + b"\0\0\0\x18ftypmp42" + os.urandom(100),  # as phones add it
    "damaged.png": damaged_png,
    "unknown.bmp": bmp_of_an_unknown_kind,
    "scan.tif": lambda f: b"II*\0\x08\0\0\0" + os.urandom(300),
    "page.jpg": lambda f: b"<html>not found",
    "1.txt": lambda f: b"0 0.5 0.5 1 1\n",
    "empty.txt": lambda f: b"",  # in YOLO's form: an image without objects
    "1.xml": lambda f: b"<annotation/>",
    "1.json": lambda f: b"{}",
    "labels.csv": lambda f: b"1.png,cat\n",
    "notes.md": lambda f: b"# Notes",
    "clip.mp4": lambda f: b"\0\0\0\x18ftypmp42" + os.urandom(100),
    "small.png": lambda f: picture(f.parent / "small.png", 9, side=8).read_bytes(),
}


def away(folder: Path) -> Act:
    return moving(folder, folder.parent / "away")


def delete(folder: Path) -> Act:
    return Path.unlink


@pytest.mark.parametrize("act", [away, delete])
@pytest.mark.parametrize("name", NEVER)
def test_what_cannot_be_read_or_is_no_image_stays(name: str, act: Callable[[Path], Act], folder: Path) -> None:
    for place in ("cat", "cat/deep"):  # twice in the class, and still no copies that anybody has looked at
        (folder / place).mkdir(exist_ok=True)
        (folder / place / name).write_bytes(NEVER[name](folder))
    shutil.copy(folder / "cat" / name, folder / "cat" / f"copy {name}")
    before = contents(folder)
    listing = looked_through(folder)
    assert not [finding for finding in listing.findings if finding.surplus and finding.path.suffix != ".png"]
    if name != "long.png":  # which a Pillow may read
        assert clean(listing.findings, act(folder)) == listing.findings
        assert contents(folder) == before


def cut(kind: str) -> Callable[[Path], bytes]:
    def made(folder: Path) -> bytes:
        data = BytesIO()
        image = Image.open(folder / "cat/1.png")
        if kind == "JPEG with a thumbnail":
            thumbnail = BytesIO()
            image.resize((8, 8)).save(thumbnail, "JPEG")
            image.save(data, "JPEG", exif=b"Exif\0\0" + thumbnail.getvalue())
        else:
            image.save(data, kind)
        return data.getvalue()[: int(len(data.getvalue()) * 0.8)]

    return made


def without_its_last_bytes(folder: Path) -> bytes:
    data = BytesIO()
    Image.open(folder / "cat/1.png").save(data, "WEBP", lossless=True)
    return data.getvalue()[:-4]


CUT: dict[str, Callable[[Path], bytes]] = {
    "empty.jpg": lambda f: b"",
    "empty.heic": lambda f: b"",
    "cut.png": cut("PNG"),
    "cut.jpg": cut("JPEG"),
    "thumbnail.jpg": cut("JPEG with a thumbnail"),
    "cut.webp": cut("WEBP"),
    "four bytes short.webp": without_its_last_bytes,
    "cut.bmp": cut("BMP"),
    "no-suffix-png": cut("PNG"),
}


@pytest.mark.parametrize("name", CUT)
def test_what_is_empty_or_cut_short_goes(name: str, folder: Path) -> None:
    (folder / "dog" / name).write_bytes(CUT[name](folder))
    listing = looked_through(folder)
    assert clean(listing.findings, away(folder)) == []
    assert (folder.parent / "away/dog" / name).read_bytes() == CUT[name](folder)
    assert looked_through(folder).findings == []


def test_an_image_in_two_classes_stays_in_both(folder: Path) -> None:
    picture(folder / "cat/copy.png", 0)
    picture(folder / "dog/odd.png", 1)  # which of the two is wrong, only a person can say
    (folder / "cat/gone.png").symlink_to("nowhere.png")  # a disk that is not mounted, or git-annex
    before = contents(folder)
    clean(looked_through(folder).findings, Path.unlink)
    assert before.keys() - contents(folder).keys() == {folder / "cat/copy.png"}
    assert (folder / "cat/gone.png").is_symlink()


@pytest.mark.parametrize("changed", ["cat/copy.png", "cat/1.png"])
@pytest.mark.parametrize("how", ["written anew", "removed"])
def test_what_has_changed_while_the_question_waited_stays(changed: str, how: str, folder: Path) -> None:
    picture(folder / "cat/copy.png", 0)
    findings = looked_through(folder).findings
    if how == "removed":
        (folder / changed).unlink()
    else:
        picture(folder / changed, 7)
    before = contents(folder)
    [left] = clean(findings, Path.unlink)
    assert left.problem.startswith(("kept, since it or its duplicate has changed", "can't be moved or deleted ("))
    assert contents(folder) == before


# --- moving -----------------------------------------------------------------


def test_what_is_moved_keeps_its_folders_and_can_be_moved_back(folder: Path) -> None:
    picture(folder / "cat/deep/copy.png", 0)
    (folder / "cat/0-link.png").symlink_to("1.png")
    before = contents(folder)
    assert clean(looked_through(folder).findings, away(folder)) == []
    moved = folder.parent / "away"
    assert {path.relative_to(moved).as_posix() for path in moved.rglob("*.png")} == {
        "cat/deep/copy.png",
        "cat/0-link.png",
    }
    shutil.copytree(moved, folder, symlinks=True, dirs_exist_ok=True)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["away", "sub/away"])
def test_a_place_inside_the_folder_is_refused(name: str, folder: Path) -> None:
    with pytest.raises(UsersError, match="would become a class"):
        moving(folder, folder / name)
    (folder.parent / "other name").symlink_to(folder)
    with pytest.raises(UsersError, match="would become a class"):
        moving(folder, folder.parent / "other name" / name)


def test_place_inside_only_by_a_link_or_the_working_folder_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "link").symlink_to(folder / "cat")
    with pytest.raises(UsersError, match="would become a class"):
        moving(folder, folder.parent / "link" / "away")
    monkeypatch.chdir(folder / "cat")
    with pytest.raises(UsersError, match="would become a class"):
        moving(folder, Path("away"))


def test_nothing_is_overwritten_and_the_others_are_moved(folder: Path) -> None:
    for name in ("copy", "other"):
        picture(folder / f"cat/{name}.png", 0)
    taken = picture(folder.parent / "away/cat/copy.png", 9)
    before = taken.read_bytes()
    [left] = clean(looked_through(folder).findings, away(folder))
    assert left.path == folder / "cat/copy.png"
    assert "already exists" in left.problem
    assert taken.read_bytes() == before
    assert (folder / "cat/copy.png").is_file()
    assert not (folder / "cat/other.png").exists()


def test_a_dead_link_is_not_overwritten(folder: Path) -> None:
    picture(folder / "cat/copy.png", 0)
    (folder.parent / "away/cat").mkdir(parents=True)
    taken = folder.parent / "away/cat/copy.png"
    taken.symlink_to("on a disk that is not mounted.png")
    [left] = clean(looked_through(folder).findings, away(folder))
    assert "already exists" in left.problem
    assert taken.readlink() == Path("on a disk that is not mounted.png")


def on_another_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(*arguments: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "rename", rename)


def test_a_link_is_moved_to_another_disk_as_a_link(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "cat/0-link.png").symlink_to("1.png")
    on_another_disk(monkeypatch)
    assert clean(looked_through(folder).findings, away(folder)) == []
    assert (folder.parent / "away/cat/0-link.png").readlink() == Path("1.png")
    assert (folder / "cat/1.png").is_file()


def test_a_disk_that_is_full_in_the_middle_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        picture(folder / f"cat/{name}.png", 0)
    findings = looked_through(folder).findings
    on_another_disk(monkeypatch)
    copied, copy = [], shutil.copyfile

    def full(source: Path, target: Path, **more: Any) -> Any:
        copied.append(source)
        if len(copied) > 1:
            Path(target).write_bytes(Path(source).read_bytes()[:10])
            raise disk_error()
        return copy(source, target, **more)

    monkeypatch.setattr(shutil, "copyfile", full)
    left = clean(findings, away(folder))
    assert len(left) == 2
    assert all(finding.problem == "can't be moved or deleted (No space left on device)" for finding in left)
    assert all(finding.path.is_file() for finding in left)
    assert len(contents(folder.parent / "away")) == 1


def test_ctrl_c_in_the_middle_of_a_copy_leaves_only_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(folder / "cat/copy.png", 0)
    findings, before = looked_through(folder).findings, contents(folder)
    on_another_disk(monkeypatch)

    def interrupted(source: Path, target: Path, **more: Any) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        clean(findings, away(folder))
    assert contents(folder) == before
    assert contents(folder.parent / "away") == {}


def test_ctrl_c_right_after_the_move_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = picture(folder / "cat/copy.png", 0)
    findings, image = looked_through(folder).findings, copy.read_bytes()
    move = shutil.move

    def moved(source: Path, target: Path) -> None:
        move(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "move", moved)
    with pytest.raises(KeyboardInterrupt):
        clean(findings, away(folder))
    assert contents(folder.parent / "away") == {folder.parent / "away/cat/copy.png": image}


@pytest.mark.parametrize("across", [False, True])
def test_a_folder_that_may_not_be_changed_keeps_its_files_whole(
    across: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(folder / "cat/copy.png", 0)
    findings = looked_through(folder).findings

    unlink = os.unlink

    def guarded(path: Path, *arguments: Any, **more: Any) -> None:
        if Path(path).is_relative_to(folder):
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(path)

    monkeypatch.setattr(os, "unlink", guarded)
    if across:
        on_another_disk(monkeypatch)
    else:
        monkeypatch.setattr(shutil, "move", guarded)
    [left] = clean(findings, away(folder))
    assert left.problem == "can't be moved or deleted (Permission denied)"
    assert (folder / "cat/copy.png").is_file()
    assert contents(folder.parent / "away") == {}


def test_the_place_next_to_a_folder_is_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cats/in").mkdir(parents=True)
    assert place_beside(tmp_path / "cats") == tmp_path / "cats-surplus"
    (tmp_path / "cats-surplus").symlink_to("nowhere")
    assert place_beside(tmp_path / "cats") == tmp_path / "cats-surplus-2"
    (tmp_path / "cats-surplus-2").mkdir()
    monkeypatch.chdir(tmp_path / "cats/in")
    assert place_beside(Path("..")) == tmp_path / "cats-surplus-3"
    assert place_beside(Path()) == tmp_path / "cats/in-surplus"


# --- links ------------------------------------------------------------------


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


@pytest.mark.parametrize("act", [away, delete])
@pytest.mark.parametrize(("spoil", "gone"), LINKED.values(), ids=LINKED)
def test_of_links_to_an_image_only_the_links_are_surplus(
    spoil: Callable[[Path], object], gone: set[str], act: Callable[[Path], Act], folder: Path
) -> None:
    spoil(folder)
    before = contents(folder)
    clean(looked_through(folder).findings, act(folder))
    after = contents(folder)
    assert {path.relative_to(folder).as_posix() for path in before.keys() - after.keys()} == gone
    assert set(after.values()) == set(before.values())  # no image is lost
    assert not [path for path in folder.rglob("*") if not path.exists()]  # no link leads to nothing


@pytest.mark.parametrize("act", [away, delete])
@pytest.mark.parametrize("place", ["cat/aa", "bear"])
def test_files_outside_the_folder_are_reported_but_stay(
    place: str, act: Callable[[Path], Act], folder: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    for name, seed in {"1.png": 0, "2.png": 9, "3.png": 8, "4.png": 8}.items():
        picture(outside / name, seed)
    (outside / "empty.png").touch()
    (folder / place).symlink_to(outside)
    picture(folder / "cat/zz/2.png", 9)  # listed after the linked folder
    before = contents(outside)

    findings = looked_through(folder).findings

    assert clean(findings, act(folder)) == findings
    assert contents(outside) == before
    assert {finding.path.relative_to(folder / place).as_posix() for finding in findings} >= {"4.png", "empty.png"}


def test_folder_that_is_a_link_itself_is_cleaned(folder: Path, tmp_path: Path) -> None:
    copy = picture(folder / "cat/copy.png", 0)
    (tmp_path / "link").symlink_to(folder)
    assert clean(looked_through(tmp_path / "link").findings, delete(folder)) == []
    assert not copy.exists()
