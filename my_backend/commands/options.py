"""How the help of all commands looks, what Ctrl-C and errors do, and options that several groups of commands share.

`image_classifier/cli/help.py` has the same class `Commands`: neither package imports the other, and those that both
import have nothing to do with command lines.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup, TyperOption

from my_backend.errors import BackendError
from safe_http.redaction import said

INTERRUPTED = 130  # exit status after Ctrl-C, as in a shell


class Commands(TyperGroup):
    """Commands whose help shows flags without `<bool>`, since they take no value, and that Ctrl-C ends with 130."""

    def get_params(self, ctx: Any) -> Any:
        return _without_bool(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command:
            _without_bool(command.get_params(ctx))  # a command keeps them, its help option included
        return command

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.Abort as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # typer's questions end with Abort and status 1
                raise typer.Exit(INTERRUPTED) from None
            raise


@contextmanager
def saying_errors() -> Iterator[None]:
    """Ends the command with the message of an error in the block."""
    try:
        yield
    except BrokenPipeError:  # `head` or a pager has read enough: typer ends the command without a word
        raise
    except (BackendError, OSError) as error:
        raise SystemExit(f"Error: {said(error)}") from None


def _without_bool(params: Iterable[Any]) -> Iterable[Any]:
    for param in params:
        if isinstance(param, TyperOption) and param.is_flag:
            param.metavar = ""
    return params


OfProject = Annotated[
    str | None,
    typer.Option("--project", metavar="ID", help="project id, as in Label Studio's URL; required if there are several"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
