"""Messages and progress on standard error. Standard output is for results only."""

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from image_classifier.data.dataset import Sample
from image_classifier.data.folders import Finding, shown
from image_classifier.data.preprocessing import ImageError
from image_classifier.progress import Progress, TimeLeft

LISTED = 20  # lines of a long list that are printed

console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def say(text: object) -> None:
    """Prints lines without terminal control characters: they may contain text from a server or a file."""
    console.print("\n".join(map(shown, str(text).split("\n"))))


def say_all(things: Iterable[object], more: str) -> None:
    """Prints the first lines of a list, and how many more there are; `more` says where to find those."""
    lines = [str(thing) for thing in things]
    for line in lines[:LISTED]:
        say(line)
    if len(lines) > LISTED:
        say(f"… and {len(lines) - LISTED} more; {more}")


def say_broken(broken: Mapping[Sample, ImageError]) -> None:
    """Prints why images can't be used."""
    say_all((Finding(sample.image.path, str(why)) for sample, why in broken.items()), "`prepare` lists them all")


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Shows a bar for each phase on a terminal, otherwise a line; and a table of the epochs of full training."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rest]}"),
    )
    # Rich would otherwise send results to standard error.
    hidden = not console.is_terminal
    with Bars(*columns, console=console, transient=True, redirect_stdout=False, disable=hidden) as bars:
        yield TimeLeft(_Shown(bars))


class _Shown:
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._phase = ""
        self._task: TaskID | None = None
        self._has_table = False

    def __call__(self, record: dict[str, Any]) -> None:
        phase = str(record["phase"])
        if phase != self._phase:
            self._begin(phase)
        if self._task is not None:
            done, total = (record.get("epoch", record.get("image")), record.get("epochs", record.get("images")))
            self._bars.update(self._task, completed=done or 0, total=total, rest=_rest(record))
        if phase == "training all layers" and record.get("epoch"):
            self._add_row(record)

    def _begin(self, phase: str) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._phase = phase
        self._task = self._bars.add_task(phase, total=None, rest="")
        if not console.is_terminal:
            say(phase)

    def _add_row(self, record: dict[str, Any]) -> None:
        """A line of the table of epochs, which stays on the terminal."""
        if not self._has_table:
            self._has_table = True
            say(f"{'epoch':>9}  {'loss':>7}  {'accuracy':>8}  {'left':>7}")
        epoch = f"{record['epoch']}/{record['epochs']}"
        say(f"{epoch:>9}  {record['loss']:7.3f}  {record['accuracy']:8.1%}  {record['seconds_left']:5.0f} s")


def _rest(record: dict[str, Any]) -> str:
    parts = []
    if "loss" in record:
        parts.append(f"loss {record['loss']:.3f}")
    if "accuracy" in record:
        parts.append(f"accuracy {record['accuracy']:.3f}")
    if "seconds_left" in record:
        parts.append(f"{record['seconds_left']:.0f} s left")
    return ", ".join(parts)


def log_to_console() -> None:
    """Prints the library's warnings, for example that the weights can't be downloaded."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)


def take_any_name() -> None:
    """Accepts file names that aren't UTF-8, and escapes names that the terminal can't show."""
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=errors)


def json_for(out: TextIO, value: Any) -> str:
    """JSON with every character as it is, or with JSON's own escapes if `out` can't encode them all.

    Otherwise the stream would write escapes of Python, such as \\xf6, which JSON doesn't have.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(out.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=2)
    return text
