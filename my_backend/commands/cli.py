"""The command line: serve, worker, uwsgi, production, publish, versions, label, embed, backup, doctor, …"""

import logging
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from my_backend.commands import server
from my_backend.commands.backup import back_up
from my_backend.commands.embedding import commands as embed_commands
from my_backend.commands.labeling import commands as label_commands
from my_backend.commands.options import Commands, OfProject, saying_errors
from my_backend.commands.production import refuse_other_systems, run_supervisor, run_uwsgi
from my_backend.commands.versions import commands
from my_backend.diagnostics.doctor.report import consult
from my_backend.diagnostics.doctor.server_checks import server_state
from my_backend.errors import BackendError
from my_backend.jobs.record import KINDS
from my_backend.jobs.worker import is_worker_alive, work
from my_backend.log.setup import collect_output
from my_backend.notifications.notice import Notice
from my_backend.notifications.outbox import Outbox
from my_backend.notifications.receiver import Receiver
from my_backend.production_process import STOP_SECONDS, find_production
from my_backend.serving.publishing import publish_model
from my_backend.settings import read_settings
from my_backend.storage import check_folders
from safe_http.redaction import redact, said

log = logging.getLogger(__name__)

PROJECT = "image-classifier-backend"
NOT_RUNNING = 3  # exit status, as for services
INCOMPLETE = 3  # exit status of a backup that lacks something

# Typer's own tracebacks show variables, which may contain tokens.
app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A machine-learning backend for Label Studio.",
)


app.add_typer(commands, name="versions")
app.add_typer(label_commands, name="label")
app.add_typer(embed_commands, name="embed")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROJECT} {version(PROJECT)}")
        raise typer.Exit


@app.callback()
def main(
    show: Annotated[
        bool, typer.Option("--version", help="print the version and exit", callback=_show_version, is_eager=True)
    ] = (False),
) -> None:
    """Settings come from environment variables or from a .env file in the working directory."""
    sys.excepthook = _show_without_secrets
    if isinstance(sys.stdout, TextIOWrapper):  # not every terminal can show all characters of our messages
        sys.stdout.reconfigure(errors="replace")


def _show_without_secrets(*uncaught: Any) -> None:
    typer.echo(redact("".join(traceback.format_exception(*uncaught))), err=True)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on [HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on [PORT]")] = None,
) -> None:
    """Run the server, which also runs the training jobs, until it is stopped."""
    server.serve(host, port)


@app.command()
def worker(
    only: Annotated[
        Literal["head", "full"] | None,
        typer.Option(
            help="take only jobs of this kind; with a `head` worker, corrections never wait for long jobs; a "
            "`full` worker also embeds images"
        ),
    ] = None,
) -> None:
    """Run a worker for the training jobs of servers that share REDIS_URL and MODEL_DIR, until it is stopped."""
    settings = read_settings()
    if not settings.redis:
        raise SystemExit("A worker needs REDIS_URL or REDIS_HOST; without Redis the server runs training jobs itself.")
    try:
        refuse_other_systems()
        collect_output(settings, "worker", settings.log_file)
        check_folders(settings)
        work(settings, (only,) if only else KINDS)
    except BackendError as error:
        raise SystemExit(str(error)) from None


@app.command()
def healthy() -> None:
    """Exit with 0 if a worker on this host is alive; used as the container's health check."""
    settings = read_settings()
    if not settings.redis:
        raise SystemExit("neither REDIS_URL nor REDIS_HOST is set, so there are no workers: set one of them")
    if not is_worker_alive(settings):
        raise SystemExit("no worker on this host is alive")


@app.command()
def uwsgi() -> None:
    """Run the server under uWSGI; if REDIS_URL is set, workers run the training jobs."""
    try:
        run_uwsgi(read_settings())
    except BackendError as error:
        raise SystemExit(str(error)) from None


@app.command()
def production() -> None:
    """Run Redis, workers and the server on this machine under supervisor, without Docker."""
    try:
        run_supervisor(read_settings())
    except BackendError as error:
        raise SystemExit(str(error)) from None


@app.command()
def status() -> None:
    """Show whether `make production` and the server are running. Exit with 0 if the server is ready, otherwise 3."""
    settings = read_settings()
    try:
        process = find_production(settings.model_dir)
        typer.echo(f"`make production` is {f'running (process {process.pid})' if process else 'not running'}")
    except BackendError as error:
        typer.echo(str(error))
    state = server_state(settings)
    typer.echo(state.said)
    raise typer.Exit(0 if state.ready else NOT_RUNNING)


@app.command()
def stop() -> None:
    """Stop `make production`. Requests in progress are answered; training continues after the next start."""
    with saying_errors():
        process = find_production(read_settings().model_dir)
    if process is None:
        raise SystemExit("`make production` is not running with this MODEL_DIR")
    try:
        stopped = process.stop()
    except PermissionError:
        raise SystemExit(f"Error: process {process.pid} belongs to another user: stop it as that user") from None
    if not stopped:
        raise SystemExit(f"Error: process {process.pid} is still stopping after {STOP_SECONDS:.0f} s; see its log")
    typer.echo("Stopped")


@app.command()
def publish(
    model: Annotated[Path, typer.Argument(help="folder written by `python -m image_classifier train`")],
    project: OfProject = None,
) -> None:
    """Publish a model that was trained on the command line. It becomes the project's live version.

    The project must be connected to the backend. If the backend is running, it uses the model at once.
    """
    try:
        done = publish_model(read_settings(), model, project)
    except (BackendError, OSError, ValueError) as error:
        raise SystemExit(f"Error: {said(error)}") from None
    if done.unknown:
        typer.echo(
            f"The labeling config has no choice for {', '.join(done.unknown)}; the backend won't predict "
            "these classes.",
            err=True,
        )
    typer.echo(f"{done.version.name} is live in project {done.project.uid}")


@app.command()
def backup(folder: Annotated[Path, typer.Argument(help="new folder to create")]) -> None:
    """Copy MODEL_DIR as it is now, while everything keeps running.

    To restore, start the backend with MODEL_DIR set to a copy of the backup.

    Exit with 3 if the backup lacks something that couldn't be read, and with 1 if no backup could be made.
    """
    with saying_errors(), _ended_by_exception():
        done = back_up(read_settings().model_dir, folder)
    for path in done.left_out:
        typer.echo(f"Left out {path}", err=True)
    for path in done.unreadable:
        typer.echo(f"Can't read {path}", err=True)
    typer.echo(f"Backed up to {folder}; projects: {done.projects}, versions: {done.versions}")
    if done.unreadable:
        typer.echo("The backup lacks these files. Give this user read access to them, then back up again.", err=True)
        raise typer.Exit(INCOMPLETE)


@contextmanager
def _ended_by_exception() -> Iterator[None]:
    """Lets the signals of `timeout` and of a closed terminal end the block so that it removes what isn't whole."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has one
    deadly = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]  # `nohup` ignores one
    for number in deadly:
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    try:
        yield
    finally:
        for number in deadly:
            signal.signal(number, signal.SIG_DFL)


@app.command()
def notify() -> None:
    """Send a test message to NOTIFY_URL. Exit with 0 if it was accepted."""
    settings = read_settings()
    if not settings.notify_url.get_secret_value():
        raise SystemExit("Error: NOTIFY_URL is not set: set it to an incoming webhook, such as Slack's or Mattermost's")
    receiver = Receiver(settings)
    message = "This is a test: the image classifier's notifications arrive here."
    try:
        receiver.send(Notice("test", "test", message, time.time(), path="/").payload(settings.page))
    except BackendError as error:
        raise SystemExit(f"Error: {error}") from None
    Outbox(settings.model_dir / "projects").delivered()
    typer.echo(f"{receiver.host} has accepted the message")


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object and ask no questions")] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="fix what can be fixed in Label Studio, asking before each fix")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="with --fix: fix without asking")] = False,
) -> None:
    """Find problems in this backend and in Label Studio, and show how to fix them. Exit with 0 if there are none."""
    if yes and not fix:
        raise typer.BadParameter("--yes does nothing without --fix: add --fix")
    if fix and as_json and not yes:
        raise typer.BadParameter("--fix asks before each change, which --json can't do: add --yes, or leave out --json")
    raise typer.Exit(consult(as_json=as_json, ask=(lambda offer: yes or typer.confirm(offer)) if fix else None))
