"""Folders for outputs: nothing is left of them after an error."""

from pathlib import Path

import pytest

from image_classifier.cli.output_paths import new_folder

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
