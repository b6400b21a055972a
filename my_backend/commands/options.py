"""Options that several groups of commands share."""

from typing import Annotated

import typer

OfProject = Annotated[
    str | None,
    typer.Option("--project", metavar="ID", help="project id, as in Label Studio's URL; required if there are several"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
