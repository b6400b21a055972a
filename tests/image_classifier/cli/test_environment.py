"""Settings that can't be read are named in one sentence."""

from pathlib import Path

import pytest

from image_classifier.cli.environment import read_settings
from image_classifier.errors import UsersError


def test_settings_in_another_encoding_are_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("# für Bilder\nEPOCHS=3\n", encoding="latin-1")
    with pytest.raises(UsersError, match=r"^can't read the settings from .env: it isn't UTF-8 text; save it as UTF-8$"):
        read_settings()


def test_invalid_setting_error_omits_invisible_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPOCHS", "-1")
    with pytest.raises(UsersError, match=r"^invalid settings in .*: EPOCHS=-1: Input should be greater than 0$"):
        read_settings()

    monkeypatch.delenv("EPOCHS")
    monkeypatch.setenv("WEIGHTS", "resnet18\u200b.pth")
    sentence = "contains a line break or an invisible character: copy it again as a single line"
    with pytest.raises(UsersError, match=rf"settings in the environment or .env: WEIGHTS: {sentence}$"):
        read_settings()
