from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from my_backend.commands.cli import PROJECT, app


def said(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return str(result.output)


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("serve",),
        ("versions",),
        ("doctor",),
        ("versions", "delete"),
        ("label", "start"),
        ("label", "accept", "automatic"),
    ],
)
def test_flags_take_no_value_in_the_help_and_h_is_help(command: tuple[str, ...]) -> None:
    shown = said(*command, "-h")

    assert "Usage: " in shown
    assert "--help" in shown
    assert "<bool>" not in shown


def test_version_is_that_of_the_package() -> None:
    assert said("--version").split() == [PROJECT, version(PROJECT)]
