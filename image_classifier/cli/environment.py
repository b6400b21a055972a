"""The settings of commands, from the environment and .env."""

from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from image_classifier.errors import UsersError
from image_classifier.settings import ClassifierSettings

Settings = TypeVar("Settings", bound=ClassifierSettings)


def read_settings() -> ClassifierSettings:
    """Reads the settings from the environment; raises UsersError with the variable's name."""
    return read_settings_of(ClassifierSettings)


def read_settings_of(kind: type[Settings]) -> Settings:
    """Like `read_settings`, of a class with more settings."""
    try:
        return kind()
    except ValidationError as error:
        faults = "; ".join(map(_invalid, error.errors()))
        raise UsersError(f"invalid settings in the environment or .env: {faults}") from None
    except UnicodeError:
        raise UsersError("can't read the settings from .env: it isn't UTF-8 text; save it as UTF-8") from None


def _invalid(fault: ErrorDetails) -> str:
    """Says which setting is invalid and why; invisible characters aren't printed, since they help nobody."""
    name, value, why = str(fault["loc"][0]).upper(), str(fault["input"]), fault["msg"].removeprefix("Value error, ")
    return f"{name}={value}: {why}" if value.isprintable() else f"{name}: {why}"
