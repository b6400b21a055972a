"""How far a training run is, from the approximate share of time that each phase takes; and the time left in a phase."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Record = dict[str, Any]
Progress = Callable[[Record], None]
_One = TypeVar("_One")


def ignore(record: Record) -> None:
    """For callers that show no progress."""


def counted(phase: str, results: Iterable[_One], images: int | None, progress: Progress) -> Iterator[_One]:
    """The results, one for each image; reports how many there are so far. `images` is None if it isn't known."""
    if images != 0:
        progress({"phase": phase, "image": 0, "images": images})
    for image, one in enumerate(results, 1):
        progress({"phase": phase, "image": image, "images": images})
        yield one


# (phase, overall progress at its end, from 0 to 1), in order
HEAD = (
    ("fetching images", 0.60),
    ("embedding images", 0.65),
    ("training the head", 0.95),
    ("evaluating", 0.99),
)
ALL_LAYERS = (
    ("fetching images", 0.08),
    ("embedding images", 0.09),
    ("training the head", 0.12),
    ("evaluating", 0.13),
    ("trying all layers", 0.19),
    ("training all layers", 0.90),
    ("embedding images", 0.95),
    ("training the head", 0.98),
    ("evaluating", 0.99),
)


class Stages:
    """Adds `done`, the share of the training that is complete (0 to 1), to each record; it never decreases."""

    def __init__(self, progress: Progress, *, all_layers: bool) -> None:
        self._progress = progress
        self._plan = ALL_LAYERS if all_layers else HEAD
        self._place = 0
        self._done = 0.0

    def __call__(self, record: Record) -> None:
        following = (n for n in range(self._place, len(self._plan)) if self._plan[n][0] == record.get("phase"))
        place = next(following, None)
        if place is not None:
            self._place = place
            start = self._plan[place - 1][1] if place else 0.0
            self._done = max(self._done, start + _share(record) * (self._plan[place][1] - start))
        self._progress({**record, "done": round(self._done, 4)})


def _share(record: Record) -> float:
    """The share of the phase that is complete, by images or by epochs."""
    if "image" in record:
        return float(record["image"] / max(1, record["images"]))
    if "epoch" in record:
        return float(record["epoch"] / record["epochs"])
    return 0.0


class TimeLeft:
    """Adds `seconds_left` to the records of phases that count images, from the time that the images took so far."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._phase = ""
        self._start = 0.0
        self._first = self._image = 0

    def __call__(self, record: Record) -> None:
        image = record.get("image", 0)
        if record["phase"] != self._phase or image < self._image:  # one phase may follow another of the same name
            self._phase, self._start, self._first = record["phase"], time.monotonic(), image
        self._image = image
        if image > self._first and record["images"] is not None:
            each = (time.monotonic() - self._start) / (image - self._first)
            record = {**record, "seconds_left": round(each * (record["images"] - image), 1)}
        self._progress(record)


class Clock:
    """Estimates how long training will take."""

    def __init__(self, epochs: int, done: int = 0) -> None:
        self._epochs, self._done = epochs, done
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def after(self, epoch: int) -> dict[str, Any]:
        left = self._epochs - epoch - 1
        each = self.seconds / max(1, epoch + 1 - self._done)
        return {"epoch": epoch + 1, "epochs": self._epochs, "seconds_left": round(each * left, 1)}
