"""Charts of a training run, as SVG files."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pygal

from image_classifier.cli.epochs_csv import EpochsCsv

if TYPE_CHECKING:  # it imports torch, which pygal's finder would get in the way of
    from image_classifier.training.lr_finder import RateRange

# pygal adds a finder for its map plugins to the import system, using an interface that Python 3.12 has removed.
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]


MOST_LABELS = 10  # on an axis of epochs


def write_rate_chart(path: Path, found: "RateRange") -> None:
    """Writes an SVG file: the loss over the learning rate, with the chosen rate marked."""
    chart = pygal.XY(
        title=f"Learning rate found: {found.chosen:g}",
        x_title="learning rate of the backbone",
        y_title="smoothed loss",
        js=(),
        show_legend=False,
        stroke=True,
        dots_size=1,
        x_value_formatter=lambda power: f"{10**power:.0e}",
        value_formatter=lambda loss: f"{loss:.2f}",
    )
    chart.x_labels = list(range(-6, 1))
    chart.add("loss", [(math.log10(rate), loss) for rate, loss in zip(found.rates, found.losses, strict=True)])
    low, high = min(found.losses), max(found.losses)
    chart.add("chosen", [(math.log10(found.chosen), low), (math.log10(found.chosen), high)])
    path.write_bytes(chart.render())


def write_curves(path: Path, epochs: EpochsCsv) -> None:
    """Writes an SVG file, unless there are no epochs: each phase's loss, and its accuracy with an axis on the right."""
    losses, accuracies = epochs.curves("loss"), epochs.curves("accuracy")
    if not losses:
        return
    chart = pygal.XY(
        title="Loss (left) and accuracy on the held-out images (right)" if accuracies else "Loss",
        x_title="epoch",
        js=(),
        dots_size=1,
        legend_at_bottom=True,
        legend_at_bottom_columns=1,
        secondary_range=(0, 1),
        x_value_formatter=lambda epoch: f"{epoch:.0f}",
        value_formatter=lambda value: f"{value:.3g}",
    )
    last = max(epoch for points in losses.values() for epoch, _ in points)
    chart.x_labels = list(range(1, last + 1, math.ceil(last / MOST_LABELS)))
    for phase, points in losses.items():
        chart.add(f"loss, {phase}", points)
    for phase, points in accuracies.items():
        chart.add(f"accuracy, {phase}", points, secondary=True)
    path.write_bytes(chart.render())
