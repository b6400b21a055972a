"""The model class that is really served, but a training of all layers stops where the test wants to look at it."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from image_classifier.training import all_layers
from model import ImageClassifierAPI

FILE = "HELD_TRAINING"  # names the file with the epoch

Json = dict[str, Any]

all_layers.FEWEST_COMPARED = 0  # so that few images are enough to train all layers


class Hold:
    """Where trainings stop; the test and the backend share it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.settings = {
            "MODEL_CLASS": f"{__name__}:HeldClassifier",
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            FILE: str(file),
        }

    def at(self, epoch: int) -> None:
        """Trainings stop after this epoch of all layers; one that has stopped earlier goes on to it."""
        part = self._file.with_suffix(".part")
        part.write_text(str(epoch))
        part.replace(self._file)

    def release(self) -> None:
        """Trainings go on to their end."""
        self._file.unlink()


class HeldClassifier(ImageClassifierAPI):
    def fit(
        self,
        completions: Iterable[Json],
        workdir: str | None = None,
        *,
        progress: Callable[[Json], None] | None = None,
        **kwargs: Any,
    ) -> Json:
        assert progress is not None
        file = Path(os.environ[FILE])

        def report(record: Json) -> None:
            progress(record)
            while record["phase"] == "training all layers" and record.get("epoch", 0) >= _epoch_in(file):
                time.sleep(0.05)
                progress({"phase": record["phase"]})  # raises if the training was canceled

        return super().fit(completions, workdir, progress=report, **kwargs)


def _epoch_in(file: Path) -> float:
    try:
        return float(file.read_text())
    except FileNotFoundError:
        return float("inf")
