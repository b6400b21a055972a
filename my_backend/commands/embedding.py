"""`python -m my_backend embed`: shares the embeddings of a project's tasks among all hosts."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from my_backend.commands.options import AsJson, Commands, OfProject, saying_errors
from my_backend.jobs.embedding_sharing import EmbeddingSharing
from my_backend.jobs.rq_queue import RqQueue
from my_backend.jobs.store import JobStore
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from my_backend.settings import read_settings

commands = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Embed each of a project's images only once: all workers share the work, and all hosts share the embeddings "
    "through MODEL_DIR.",
)


@commands.command()
def start(project: OfProject = None) -> None:
    """Embed the images of all tasks now, and later those of new tasks; if the network changes, embed all again.

    If embedding has already been started, images that couldn't be read are tried again.
    """
    with _sharing(project) as (sharing, chosen):
        job = sharing.start(chosen)
    typer.echo(f"Job {job.id} is queued; idle workers join in. `embed show` shows the progress.")


@commands.command()
def stop(project: OfProject = None) -> None:
    """Stop embedding. Stored embeddings stay in use as long as the network stays the same."""
    with _sharing(project) as (sharing, chosen):
        sharing.stop(chosen)
    typer.echo("Stopped")


@commands.command()
def show(project: OfProject = None, as_json: AsJson = False) -> None:
    """Show how many tasks have an embedding that all hosts share."""
    with _sharing(project) as (sharing, chosen):
        state = sharing.state(chosen)
    if as_json:
        typer.echo(json.dumps({**state.facts(), "running": state.running}, indent=2))
        return
    if state.wanted:
        typer.echo(
            f"{state.embedded} of {state.tasks} tasks"
            + (f", {state.unreadable} of them without a readable image" if state.unreadable else "")
            + f"; {'complete' if state.complete else 'not complete'}, jobs running: {state.running}"
        )
    else:
        typer.echo("The embeddings aren't shared. To start: python -m my_backend embed start")
    if state.error:
        typer.echo(f"The last job failed: {state.error}", err=True)


@contextmanager
def _sharing(name: str | None) -> Iterator[tuple[EmbeddingSharing, Project]]:
    """What the commands ask, and the project; an error in the block ends the command with its message."""
    with saying_errors():
        settings = read_settings()
        store = JobStore(settings.model_dir / "projects")
        queue = RqQueue(settings, store) if settings.redis else None
        yield EmbeddingSharing(store, queue), Projects.of(settings).find(name)
