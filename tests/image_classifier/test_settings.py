"""How to learn and classify, as the environment and `.env` say."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from image_classifier.settings import ClassifierSettings
from image_classifier.training.hyperparameters import Hyperparameters


def test_without_an_environment_training_is_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTS")
    monkeypatch.delenv("CACHE_DIR")
    assert ClassifierSettings().model_dump() == {
        "network": "resnet18",
        "weights": "imagenet",
        "image_size": None,
        "train_mode": "auto",
        "epochs": 25,
        "batch_size": 32,
        "learning_rate": 0.001,
        "momentum": 0.9,
        "lr_step_size": 7,
        "lr_gamma": 0.1,
        "max_image_pixels": 178_956_970,
        "max_image_memory": 1_500_000_000,
        "score": "order",
        "choices": "",
        "cache_dir": Path.home() / ".cache" / "image-classifier",
    }


def test_training_has_the_same_defaults_with_and_without_settings() -> None:
    """Imports point from training to evaluation to the settings, so the settings can't take them from training."""
    settings, without = ClassifierSettings(_env_file=None).model_dump(), Hyperparameters().record()

    shared = settings.keys() & without.keys()
    assert without.keys() - shared == {"seed", "freeze_epochs"}
    assert {name: settings[name] for name in shared} == {name: without[name] for name in shared}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("NETWORK", "resnet50", "resnet50"),
        ("WEIGHTS", "/models/resnet18.pth", "/models/resnet18.pth"),
        ("IMAGE_SIZE", "96", 96),
        ("TRAIN_MODE", "full", "full"),
        ("EPOCHS", "3", 3),
        ("BATCH_SIZE", "8", 8),
        ("LEARNING_RATE", "1e-2", 0.01),
        ("MOMENTUM", "0", 0.0),
        ("LR_STEP_SIZE", "2", 2),
        ("LR_GAMMA", "1", 1.0),
        ("MAX_IMAGE_PIXELS", "400000000", 400_000_000),
        ("SCORE", "entropy", "entropy"),
        ("CACHE_DIR", "/var/cache/images", Path("/var/cache/images")),
    ],
)
def test_each_setting_is_an_environment_variable(
    name: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    assert getattr(ClassifierSettings(), name.lower()) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("IMAGE_SIZE", "0"),
        ("IMAGE_SIZE", "large"),
        ("TRAIN_MODE", "quick"),
        ("EPOCHS", "-1"),
        ("BATCH_SIZE", "1.5"),
        ("LEARNING_RATE", "0"),
        ("MOMENTUM", "1"),
        ("LR_STEP_SIZE", "0"),
        ("LR_GAMMA", "1.1"),
        ("SCORE", "loudness"),
        ("CACHE_DIR", "~no-such-user/cache"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(ValidationError) as refused:
        ClassifierSettings()
    (error,) = refused.value.errors()
    assert (error["loc"], error["input"]) == ((name.lower(),), text)


def test_a_file_named_env_counts_where_the_environment_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("EPOCHS=3\nBATCH_SIZE=4\nPORT=9091\n", encoding="utf-8")
    monkeypatch.setenv("BATCH_SIZE", "5")
    settings = ClassifierSettings()
    assert (settings.epochs, settings.batch_size) == (3, 5)


@pytest.mark.parametrize("form", ["{}\n", "{}\r\n", " {} ", '"{}"', "'{}'", "“{}”", "\ufeff{}", "\u200b{}", "\u00a0{}"])
def test_pasted_value_is_trimmed(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"NETWORK": "resnet50", "IMAGE_SIZE": "96", "TRAIN_MODE": "full", "MOMENTUM": "0.5", "CACHE_DIR": "/cache"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    meant = ClassifierSettings()
    for name, value in values.items():
        monkeypatch.setenv(name, form.format(value))

    assert ClassifierSettings() == meant


def test_blank_value_counts_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPOCHS", " \r\n")
    assert ClassifierSettings().epochs == 25


@pytest.mark.parametrize("odd", ["\n", "\u200b", "\u00ad", "\ufeff", "\u2028"])
def test_value_with_an_invisible_character_inside_is_refused(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NETWORK", "WEIGHTS", "IMAGE_SIZE", "TRAIN_MODE", "MOMENTUM", "CHOICES", "CACHE_DIR"):
        with monkeypatch.context() as patch:
            patch.setenv(name, f"1{odd}2")
            with pytest.raises(ValidationError, match="copy it again as a single line") as refused:
                ClassifierSettings()
        (error,) = refused.value.errors()
        assert error["loc"] == (name.lower(),)
