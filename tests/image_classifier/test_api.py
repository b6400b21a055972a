"""`from image_classifier import train, load_model`, in scripts and in notebooks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import image_classifier
from examples.train_and_predict import main
from image_classifier.errors import UsersError
from image_classifier.nets.weights import WeightsError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folders(digits: list[tuple[Path, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Zeros and ones, to train on and others."""
    monkeypatch.setenv("IMAGE_SIZE", "64")
    for label in "01":
        for number, path in enumerate([path for path, name in digits if name == label][:14]):
            folder = tmp_path / ("training" if number < 10 else "others") / label
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
    return tmp_path / "training", tmp_path / "others"


def test_example_trains_and_predicts(folders: tuple[Path, Path], tmp_path: Path) -> None:
    training, others = folders

    right = main(training, others, tmp_path / "model")

    assert right >= 0.75
    model = image_classifier.load_model(tmp_path / "model")
    assert model.classes == ("0", "1")
    image, missing = next(others.rglob("*.png")), tmp_path / "missing.png"
    predicted, failed = model.predict([image, str(missing)], top=2)
    assert (predicted.path, predicted.error, failed.label) == (image, "", "")
    assert "No such file" in failed.error
    assert sum(score for _, score in predicted.scores) == pytest.approx(1, abs=0.001)
    with pytest.raises(UsersError, match="already contains a training run"):
        image_classifier.train(training, tmp_path / "model")


def test_example_works_with_one_image_per_class(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No head of the cross-validation knows the class of an image that it evaluates."""
    training, others = folders
    for number, image in enumerate(sorted(training.rglob("*.png"))[:4]):
        (tmp_path / f"few/{number}").mkdir(parents=True)
        shutil.copy(image, tmp_path / f"few/{number}")

    main(tmp_path / "few", others, tmp_path / "model")

    assert "4 classes, accuracy unknown" in capsys.readouterr().out


def test_example_says_in_one_line_that_the_model_exists(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """The README's commands have already written a model."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "training.json").touch()
    command = [sys.executable, ROOT / "examples" / "train_and_predict.py", *folders, "model"]

    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "model already contains a training run: choose another output folder"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("weights", "images", "message"),
    [
        ("gone.pth", ["training", "others"], "WEIGHTS=gone.pth: no such file"),
        ("none", ["few", "others"], "Too few labels to train on: label at least 4 images"),
        ("none", ["training", "empty"], "empty has no images"),
    ],
)
def test_example_says_in_one_line_what_is_wrong(
    weights: str, images: list[str], message: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    for label in "01":
        (tmp_path / "few" / label).mkdir(parents=True)
        shutil.copy(next((folders[0] / label).iterdir()), tmp_path / "few" / label)
    (tmp_path / "empty").mkdir()

    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "train_and_predict.py", *images, "model"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "WEIGHTS": weights},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in done.stderr


def test_notebook_runs_from_its_first_cell_to_its_last(folders: tuple[Path, Path], tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "examples" / "train_and_predict.ipynb").read_text("utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    (tmp_path / "digits").mkdir()
    for folder, name in zip(folders, ("train", "test"), strict=True):
        folder.rename(tmp_path / "digits" / name)

    done = subprocess.run(
        [sys.executable, "-c", "\n".join(cells)], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "('0', '1')" in done.stdout
    assert "of 8 predictions are wrong" in done.stdout
    assert len(cells) > 4
    assert (notebook["nbformat"], [cell for cell in notebook["cells"] if cell.get("outputs")]) == (4, [])


def test_error_leaves_no_folder_and_advises_no_option_of_the_command(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="did you mean resnet18"):
        image_classifier.train(folders[0], tmp_path / "runs/model", network="resnet19")
    assert not (tmp_path / "runs").exists()

    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/training.json").touch()
    for output in ("begun", "others", "training/model"):
        with pytest.raises(UsersError) as error:
            image_classifier.train(folders[0], tmp_path / output)
        assert "output folder" in str(error.value)
        assert "--" not in str(error.value)


def test_unknown_option_and_name_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsersError, match=r"training\.epoch is unknown"):
        image_classifier.train(folders[0], tmp_path / "model", epoch=3)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = image_classifier.nothing
