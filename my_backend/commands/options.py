"""Options that several groups of commands share."""

from typing import Annotated, Any

import typer


def flag(name: str, text: str, **options: Any) -> Any:
    """An option without a value; the empty metavar keeps `<bool>` out of the help."""
    return typer.Option(name, metavar="", help=text, **options)


OfProject = Annotated[
    str | None,
    typer.Option("--project", metavar="ID", help="project id, as in Label Studio's URL; required if there are several"),
]
AsJson = Annotated[bool, flag("--json", "print JSON")]
