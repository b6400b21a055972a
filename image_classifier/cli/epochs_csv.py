"""The epochs of a training run as a CSV file, which grows while it trains."""

import csv
import os
from collections import Counter
from pathlib import Path

from image_classifier.progress import Progress, Record

COLUMNS = ("phase", "epoch", "loss", "accuracy")

_Place = tuple[str, int, int]  # phase, how often it had begun, epoch


class EpochsCsv:
    """Passes records on to `progress`, and writes a row for each epoch to `file`.

    A resumed training replaces the rows of epochs that it repeats, and keeps the others.
    """

    def __init__(self, file: Path, progress: Progress) -> None:
        self._file, self._progress = file, progress
        self._rows = _read(file)
        self._places = _Places()

    def __call__(self, record: Record) -> None:
        self._progress(record)
        phase, epoch = str(record["phase"]), int(record.get("epoch") or 0)
        place = self._places.next(phase, epoch)
        if epoch:
            self._rows[place] = ["" if record.get(name) is None else f"{record[name]:.6g}" for name in COLUMNS[2:]]
            self._write()

    def curves(self, column: str) -> dict[str, list[tuple[int, float]]]:
        """Epoch and value of a column, for each phase that has values; a phase that began again has a number."""
        place = COLUMNS.index(column) - 2
        found: dict[str, list[tuple[int, float]]] = {}
        for (phase, number, epoch), values in self._rows.items():
            if values[place]:
                name = phase if number == 1 else f"{phase} ({number})"
                found.setdefault(name, []).append((epoch, float(values[place])))
        return found

    def _write(self) -> None:
        part = self._file.with_name(f".{self._file.name}.part")
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows([phase, epoch, *values] for (phase, _, epoch), values in self._rows.items())
        os.replace(part, self._file)


class _Places:
    """Distinguishes the epochs of a phase that begins more than once."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()
        self._last = ("", 0)

    def next(self, phase: str, epoch: int) -> _Place:
        if phase != self._last[0] or epoch <= self._last[1]:
            self._begun[phase] += 1
        self._last = phase, epoch
        return phase, self._begun[phase], epoch


def _read(file: Path) -> dict[_Place, list[str]]:
    """The rows of an earlier run; none if there is no such file, or if another program has changed it."""
    places, rows = _Places(), dict[_Place, list[str]]()
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            for phase, epoch, loss, accuracy in list(csv.reader(lines))[1:]:
                rows[places.next(phase, int(epoch))] = [
                    loss and f"{float(loss):.6g}",
                    accuracy and f"{float(accuracy):.6g}",
                ]
    except (FileNotFoundError, ValueError, csv.Error):
        return {}
    return rows
