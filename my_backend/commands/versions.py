"""`python -m my_backend versions`: a project's versions by command, whether its server runs or not."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from my_backend.errors import BackendError
from my_backend.projects.registry import Projects
from my_backend.projects.versions import Version, Versions
from my_backend.redaction import said
from my_backend.settings import read_settings

commands = typer.Typer(
    no_args_is_help=True, help="The versions of a project: list, show, activate, pin, delete, export."
)

OfProject = Annotated[
    str | None,
    typer.Option("--project", metavar="ID", help="as in Label Studio's address; needed where there are several"),
]
Name = Annotated[str, typer.Argument(metavar="VERSION", help="its name, as in `versions list`")]
AsJson = Annotated[bool, typer.Option("--json", help="for programs")]


@commands.command("list")
def list_(project: OfProject = None, as_json: AsJson = False) -> None:
    """All versions, the newest first."""
    with _versions(project) as versions:
        live, pinned = versions.live_name(), versions.pinned()
        found = versions.all()[::-1]
        if as_json:
            records = [_record(version, live, pinned) for version in found]
            typer.echo(json.dumps(records, indent=2, ensure_ascii=False))
            return
        for version in found:
            marks = [
                mark for mark, holds in (("live", version.name == live), ("pinned", version.name in pinned)) if holds
            ]
            words = [
                version.name,
                _when(version),
                _accuracy(version),
                " ".join(marks),
                version.held_back or version.cause,
            ]
            typer.echo("  ".join(word for word in words if word))
        if not found:
            typer.echo("There is no version yet.", err=True)
        for damaged in versions.damages():
            typer.echo(f"Can't use {damaged.path}: {damaged.why}", err=True)


@commands.command()
def show(version: Name, project: OfProject = None) -> None:
    """Everything that is known of a version, as JSON."""
    with _versions(project) as versions:
        found = versions.get(version)
        typer.echo(json.dumps(_record(found, versions.live_name(), versions.pinned()), indent=2, ensure_ascii=False))


@commands.command()
def activate(version: Name, project: OfProject = None) -> None:
    """Makes a version live, an older one too; a server that runs takes it up by itself."""
    with _versions(project) as versions:
        typer.echo(f"{versions.activate(version).name} is live")


@commands.command()
def pin(version: Name, project: OfProject = None) -> None:
    """Keeps a version, however many come after it."""
    with _versions(project) as versions:
        versions.pin(version)
        typer.echo(f"{version} stays")


@commands.command()
def unpin(version: Name, project: OfProject = None) -> None:
    """Lets a version go again when enough newer ones are there."""
    with _versions(project) as versions:
        versions.pin(version, pinned=False)
        typer.echo(f"{version} may go")


@commands.command()
def delete(
    version: Name,
    project: OfProject = None,
    yes: Annotated[bool, typer.Option("--yes", help="without asking")] = False,
) -> None:
    """Removes a version for good, a damaged one too; refuses pinned ones, and the live one if it can be read."""
    with _versions(project) as versions:
        versions.check_known(version)
        if not yes:
            typer.confirm(f"Remove {version} for good?", abort=True)
        versions.delete(version)
        typer.echo(f"{version} is removed")


@commands.command()
def export(
    version: Name,
    folder: Annotated[Path, typer.Argument(help="a folder that is not there yet")],
    project: OfProject = None,
) -> None:
    """Copies a version with all that it needs: for `python -m image_classifier`, or `publish` elsewhere."""
    with _versions(project) as versions:
        versions.export(version, folder)
        typer.echo(f"{version} is in {folder}")


@contextmanager
def _versions(project: str | None) -> Iterator[Versions]:
    """Of the project; what goes wrong ends the command with a sentence."""
    try:
        projects = Projects(read_settings().model_dir / "projects")
        yield Versions(projects.folder(projects.find(project).uid))
    except (BackendError, OSError) as error:
        raise SystemExit(f"Error: {said(error)}") from None


def _record(version: Version, live: str, pinned: list[str]) -> dict[str, Any]:
    return {**version.record(), "live": version.name == live, "pinned": version.name in pinned}


def _when(version: Version) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(version.created))


def _accuracy(version: Version) -> str:
    figures = version.train_output.get("figures")
    accuracy = figures.get("accuracy") if isinstance(figures, dict) else None
    return f"{accuracy:.1%}" if isinstance(accuracy, int | float) else ""
