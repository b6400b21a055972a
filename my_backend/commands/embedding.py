"""`python -m my_backend embed`: shares the embeddings of a project's tasks among all hosts."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from my_backend.commands.options import AsJson, Commands, OfProject
from my_backend.errors import BackendError, Conflict
from my_backend.jobs.record import EMBED
from my_backend.jobs.rq_queue import RqQueue
from my_backend.jobs.store import JobStore
from my_backend.projects.embeddings import Embeddings
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from my_backend.settings import Settings, read_settings
from safe_http.redaction import said

commands = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Let all workers embed a project's images once, and all hosts use the results from MODEL_DIR.",
)


@commands.command()
def start(project: OfProject = None) -> None:
    """Embed the images of all tasks, and from now on those of new tasks and with new networks.

    If that was started before, images that couldn't be read are tried again.
    """
    with _project(project) as (settings, chosen):
        if not settings.redis:
            raise Conflict(
                "workers need REDIS_URL or REDIS_HOST. Without Redis there is one server, and CACHE_DIR already has "
                "its embeddings"
            )
        Embeddings(chosen.folder).want()
        job = RqQueue(settings, _jobs(settings)).submit(chosen.uid, EMBED, "requested")
    typer.echo(f"Job {job.id} is queued; idle workers join in. `embed show` shows the progress.")


@commands.command()
def stop(project: OfProject = None) -> None:
    """Stop embedding. Embeddings that are stored stay in use, as long as the network stays the same."""
    with _project(project) as (settings, chosen):
        Embeddings(chosen.folder).stop()
        if settings.redis:
            store = _jobs(settings)
            queue = RqQueue(settings, store)
            for job in store.unfinished(chosen.uid, (EMBED,)):
                queue.cancel(job.id)
    typer.echo("Stopped")


@commands.command()
def show(project: OfProject = None, as_json: AsJson = False) -> None:
    """Show how many tasks have an embedding that all hosts share."""
    with _project(project) as (settings, chosen):
        state = _state(chosen, _jobs(settings))
    if as_json:
        typer.echo(json.dumps(state, indent=2))
        return
    if not state["wanted"]:
        typer.echo("Not shared. To begin: python -m my_backend embed start")
        return
    unreadable = state["embedded"] - state["images"]
    typer.echo(
        f"{state['embedded']} of {state['tasks']} tasks"
        + (f", {unreadable} of them without a readable image" if unreadable else "")
        + f"; {'complete' if state['complete'] else 'not complete'}, jobs running: {state['running']}"
    )
    if state["error"] and not state["complete"]:
        typer.echo(f"The last job failed: {state['error']}", err=True)


def _state(project: Project, store: JobStore) -> dict[str, Any]:
    embeddings = Embeddings(project.folder)
    wanted = embeddings.wanted()
    found = list(embeddings.ranges(wanted.space).values()) if wanted and wanted.space else []
    jobs = store.embedding_jobs(project.uid)
    return {
        "wanted": wanted is not None,
        "complete": wanted is not None and wanted.complete,
        "tasks": wanted.tasks if wanted else 0,
        "embedded": sum(one.tasks for one in found),
        "images": sum(one.images for one in found),
        "running": sum(job.status == "started" for job in jobs),
        "error": next((job.error for job in reversed(jobs) if job.ended), ""),
    }


def _jobs(settings: Settings) -> JobStore:
    return JobStore(settings.model_dir / "projects")


@contextmanager
def _project(name: str | None) -> Iterator[tuple[Settings, Project]]:
    """The settings and the project; an error in the block ends the command with its message."""
    try:
        settings = read_settings()
        yield settings, Projects.of(settings).find(name)
    except (BackendError, OSError) as error:
        raise SystemExit(f"Error: {said(error)}") from None
