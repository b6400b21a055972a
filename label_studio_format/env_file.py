"""Settings from the environment and from `.env`, where single quotes keep a value as it is, as in Docker Compose."""

import os
from collections.abc import Iterator
from pathlib import Path

from dotenv.parser import Binding, parse_stream
from dotenv.variables import parse_variables
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

ENV_FILE = Path(".env")
ENCODING = "utf-8-sig"  # editors on Windows write a byte-order mark


class EnvSettings(BaseSettings):
    """Each field is the environment variable of the same name in capitals, or a line in `.env`."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, env_file_encoding=ENCODING, env_ignore_empty=True, extra="ignore", frozen=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The usual sources in their usual order, but single quotes keep a `${…}`, as the docs promise."""
        if isinstance(dotenv_settings, DotEnvSettingsSource) and isinstance(dotenv_settings.env_file, str | Path):
            # python-dotenv would replace it, also in what other lines take over with ${NAME}.
            values = _values(Path(dotenv_settings.env_file))
            dotenv_settings.env_vars = {**dotenv_settings.env_vars, **values}
        return init_settings, env_settings, dotenv_settings, file_secret_settings


def names_in(file: Path) -> set[str]:
    """The names that the file sets; none if it is missing. Raises OSError, UnicodeError."""
    return {line.key for line in _lines(file) if line.key}


def _values(file: Path) -> dict[str, str]:
    """The values that aren't empty, by their names in small letters."""
    values: dict[str, str | None] = {}
    found: dict[str, str] = {}
    for line in _lines(file):
        if not line.key:
            continue
        value = line.value
        if value and not _is_single_quoted(line):
            known = {**os.environ, **values}
            value = "".join(atom.resolve(known) for atom in parse_variables(value))
        values[line.key] = value
        found[line.key.lower()] = value or ""
    return {name: value for name, value in found.items() if value}


def _lines(file: Path) -> Iterator[Binding]:
    if file.is_file():  # what isn't one, such as a pipe, could be read only once
        with file.open(encoding=ENCODING) as text:
            yield from parse_stream(text)


def _is_single_quoted(line: Binding) -> bool:
    return line.original.string.partition("=")[2].lstrip().startswith("'")
