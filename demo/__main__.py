"""`make demo`: runs Label Studio with digits or your own images, and the backend, which learns from some of them."""

import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import requests
import typer
from rich.console import Console
from rich.status import Status

from demo.images import Images, digits, own_images
from demo.network import pretrained_network
from image_classifier.errors import UsersError
from testing.backend import Backend
from testing.label_studio import JSON, LabelStudio, environment
from testing.process import ServerError, free_port

PREDICTED = 200

console = Console(highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Project:
    """The demo's project: images as tasks, some annotated and some to be predicted."""

    id: int
    labels: dict[int, str]  # of every task
    to_predict: list[int]


def main(
    port: Annotated[int, typer.Option(help="Port of the backend; if it is in use, a free port.")] = 9090,
    label_studio_port: Annotated[int, typer.Option(help="Port of Label Studio; if it is in use, a free port.")] = 8080,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep all files in this folder, which must be empty.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Your own images instead of the digits: a folder with a subfolder for each class. Nothing in it is "
            "changed; if it has more than 2,000 images, 2,000 of them are used.",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", metavar="", help="Exit after printing the results.")] = False,
) -> None:
    """Annotate, train and predict real images in a real Label Studio. Then keep running until Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        _demo(port, label_studio_port, keep, images, once)
    except KeyboardInterrupt:
        console.print("Stopped.")
    except (ServerError, UsersError, requests.RequestException) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None


def _interrupt(*_: object) -> None:
    """Ends the demo through its `with` blocks, only once: a second Ctrl-C can't interrupt the cleanup."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    raise KeyboardInterrupt


def _demo(port: int, label_studio_port: int, keep: Path | None, own: Path | None, once: bool) -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(_folder(keep))
        images = own_images(own) if own else digits(folder / "images")
        environment()  # prints its own progress
        label_studio = LabelStudio(
            folder / "label-studio", port=free_port(label_studio_port), local_files=images.folder.parent
        )
        with _step("Start Label Studio"):
            stack.enter_context(label_studio)
        with _step(f"Create a project with {len(images.paths):,} images, {images.annotated} of them annotated"):
            project = _make_project(label_studio, images)
        # Training all layers as well would take minutes and keep the machine busy. Without the version's name as its
        # title, Label Studio would show no scores.
        settings = {"TRAIN_MODE": "head", "TITLE_IS_VERSION": "true", **pretrained_network()}
        backend = Backend(folder / "backend", label_studio, port=free_port(port), **settings)
        with _step("Start the backend"):
            stack.enter_context(backend)
        with _step("Connect and train") as status:
            connection = label_studio.connect(project.id, backend.url, title="demo")
            _train(label_studio, connection, backend, project, status)
        with _step(f"Predict {len(project.to_predict)} other images"):
            label_studio.retrieve_predictions(project.id, project.to_predict)
        _show_figures(label_studio, backend, project)
        if not once:
            _show_links(label_studio, backend, project)
            backend.wait()


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="image-classifier-demo-") as name:
            yield Path(name)
    else:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise typer.BadParameter(f"{keep} is not empty", param_hint="--keep")
        try:
            yield keep.resolve()
        finally:
            console.print(f"All files are kept in {keep}")


@contextmanager
def _step(what: str) -> Iterator[Status]:
    """Shows a step while it is running, and then how long it took."""
    started = time.monotonic()
    with console.status(what) as status:
        yield status
    console.print(f"{what}: {time.monotonic() - started:.1f} s")


def _make_project(label_studio: LabelStudio, images: Images) -> Project:
    project = label_studio.create_project(images.title, images.label_config)
    known = [label if n < images.annotated else None for n, label in enumerate(images.labels)]
    tasks = label_studio.add_local_images(project, images.folder, images.paths, known, from_name=images.from_name)
    to_predict = tasks[images.annotated :][:PREDICTED]
    return Project(project, dict(zip(tasks, images.labels, strict=True)), to_predict)


def _train(label_studio: LabelStudio, connection: int, backend: Backend, project: Project, status: Status) -> None:
    """Presses Start Training, and shows the job's progress until it is finished."""
    label_studio.start_training(connection)
    job = backend.is_training(project.id)["job"]
    if job is not None:  # otherwise it is already finished
        backend.wait_for_job(job, lambda progress: status.update(f"Train: {_progress_line(progress)}"))


def _progress_line(progress: JSON) -> str:
    """The progress as one line; the first steps of a job have only some of the values."""
    known = {name: value for name, value in progress.items() if value is not None}
    parts = [str(known.get("phase", "waiting"))]
    if "epoch" in known and "epochs" in known:
        parts.append(f"epoch {known['epoch']}/{known['epochs']}")
    if "loss" in known:
        parts.append(f"loss {known['loss']:.3f}")
    if "accuracy" in known:
        parts.append(f"accuracy {known['accuracy']:.1%}")
    if "seconds_left" in known:
        parts.append(f"{known['seconds_left']:.0f} s left")
    return ", ".join(parts)


def _show_figures(label_studio: LabelStudio, backend: Backend, project: Project) -> None:
    predictions = label_studio.predictions(project.id)
    predicted = {task: predictions[task][-1] for task in project.to_predict if task in predictions}
    right = sum(_choice(prediction) == project.labels[task] for task, prediction in predicted.items())
    version = backend.is_training(project.id)["model_version"]
    console.print(
        f"Version {version} predicted {len(predicted)} of {len(project.to_predict)} images; {right} are correct."
    )
    for problem in backend.health()["problems"]:
        console.print(f"Problem: {problem}")


def _choice(prediction: JSON) -> str:
    return str(prediction["result"][0]["value"]["choices"][0])


def _show_links(label_studio: LabelStudio, backend: Backend, project: Project) -> None:
    data = f"{label_studio.url}/projects/{project.id}/data"
    console.print(
        f"""
Label Studio    {label_studio.url}
  login         {label_studio.email}
  password      {label_studio.password}
  all images    {data}
  a prediction  {data}?task={project.to_predict[0]}
Backend         {backend.url}

Correct a prediction and press Submit or Update; the backend's page shows how it learns from your correction.
Press Ctrl-C to stop both."""
    )


if __name__ == "__main__":
    typer.run(main)
