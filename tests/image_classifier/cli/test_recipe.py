"""Recipes: what goes before what, and that a mistake is named."""

from pathlib import Path

import pytest

from image_classifier.cli.recipe import Ingredients, Recipe, read_recipe
from image_classifier.errors import UsersError
from image_classifier.settings import ClassifierSettings

WHOLE = """
[data]
path = "images"
[network]
weights = "none"
image_size = 96
[training]
mode = "full"
epochs = 7
learning_rate = 0.01
seed = 3
[testing]
path = "/elsewhere/test"
report = "report.html"
"""


def read(text: str, tmp_path: Path, given: Ingredients | None = None) -> Recipe:
    (tmp_path / "recipe.toml").write_text(text)
    return read_recipe(tmp_path / "recipe.toml", given or {}, ClassifierSettings())


def test_command_line_overrides_the_file_and_the_file_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"EPOCHS": "1", "BATCH_SIZE": "5", "TRAIN_MODE": "head", "MOMENTUM": "0.5"}.items():
        monkeypatch.setenv(name, value)
    recipe = read(WHOLE, tmp_path, {"training": {"epochs": 9}, "data": {"path": Path("mine")}})
    training = recipe.training
    assert (training.mode, training.epochs, training.batch_size, training.momentum) == ("full", 9, 5, 0.5)
    assert training.hyperparameters().record() == {
        "epochs": 9,
        "batch_size": 5,
        "learning_rate": 0.01,
        "momentum": 0.5,
        "lr_step_size": 7,
        "lr_gamma": 0.1,
        "seed": 3,
        "freeze_epochs": 0,
    }
    assert recipe.data.path == Path("mine")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    recipe = read(WHOLE, tmp_path)
    assert recipe.data.path == tmp_path / "images"
    assert recipe.testing.path == Path("/elsewhere/test")
    assert recipe.testing.report == tmp_path / "report.html"
    assert recipe.network.weights == "none"
    assert read('[data]\npath="a"\n[network]\nweights="r.pth"', tmp_path).network.weights == str(tmp_path / "r.pth")
    package = read('[data]\npath="a"\n[network]\nweights="package:some-weights"', tmp_path).network.weights
    assert package == "package:some-weights"


def test_without_a_file_the_environment_says_all_but_the_data() -> None:
    recipe = read_recipe(None, {"data": {"path": "images"}}, ClassifierSettings())
    assert (recipe.training.mode, recipe.training.epochs, recipe.network.image_size) == ("auto", 25, None)
    with pytest.raises(UsersError, match="no images given: type `image-classifier train DIR`"):
        read_recipe(None, {}, ClassifierSettings())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nepoch = 3", "training.epoch is unknown: use one of mode, epochs, batch_size"),
        ("[trainig]\nepochs = 3", "trainig is unknown: use one of data, network, training, testing, prediction"),
        ("epochs = 3", r"has epochs outside a section: move it into one of \[data\], \[network\]"),
        ("[training]\nepochs = 0", "training.epochs = 0: input should be greater than 0"),
        ("[training]\nepochs = true", "training.epochs = True: give a value other than true or false"),
        ("[training]\nlearning_rate = true", "training.learning_rate = True: give a value other than true or false"),
        ("[training]\nepochs = 1.5", "training.epochs = 1.5: input should be a valid integer"),
        ("[training]\nlearning_rate = inf", "training.learning_rate = inf: give a finite number"),
        ("[training]\nmomentum = 1", "training.momentum = 1: input should be less than 1"),
        ("[training]\nmode = 'all'", "training.mode = 'all': input should be 'auto', 'head' or 'full'"),
        ("[network]\nweights = 3", "network.weights = 3: input should be a valid string"),
        ("[training\n", "isn't valid TOML"),
    ],
)
def test_a_mistake_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsersError, match=message) as error:
        read(text + ("" if "[training\n" in text else '\n[data]\npath = "images"'), tmp_path)
    assert str(tmp_path / "recipe.toml") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsersError, match=r"can't read .*gone.toml \(No such file or directory\)"):
        read_recipe(tmp_path / "gone.toml", {}, ClassifierSettings())
    (tmp_path / "binary.toml").write_bytes(b"a = 1\n\xff")
    with pytest.raises(UsersError, match=r"isn't UTF-8 text \(line 2\)"):
        read_recipe(tmp_path / "binary.toml", {}, ClassifierSettings())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_recipe_of_an_editor_of_windows_is_read(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(WHOLE, encoding=encoding)
    assert read_recipe(tmp_path / "recipe.toml", {}, ClassifierSettings()).training.epochs == 7
