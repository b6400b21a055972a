"""Folders for outputs: nothing is left of them after an error."""

from pathlib import Path

import pytest

from image_classifier.cli.output_paths import new_folder, refuse_unwritable
from image_classifier.errors import UsersError

TOO_LONG = "x" * 300


def test_no_parent_stays_if_the_folder_cannot_be_created(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=TOO_LONG), new_folder(tmp_path / "new" / "runs" / TOO_LONG):
        pass
    assert not list(tmp_path.iterdir())


def test_what_was_there_before_stays(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(OSError, match=TOO_LONG), new_folder(tmp_path / "runs" / "new" / TOO_LONG):
        pass
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "runs" / "new" / "model"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (f"{TOO_LONG}.html", TOO_LONG),
        (f"new/{TOO_LONG}/report.html", TOO_LONG),
        ("file/report.html", "file isn't a folder"),
        ("file/new/report.html", "file isn't a folder"),
    ],
)
def test_file_that_cannot_be_created_is_refused(name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((UsersError, OSError), match=why):
        refuse_unwritable(tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_file_that_can_be_created_is_not_created_yet(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("earlier")
    for name in ("report.html", "other.html", "new/runs/report.html"):
        refuse_unwritable(tmp_path / name)
    assert [(path.name, path.read_text()) for path in tmp_path.rglob("*")] == [("report.html", "earlier")]
