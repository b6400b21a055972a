"""How the help of all commands looks, and what Ctrl-C does.

`my_backend/commands/options.py` has the same class: neither package imports the other, and those that both import have
nothing to do with command lines.
"""

from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperGroup, TyperOption

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


def _without_bool(params: Iterable[Any]) -> Iterable[Any]:
    for param in params:
        if isinstance(param, TyperOption) and param.is_flag:
            param.metavar = ""
    return params
