"""The images of `make demo`."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from demo.images import MOST, digits, own_images
from image_classifier.errors import UsersError


def test_digits_are_in_the_same_random_order_every_time(tmp_path: Path) -> None:
    first, second = digits(tmp_path / "a"), digits(tmp_path / "b")

    assert (len(first.paths), first.annotated) == (1797, 300)
    assert first.labels == second.labels
    assert first.labels[:10] != list("0123456789")
    assert set(first.labels[:300]) == set("0123456789")


def test_own_images_are_labeled_with_their_folders(tmp_path: Path) -> None:
    for name in ('cats & "dogs"/of mine/1.png', 'cats & "dogs"/2.jpg', "birds/3.png", ".hidden/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "birds/note.txt").write_text("a note")

    found = own_images(tmp_path)

    assert {
        path.relative_to(tmp_path).as_posix(): label for path, label in zip(found.paths, found.labels, strict=True)
    } == {
        'cats & "dogs"/of mine/1.png': 'cats & "dogs"',
        'cats & "dogs"/2.jpg': 'cats & "dogs"',
        "birds/3.png": "birds",
    }
    assert found.annotated == 1
    choices = ET.fromstring(found.label_config).iter("Choice")
    assert [choice.get("value") for choice in choices] == ["birds", 'cats & "dogs"']


def test_of_many_own_images_a_random_part_is_used(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(MOST):
            (tmp_path / name / f"{number}.png").touch()

    found = own_images(tmp_path)

    assert len(found.paths) == len(set(found.paths)) == MOST
    assert 0.4 * MOST < found.labels.count("a") < 0.6 * MOST


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    with pytest.raises(UsersError, match="has no images in its subfolders"):
        own_images(tmp_path)
