"""Checks that the measurements don't grow, and that all annotations were learned."""

import itertools
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.soak.series import STEADY, Sample, Usage
from my_backend.projects.versions import Version
from testing.process import ServerError

# Flat: at most this slope over the second half of the run (the median of the slopes between all samples).
# For memory, only the lowest value of each window counts: a large image takes hundreds of megabytes for a moment, often
# during a sample, whereas a leak also raises the values between such moments.
WINDOW_SECONDS = 180.0
MEMORY_PERCENT_AN_HOUR = 5.0
MEMORY_AN_HOUR = 2.0  # MB, where these percent are less
COUNT_AN_HOUR = 1.0  # of open files, and of threads

Json = dict[str, Any]


@dataclass(frozen=True)
class Trend:
    """The trend of one value of one process over the second half of the run."""

    process: str
    figure: str
    median: float
    an_hour: float
    limit: float

    @property
    def flat(self) -> bool:
        return self.an_hour <= self.limit


def trends(samples: Sequence[Sample]) -> list[Trend]:
    """The trends of the permanent processes; a killed process continues as its successor."""
    half = [sample for sample in samples if sample.at >= samples[-1].at / 2]
    # Resident memory includes the embedding cache, a mapped file whose pages the system can reclaim at any time.
    figures: dict[str, Callable[[Usage], float]] = {
        "memory, MB": lambda usage: usage.own_megabytes,
        "open files": lambda usage: usage.files,
        "threads": lambda usage: usage.threads,
    }
    found = []
    for process in STEADY:
        known = [(sample.at, sample.processes[process]) for sample in half if process in sample.processes]
        if not known:
            raise ServerError(f"{process} was never running")
        for figure, take in figures.items():
            points = [(at, take(usage)) for at, usage in known]
            median = statistics.median(value for _, value in points)
            limit = COUNT_AN_HOUR
            if "memory" in figure:
                points = least_of_windows(points)
                least = statistics.median(value for _, value in points)
                limit = max(least * MEMORY_PERCENT_AN_HOUR / 100, MEMORY_AN_HOUR)
            found.append(Trend(process, figure, median, 3600 * slope(points), limit))
    return found


def least_of_windows(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The smallest point of each window of seconds."""
    windows = itertools.groupby(points, key=lambda point: point[0] // WINDOW_SECONDS)
    return [min(window, key=lambda point: point[1]) for _, window in windows]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The Theil-Sen slope: single outliers, such as the seconds after a restart, don't count."""
    pairs = [
        (second[1] - first[1]) / (second[0] - first[0])
        for number, first in enumerate(points)
        for second in points[number + 1 :]
    ]
    return statistics.median(pairs) if pairs else 0.0


def unlearned(version: Version, exported: Sequence[Json]) -> list[str]:
    """Differences between Label Studio's annotations and the samples that the version was trained on."""
    samples = json.loads((Path(version.train_output["model_dir"]) / "samples.json").read_text(encoding="utf-8"))
    known = {sample["name"]: sample["label"] for sample in samples}
    said = {str(task["id"]): _newest_choice(task) for task in exported}
    missing = [f"task {task} is {choice}, learned as {known.get(task)}" for task, choice in said.items()
               if known.get(task) != choice]  # fmt: skip
    return missing + [f"task {task} is learned but not annotated" for task in known.keys() - said.keys()]


def _newest_choice(task: Json) -> str:
    newest = max(task["annotations"], key=lambda annotation: str(annotation["updated_at"]))
    [choice] = newest["result"][0]["value"]["choices"]
    return str(choice)
