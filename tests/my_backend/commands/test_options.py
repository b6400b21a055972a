import re
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
    [(), ("serve",), ("doctor",), ("versions", "delete"), ("label", "start"), ("label", "accept", "automatic")],
)
def test_flags_take_no_value_in_the_help_and_h_is_help(command: tuple[str, ...]) -> None:
    shown = said(*command, "-h")

    assert "Usage: " in shown
    with_bool = set(re.findall(r"--([\w-]+)[^\n]*<bool>", shown))
    assert with_bool <= {"help", "install-completion", "show-completion"}, "only typer's own"


def test_version_is_that_of_the_package() -> None:
    assert said("--version").split() == [PROJECT, version(PROJECT)]
