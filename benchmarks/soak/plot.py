"""Draws the series as one picture: charts above each other with the same time axis, and lines for killed processes."""

import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import pygal
from pygal.style import Style

from benchmarks.soak.series import STEADY, Sample
from benchmarks.soak.workload import Record

# pygal adds a finder for its map plugins to the import system, using an interface that Python 3.12 has removed.
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]

WIDTH, HEIGHT = 960, 230
STEPS = 4  # between the horizontal lines
KILLS = "a worker is killed"
REDIS = "Redis is restarted, or killed"
COLORS = ("#1f6fb2", "#d1642a", "#3a8f4d", "#8250a0", "#9a7b16", "#5f6b7a")

Points = list[tuple[float, float] | None]


def draw(samples: Sequence[Sample], record: Record, path: Path) -> None:
    """Writes the picture as an SVG file."""
    panels = [
        _panel("Memory (MB)", _memory(samples), record, samples),
        _panel("Open files and threads", _counts(samples), record, samples),
        _panel("Answers of /predict (ms)", _latencies(samples), record, samples),
        _panel("Jobs", _jobs(samples), record, samples),
        _panel("Versions published", {"versions": _line(samples, lambda sample: sample.versions)}, record, samples),
    ]
    height = HEIGHT * len(panels)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">']
    parts.append(f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>')
    for number, panel in enumerate(panels):
        place = f'<svg x="0" y="{number * HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        parts.append(re.sub(r"^\s*<svg", place, panel, count=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def _memory(samples: Sequence[Sample]) -> dict[str, Points]:
    lines = {"server, with mapped files": _line(samples, lambda sample: _megabytes(sample, ["server"], "megabytes"))}
    lines |= {name: _line(samples, lambda sample, name=name: _megabytes(sample, [name])) for name in STEADY}
    workers = ("worker", "head-worker", "worker's work-horse", "head-worker's work-horse")
    return lines | {"workers and their trainings": _line(samples, lambda sample: _megabytes(sample, workers))}


def _megabytes(sample: Sample, names: Sequence[str], figure: str = "own_megabytes") -> float | None:
    found = [getattr(sample.processes[name], figure) for name in names if name in sample.processes]
    return sum(found) if found else None


def _counts(samples: Sequence[Sample]) -> dict[str, Points]:
    def of(name: str, figure: str) -> Points:
        return _line(
            samples, lambda sample: getattr(sample.processes[name], figure) if name in sample.processes else None
        )

    return {
        "server's files": of("server", "files"),
        "server's threads": of("server", "threads"),
        "head-worker's files": of("head-worker", "files"),
        "worker's files": of("worker", "files"),
    }


def _latencies(samples: Sequence[Sample]) -> dict[str, Points]:
    return {
        "median": _line(samples, lambda sample: sample.p50),
        "99th percentile": _line(samples, lambda sample: sample.p99),
    }


def _jobs(samples: Sequence[Sample]) -> dict[str, Points]:
    return {
        "waiting": _line(samples, lambda sample: sample.waiting),
        "running": _line(samples, lambda sample: sample.running),
    }


def _line(samples: Sequence[Sample], value: Callable[[Sample], float | None]) -> Points:
    """Values by minute; with a gap if there is no value."""
    values = ((sample.at / 60, value(sample)) for sample in samples)
    return [(at, known) if known is not None else None for at, known in values]


def _panel(title: str, lines: dict[str, Points], record: Record, samples: Sequence[Sample]) -> str:
    highest = _round_up(max((point[1] for points in lines.values() for point in points if point), default=1.0))
    style = Style(
        background="#ffffff",
        plot_background="#ffffff",
        colors=(*COLORS[: len(lines)], "#999999", "#d62728"),
        guide_stroke_color="#dddddd",
        major_guide_stroke_color="#dddddd",
        font_family="system-ui, sans-serif",
        title_font_size=15,
        legend_font_size=12,
        label_font_size=11,
        major_label_font_size=11,
    )
    chart: Any = pygal.XY(
        style=style,
        width=WIDTH,
        height=HEIGHT,
        title=title,
        js=(),
        show_dots=False,
        allow_interruptions=True,
        disable_xml_declaration=True,
        range=(0, highest),
        xrange=(0, samples[-1].at / 60),
        legend_box_size=10,
        truncate_legend=-1,
        margin=8,
        x_value_formatter=lambda minutes: f"{minutes:.0f} min",
        value_formatter=lambda value: f"{value:,.0f}",
    )
    chart.y_labels = [highest * number / STEPS for number in range(STEPS + 1)]
    chart.add_xml_filter(_without_points)
    for name, points in lines.items():
        chart.add(name, points, stroke_style={"width": 2})
    for name, workers in ((KILLS, True), (REDIS, False)):
        times = [event["at"] / 60 for event in record.events if ("Redis" not in event["what"]) is workers]
        marks: Points = [point for at in times for point in ((at, 0.0), (at, highest), None)]
        chart.add(name, marks, stroke_style={"width": 1, "dasharray": "3, 3"})
    return str(chart.render(is_unicode=True))


def _round_up(value: float) -> float:
    """The end of an axis that can be divided into round steps."""
    size = 10.0 ** math.floor(math.log10(max(value, 1.0)))
    return next(size * factor for factor in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10, 12) if size * factor >= value)


def _without_points(root: Element) -> Element:
    """Removes the name and tooltip of each point, which only a script would show."""
    for parent in list(root.iter()):
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag in ("desc", "title") or "dots" in (child.get("class") or ""):
                parent.remove(child)
    return root
