"""`python -m my_backend versions`: manages a project's versions, whether its server is running or not."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from my_backend.commands.options import AsJson, Commands, OfProject, saying_errors
from my_backend.json_output import print_json
from my_backend.projects.registry import Projects
from my_backend.projects.version_metrics import accuracy_words, read_figures
from my_backend.projects.versions import Version, Versions
from my_backend.published_hook.caller import repeat_call
from my_backend.settings import read_settings

commands = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="List, show, activate, pin, delete and export a project's versions, and call PUBLISHED_HOOK for a version.",
)

Name = Annotated[str, typer.Argument(metavar="VERSION", help="version name, as shown by `versions list`")]


@commands.command("list")
def list_(project: OfProject = None, as_json: AsJson = False) -> None:
    """List all versions, newest first."""
    with _versions(project) as versions:
        live, pinned = versions.live_name(), versions.pinned()
        found = versions.all()[::-1]
        if as_json:
            records = [_record(version, live, pinned) for version in found]
            print_json(records)
            return
        for version in found:
            marks = [
                mark for mark, holds in (("live", version.name == live), ("pinned", version.name in pinned)) if holds
            ]
            words = [
                version.name,
                _when(version),
                accuracy_words(read_figures(version.train_output.get("figures"))),
                " ".join(marks),
                version.held_back or version.cause,
            ]
            typer.echo("  ".join(word for word in words if word))
        if not found:
            typer.echo("No versions yet.", err=True)
        for damaged in versions.damages():
            typer.echo(f"Can't use {damaged.path}: {damaged.why}", err=True)


@commands.command()
def show(version: Name, project: OfProject = None) -> None:
    """Print everything known about a version, as JSON."""
    with _versions(project) as versions:
        found = versions.get(version)
        print_json(_record(found, versions.live_name(), versions.pinned()))


@commands.command()
def activate(version: Name, project: OfProject = None) -> None:
    """Make a version live, including an older one; a running server switches to it automatically."""
    with _versions(project) as versions:
        typer.echo(f"{versions.activate(version).name} is live")


@commands.command()
def pin(version: Name, project: OfProject = None) -> None:
    """Keep a version even when many newer ones exist."""
    with _versions(project) as versions:
        versions.pin(version)
        typer.echo(f"Pinned {version}")


@commands.command()
def unpin(version: Name, project: OfProject = None) -> None:
    """Unpin a version, so that it is removed automatically once there are enough newer ones."""
    with _versions(project) as versions:
        versions.pin(version, pinned=False)
        typer.echo(f"Unpinned {version}")


@commands.command()
def delete(
    version: Name,
    project: OfProject = None,
    yes: Annotated[bool, typer.Option("--yes", help="don't ask for confirmation")] = False,
) -> None:
    """Delete a version permanently, unless it is pinned or live; a damaged one can be deleted even if it is live."""
    with _versions(project) as versions:
        versions.check_known(version)
        if not yes:
            typer.confirm(f"Delete {version} permanently?", abort=True)
        versions.delete(version)
        typer.echo(f"Deleted {version}")


@commands.command()
def export(
    version: Name,
    folder: Annotated[Path, typer.Argument(help="new folder to create")],
    project: OfProject = None,
) -> None:
    """Copy a version with everything it needs, for `python -m image_classifier` or for `publish` elsewhere."""
    with _versions(project) as versions:
        versions.export(version, folder)
        typer.echo(f"Exported {version} to {folder}")


@commands.command()
def hook(version: Name, project: OfProject = None) -> None:
    """Call the PUBLISHED_HOOK function for a version, for example to repeat a call that failed."""
    settings = read_settings()
    if not settings.published_hook:
        raise SystemExit("Error: PUBLISHED_HOOK is not set: set it to a function, as module:function")
    with saying_errors():
        uid = Projects.of(settings).find(project).uid
        repeat_call(settings, uid, version)
    typer.echo(f"Called {settings.published_hook} for {version}")


@contextmanager
def _versions(project: str | None) -> Iterator[Versions]:
    """Opens the project's versions; an error in the block ends the command with its message."""
    with saying_errors():
        projects = Projects.of(read_settings())
        yield projects.find(project).versions


def _record(version: Version, live: str, pinned: list[str]) -> dict[str, Any]:
    return {**version.record(), "live": version.name == live, "pinned": version.name in pinned}


def _when(version: Version) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(version.created))
