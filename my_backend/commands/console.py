"""Shows running jobs: as progress bars in a terminal, otherwise as log lines."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from my_backend.jobs.record import Job, working_for
from my_backend.jobs.store import JobStore
from my_backend.web.pages.training import training_view

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5


@contextmanager
def show_progress(store: JobStore) -> Iterator[None]:
    """Shows the running jobs for as long as the block lasts."""
    ended = threading.Event()
    show = _bars if sys.stderr.isatty() else _lines
    thread = threading.Thread(target=show, args=(store, ended), name="console", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _running(store: JobStore) -> list[Job]:
    return [job for job in store.unfinished() if job.status == "started"]


def describe(job: Job) -> str:
    """Describes a job's progress in a few words."""
    view = training_view(job)
    figures = {"loss": view.loss, "accuracy": view.accuracy}
    words = [view.phase, view.detail, *(f"{name} {value:.3f}" for name, value in figures.items() if value is not None)]
    if view.seconds_left is not None:
        words.append(f"{view.seconds_left:.0f} s left")
    return ", ".join(word for word in words if word)


def _lines(store: JobStore, ended: threading.Event) -> None:
    said: dict[str, str] = {}
    while not ended.wait(LOOK_SECONDS):
        for job in _running(store):
            line = describe(job)
            if said.get(job.id) != line:
                said[job.id] = line
                with working_for(job):
                    log.info("job %s: %s", job.id, line)


def _bars(store: JobStore, ended: threading.Event) -> None:
    # Imported here, so that a server listens earlier.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn

    bar = Progress(
        TextColumn("{task.fields[job]}"),
        BarColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
        transient=True,
    )
    shown: dict[str, TaskID] = {}
    with bar:
        while not ended.wait(LOOK_SECONDS):
            running = {job.id: job for job in _running(store)}
            for gone in shown.keys() - running.keys():
                bar.remove_task(shown.pop(gone))
            for job in running.values():
                if job.id not in shown:
                    shown[job.id] = bar.add_task("", job=job.id)
                done = training_view(job).done
                bar.update(
                    shown[job.id],
                    description=describe(job),
                    completed=done or 0,
                    total=None if done is None else 1,
                )
