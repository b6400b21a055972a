"""`python -m my_backend label`: labels many tasks in Label Studio and undoes that, with or without a running server."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from my_backend.commands.options import INTERRUPTED, AsJson, Commands, OfProject, saying_errors
from my_backend.errors import Conflict
from my_backend.jobs.store import JobStore
from my_backend.json_output import print_json
from my_backend.label_studio.connections import Connections
from my_backend.labeling.auto_accept.acceptor import Acceptor, State
from my_backend.labeling.auto_accept.guarantee import PERCENTS
from my_backend.labeling.runs.records import Labels, Run, RunKind
from my_backend.labeling.runs.writer import Writer
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from my_backend.settings import read_settings
from my_backend.web.api.accepting import state_of, switch_of
from my_backend.web.api.labeling import described
from my_backend.web.bodies import LabeledTasks

UNKNOWN = {"tasks": 0, "collected": 0}  # how many images the server has read
BUSY_SECONDS = 0.2  # while another process writes to the project

commands = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Label many tasks in Label Studio at once, or undo such labels."
)

accept = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Accept the model's predictions without review if a sample shows that few are wrong; audit or undo them.",
)
commands.add_typer(accept, name="accept")

RunId = Annotated[str, typer.Argument(metavar="RUN", help="run, as shown by `label list`")]
AskToken = Annotated[
    bool, typer.Option("--ask-token", help="prompt for your own Label Studio token and use it; it isn't stored")
]
_LABELS = TypeAdapter(list[LabeledTasks])


@commands.command()
def start(
    tasks: Annotated[list[int] | None, typer.Argument(metavar="[TASK]...", help="ids of tasks in Label Studio")] = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="the choice; repeat the option if the labeling config allows several")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help='instead of --choice and TASK: a JSON file such as [{"label": "Dog", "tasks": [1, 2]}]'),
    ] = None,
    one_by_one: Annotated[
        bool, typer.Option("--one-by-one", help="a person saw each image alone, not in a group with others")
    ] = False,
    project: OfProject = None,
    ask_token: AskToken = False,
) -> None:
    """Label tasks that nobody has labeled yet.

    The annotations belong to the owner of the backend's token or, with --ask-token, to you.
    """
    if (tasks or choice) if file else not (tasks and choice):
        raise typer.BadParameter("give --choice and the ids of tasks, or only --file")
    with _writer() as (writer, projects):
        labels = _read(file) if file else [Labels(choice or [], tasks or [])]
        kind: RunKind = "single" if one_by_one else "group"
        _carry_out(writer, writer.submit(projects.find(project), labels, _token(ask_token), kind))


@commands.command("list")
def list_(project: OfProject = None, as_json: AsJson = False) -> None:
    """List a project's runs, newest first."""
    with _writer() as (writer, projects):
        runs = writer.store.of_project(projects.find(project).uid)
        if as_json:
            print_json([described(run) for run in runs])
            return
        for run in runs:
            typer.echo(_summary(run))
        if not runs:
            typer.echo("No runs yet.", err=True)


@commands.command()
def show(run: RunId) -> None:
    """Print everything known about a run, as JSON."""
    with _writer() as (writer, _):
        print_json(described(writer.store.get(run)))


@commands.command()
def undo(
    run: RunId,
    tasks: Annotated[list[int] | None, typer.Argument(metavar="[TASK]...", help="only these tasks of the run")] = None,
    ask_token: AskToken = False,
) -> None:
    """Remove a run's annotations, except those that someone has changed since."""
    with _writer() as (writer, _):
        _carry_out(writer, writer.undo(run, _token(ask_token), tasks or []))


@commands.command()
def resume(run: RunId, ask_token: AskToken = False) -> None:
    """Continue a run that stopped."""
    with _writer() as (writer, _):
        _carry_out(writer, writer.resume(run, _token(ask_token)))


@accept.command()
def plan(
    percent: Annotated[
        int, typer.Option(help="the largest percentage of the accepted labels that may be wrong: 1, 2 or 5")
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="discard the current plan, even if its sample isn't finished")
    ] = False,
    project: OfProject = None,
) -> None:
    """Record the live version's predictions and draw a random sample to label. The running server prepares the plan."""
    if percent not in PERCENTS:
        raise typer.BadParameter("choose 1, 2 or 5 percent")
    with _acceptor() as (acceptor, _, projects):
        made = acceptor.plan(projects.find(project), percent / 100, replacing=replace)
    typer.echo(f"The server is preparing plan {made.id}. `label accept show` lists the tasks to label.")


@accept.command("show")
def show_plan(project: OfProject = None) -> None:
    """Print the newest plan as JSON: the sample to label, what would be accepted, and the audit."""
    with _acceptor() as (acceptor, _, projects):
        chosen = projects.find(project)
        plan = state_of(_read_again(acceptor, chosen), UNKNOWN) | switch_of(acceptor.store.automatic(chosen.uid))
        print_json(plan)


@accept.command("write")
def write_accepted(project: OfProject = None, ask_token: AskToken = False) -> None:
    """Write to Label Studio the labels that may be accepted.

    They belong to the owner of the backend's token or, with --ask-token, to you.
    """
    with _acceptor() as (acceptor, writer, projects):
        chosen = projects.find(project)
        _read_again(acceptor, chosen)
        _carry_out(writer, acceptor.accept(chosen, _token(ask_token)))


@accept.command()
def audit(
    task: Annotated[int, typer.Argument(help="one of the tasks that `label accept show` lists under audit.next")],
    choice: Annotated[str, typer.Argument(help='the choice that fits its image; "" if none does')],
    project: OfProject = None,
) -> None:
    """Record your check of an accepted label that was drawn at random."""
    with _acceptor() as (acceptor, _, projects):
        checks = acceptor.check(projects.find(project), task, choice)
    if checks.bounds.contradicted:
        verdict = ", which is more than the plan allows: undo them"
    elif not checks.is_shown:
        verdict = "; the sample no longer supports the guarantee: undo them"
    else:
        verdict = ", which doesn't contradict the guarantee"
    low, high = checks.bounds.low, checks.bounds.high
    share = f"{low:.1%} to {high:.1%} of all accepted labels"
    typer.echo(f"{checks.wrong} of {checks.checked} checked labels are wrong, so {share} are wrong{verdict}.")


@accept.command()
def automatic(
    on: Annotated[bool, typer.Option("--on/--off", help="whether the running server accepts labels automatically")],
    project: OfProject = None,
) -> None:
    """Turn automatic acceptance on or off; it uses the backend's token."""
    with _acceptor() as (acceptor, _, projects):
        acceptor.switch(projects.find(project), on=on)
    typer.echo(f"Labels are accepted {'as soon as a plan allows it' if on else 'only when you ask'}.")


@accept.command("undo")
def undo_accepted(project: OfProject = None, ask_token: AskToken = False) -> None:
    """Remove the accepted labels, except those that someone has changed; if there are none yet, discard the plan."""
    with _acceptor() as (acceptor, writer, projects):
        run = acceptor.undo(projects.find(project), _token(ask_token))
        if run is None:
            typer.echo("Plan discarded; your labels are kept.")
        else:
            _carry_out(writer, run)


@contextmanager
def _acceptor() -> Iterator[tuple[Acceptor, Writer, Projects]]:
    """An acceptor whose thread isn't started, and its writer; only a server can prepare plans."""
    with _writer() as (writer, projects):
        settings = read_settings()
        yield (
            Acceptor(projects, Connections(settings), writer, lambda *_: None),
            writer,
            projects,
        )


def _read_again(acceptor: Acceptor, project: Project) -> State:
    """The project's newest plan, with what its sample shows now; raises Conflict if there is none."""
    found = acceptor.state(project)
    if found is None:
        raise Conflict("there is no plan yet: make one with `label accept plan`")
    if found.status == "sampling":
        acceptor.read(project, found.acceptance)
        found = acceptor.state(project)
        assert found is not None
    return found


@contextmanager
def _writer() -> Iterator[tuple[Writer, Projects]]:
    """A writer whose thread isn't started; an error in the block ends the command with its message."""
    with saying_errors():
        settings = read_settings()
        projects = Projects.of(settings)
        yield Writer(projects, Connections(settings), JobStore(projects.root).tally), projects


def _read(file: Path) -> list[Labels]:
    data = file.read_bytes()
    try:
        text = data.decode(json.detect_encoding(data))  # Windows writes a byte-order mark, or UTF-16
        return [Labels(one.label, one.tasks) for one in _LABELS.validate_json(text)]
    except UnicodeError:
        raise SystemExit(f"Error: {file} isn't Unicode text: save it as UTF-8") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = [str(file), *filter(None, [".".join(map(str, first["loc"]))])]
        raise SystemExit(f"Error: {': '.join(where)}: {first['msg']}") from None


def _token(ask: bool) -> str:
    return str(typer.prompt("Label Studio token", hide_input=True)).strip() if ask else ""


def _carry_out(writer: Writer, run: Run) -> None:
    """Carries out the run in this process, unless a server is faster."""
    while run.unfinished:
        command, token = "python -m my_backend label", " --ask-token" if run.own_token else ""
        resume = f"{command} resume {run.id}{token}"
        try:
            if not writer.carry_out(run):
                time.sleep(BUSY_SECONDS)
        except KeyboardInterrupt:
            goes_on = "" if run.own_token else ", unless a running server does so, within seconds"
            remove = f". To remove its labels: {command} undo {run.id}{token}" if run.action == "write" else ""
            typer.echo(f"Interrupted. To continue{goes_on}: {resume}{remove}", err=True)
            raise typer.Exit(INTERRUPTED) from None
        run = writer.store.get(run.id)
        if run.error:
            raise SystemExit(f"Error: {run.error}. To continue: {resume}")
    typer.echo(_summary(run))


def _summary(run: Run) -> str:
    changed = f"{run.written} written" if run.action == "write" else f"{run.undone} undone"
    left = [f"{len(tasks)} {reason}" for reason, tasks in run.left_alone.items() if tasks]
    alone = f"  left alone: {', '.join(left)}" if left else ""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created))
    return f"{run.id}  {when}  {run.action} {run.status}  {run.tasks} tasks, {changed}{alone}"
