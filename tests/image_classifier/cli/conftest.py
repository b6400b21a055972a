"""Folders of digits, models that have learned them, and commands in the tests' own process."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from image_classifier.cli.main import main
from tests.image_classifier.cli.command import TRAIN, Command, command


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    return command(capsys)


@pytest.fixture(scope="session")
def folder(digits: list[tuple[Path, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zeros, ones and twos, twelve of each, in a folder for each."""
    folder = tmp_path_factory.mktemp("folder")
    for label in "012":
        for path in [path for path, name in digits if name == label][:12]:
            (folder / label).mkdir(exist_ok=True)
            shutil.copy(path, folder / label)
    return folder


@pytest.fixture(scope="session")
def others(digits: list[tuple[Path, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other ones of them."""
    folder = tmp_path_factory.mktemp("others")
    for label in "012":
        for path in [path for path, name in digits if name == label][12:16]:
            (folder / label).mkdir(exist_ok=True)
            shutil.copy(path, folder / label)
    return folder


@pytest.fixture(scope="session")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the folder, which no test changes."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setenv("CACHE_DIR", str(place / "cache"))
        main([*TRAIN, str(folder), "--output", str(place / "model"), "--epochs", "8"])
    assert not ended.value.code
    return place / "model"


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """One to change."""
    return Path(shutil.copytree(trained, tmp_path / "model"))


@pytest.fixture
def several(folder: Path, tmp_path: Path) -> Path:
    """An export in which a 0 is also `round`, and a 2 too, but for one each."""
    tasks = []
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        digit = path.parent.name
        result = {
            "from_name": "digit",
            "type": "choices",
            "value": {"choices": [digit, *("round" for _ in digit if digit != "1")]},
        }
        tasks.append({"id": number, "data": {"image": f"{digit}/{path.name}"}, "annotations": [{"result": [result]}]})
    file = tmp_path / "export.json"
    file.write_text(json.dumps(tasks))
    return file


@pytest.fixture
def other_names() -> None:
    if sys.platform != "linux":
        pytest.skip("the file system allows only Unicode")
