from importlib.metadata import version
from io import StringIO

import pytest
import typer
from typer.testing import CliRunner

from my_backend.commands.cli import PROJECT, app
from my_backend.commands.options import Commands


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


@pytest.mark.parametrize(("pressed", "status"), [(KeyboardInterrupt, 130), (EOFError, 1)])
def test_ctrl_c_at_a_question_ends_with_130(
    pressed: type[BaseException], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(StringIO):
        def readline(self, *_: object) -> str:
            raise pressed

    groups = typer.Typer(cls=Commands)
    commands = typer.Typer(cls=Commands)
    groups.add_typer(commands, name="versions")
    commands.command("show")(lambda: None)
    commands.command("delete")(lambda: typer.confirm("Delete?", abort=True))
    monkeypatch.setattr("sys.stdin", Terminal())

    with pytest.raises(SystemExit) as ended:
        groups(["versions", "delete"])

    assert ended.value.code == status


def test_version_is_that_of_the_package() -> None:
    assert said("--version").split() == [PROJECT, version(PROJECT)]
