"""One training run of the command line, from samples to a folder with the model; it can be interrupted and resumed."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from image_classifier.cli.charts import write_curves, write_rate_chart
from image_classifier.cli.console import say, say_broken
from image_classifier.cli.ctrl_c import ending_on_ctrl_c
from image_classifier.cli.epochs_csv import EpochsCsv
from image_classifier.cli.output_paths import new_folder
from image_classifier.cli.recipe import Recipe
from image_classifier.cli.workbench import Workbench
from image_classifier.data.dataset import Sample, classes_of, held_out, targets_of
from image_classifier.data.folders import shown
from image_classifier.data.preprocessing import ImageError
from image_classifier.embedding.samples import EmbeddedSamples, embed_samples
from image_classifier.errors import TooFewLabels, UsersError
from image_classifier.nets.classifier import Backbone, Classifier
from image_classifier.nets.folder import FULL, HEAD, lock_of, locked, save_model
from image_classifier.progress import Progress, ignore
from image_classifier.settings import PositiveFloat
from image_classifier.training.all_layers import FineTuning, NotBetter, train_all_layers, trains_all_layers
from image_classifier.training.classifier_head import embed, learn_head
from image_classifier.training.head import train_head
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.labels import order_classes
from image_classifier.training.lr_finder import range_of_all_layers, range_of_head

STATE_FILE = "training.json"
RESULTS_FILE = "results.csv"
CURVES_FILE = "results.svg"
RATE_CHART = "learning-rate.svg"
CHECKPOINT_FILE = "checkpoint.safetensors"


class _Before(BaseModel):
    network: dict[str, Any]
    training: dict[str, Any]


class _State(BaseModel):
    """What the state file must have."""

    recipe: _Before
    images: str
    finished: bool
    learning_rate: PositiveFloat = 1.0  # missing until one is found


class Experiment:
    """A training run and its folder: `head/`, and `full/` if all layers were trained; each is a complete model."""

    def __init__(self, folder: Path, recipe: Recipe, samples: Sequence[Sample], *, resume: bool) -> None:
        """Raises UsersError if the folder is in use or contains another experiment."""
        self._folder, self._recipe, self._samples = folder, recipe, samples
        facts = [(s.image.digest, sorted(classes_of(s.label)), s.part) for s in samples]
        self._state: dict[str, Any] = {
            "recipe": {"network": recipe.network.model_dump(), "training": recipe.training.model_dump()},
            "images": sha256(json.dumps(facts).encode()).hexdigest(),
            "finished": False,
        }
        begun = self._read_state()
        self.is_new = begun is None
        if begun is None:
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise UsersError(f"{shown(folder)} already exists: choose another output folder")
        elif not resume:
            raise UsersError(
                f"{shown(folder)} already contains a training run: add --resume, or choose another output folder"
            )
        elif differences := _differences(begun, self._state):
            best = f"; {shown(self.best_so_far)} has the best model so far" if self.best_so_far else ""
            raise UsersError(f"can't resume {shown(folder)}: {differences}; choose another output folder{best}")
        else:
            self._state = begun

    @property
    def finished(self) -> bool:
        """Whether training is complete."""
        return bool(self._state["finished"])

    @property
    def _checkpoint(self) -> Path:
        return self._folder / CHECKPOINT_FILE

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Claims the folder; if the block fails before there is anything to resume, gives the folder up again.

        Raises UsersError if another process is training in it, or is retraining its model.
        """
        with nullcontext() if self._folder.is_dir() else new_folder(self._folder), locked(self._folder / HEAD):
            try:
                self._write_state()
                yield
            except BaseException:
                if self.best_so_far is None and not self._checkpoint.exists():
                    for name in (STATE_FILE, RESULTS_FILE, CURVES_FILE, RATE_CHART):
                        (self._folder / name).unlink(missing_ok=True)
                        (self._folder / f".{name}.part").unlink(missing_ok=True)
                raise
            finally:
                with suppress(OSError):  # fails on Windows, where releasing the lock removes the file
                    lock_of(self._folder / HEAD).unlink()

    def _read_state(self) -> dict[str, Any] | None:
        try:
            state: dict[str, Any] = json.loads((self._folder / STATE_FILE).read_text(encoding="utf-8"))
            _State.model_validate(state)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, RecursionError):  # invalid JSON or UTF-8, nested too deep, or something else in it
            raise UsersError(f"{shown(self._folder / STATE_FILE)} is damaged: choose another output folder") from None
        return state

    def _write_state(self) -> None:
        part = self._folder / f".{STATE_FILE}.part"
        part.write_text(json.dumps(self._state, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(part, self._folder / STATE_FILE)

    @property
    def best_so_far(self) -> Path | None:
        """The folder of the best model so far."""
        places = (self._folder / FULL, self._folder / HEAD)
        return next((place for place in places if place.is_dir()), None)

    def run(self, bench: Workbench, backbone: Backbone, progress: Progress) -> dict[Sample, ImageError]:
        """Trains to the end in the claimed folder; returns the samples that can't be read.

        After KeyboardInterrupt the folder contains the best model so far, if there is one; otherwise it is given up.
        """
        epochs_csv = EpochsCsv(self._folder / RESULTS_FILE, progress)
        try:
            with ending_on_ctrl_c(epochs_csv) as progress:
                return self._train(bench, backbone, progress, epochs_csv)
        except Exception:
            if self.best_so_far is not None:
                say(
                    f"{shown(self.best_so_far)} has the best model so far. Fix this error, then continue with --resume."
                )
            raise
        finally:
            write_curves(self._folder / CURVES_FILE, epochs_csv)

    def _train(
        self, bench: Workbench, backbone: Backbone, progress: Progress, uninterrupted: Progress
    ) -> dict[Sample, ImageError]:
        embedded = self._embed(bench, backbone, self._samples, progress)
        classes = order_classes(embedded.samples, (), ())
        looked_at = sum(sample.evaluates for sample in embedded.samples)
        all_layers = trains_all_layers(self._recipe.training.mode, backbone, looked_at)
        for_head, hyperparameters = self._hyperparameters(backbone, embedded, classes, all_layers, progress)
        best = learn_head(backbone, embedded, classes, for_head, progress)
        save_model(best, embedded.samples, self._folder / HEAD)
        if all_layers:
            try:
                self._all_layers(bench, best, embedded.samples, hyperparameters, progress)
            except KeyboardInterrupt:
                if self._checkpoint.exists():
                    # No more epochs: save the checkpoint's state as a model.
                    self._all_layers(bench, best, embedded.samples, hyperparameters, uninterrupted, more_epochs=False)
                raise
        self._state["finished"] = True
        self._write_state()
        self._checkpoint.unlink(missing_ok=True)
        return embedded.broken

    def _hyperparameters(
        self,
        backbone: Backbone,
        embedded: EmbeddedSamples,
        classes: Sequence[str],
        all_layers: bool,
        progress: Progress,
    ) -> tuple[Hyperparameters, Hyperparameters]:
        """The recipe's hyperparameters for the head, and those for all layers.

        With "auto", the learning rate is found once, without held-out images. If it is found for all layers, the head
        keeps the default: trained at their rate, it would be worse, and all layers would seem better than they are.
        """
        hyperparameters = self._recipe.training.hyperparameters()
        if self._recipe.training.learning_rate != "auto":
            return hyperparameters, hyperparameters
        if "learning_rate" not in self._state:
            rows = [row for row, out in enumerate(held_out(embedded.samples)) if not out]
            samples, embeddings = [embedded.samples[row] for row in rows], embedded.embeddings[rows]
            scales = backbone.scales(embeddings.shape[1])
            if all_layers:
                targets = targets_of([sample.label for sample in samples], classes)
                head = train_head(embeddings, targets, len(classes), hyperparameters, progress, scales=scales)
                found = range_of_all_layers(backbone, head, samples, classes, hyperparameters, progress)
            else:
                found = range_of_head(embeddings, samples, classes, hyperparameters, progress, scales=scales)
            write_rate_chart(self.rate_chart, found)
            self._state["learning_rate"] = found.chosen
            self._write_state()
        with_found_rate = replace(hyperparameters, learning_rate=self._state["learning_rate"])
        return (hyperparameters if all_layers else with_found_rate), with_found_rate

    @property
    def rate_chart(self) -> Path:
        """The file with the curve of the range test."""
        return self._folder / RATE_CHART

    @property
    def found_rate(self) -> float | None:
        """The learning rate that "auto" has found, if any."""
        rate = self._state.get("learning_rate")
        return None if rate is None else float(rate)

    def _embed(
        self, bench: Workbench, backbone: Backbone, samples: Sequence[Sample], progress: Progress
    ) -> EmbeddedSamples:
        bench.embed_ahead(backbone, [sample.image for sample in samples], progress)
        try:
            return embed(bench.lane, backbone, samples, progress)
        except TooFewLabels:
            say_broken(embed_samples(bench.lane, backbone, samples, ignore).broken)  # the others are cached
            raise

    def _all_layers(
        self,
        bench: Workbench,
        head: Classifier,
        samples: Sequence[Sample],
        hyperparameters: Hyperparameters,
        progress: Progress,
        *,
        more_epochs: bool = True,
    ) -> None:
        """Saves the model with all layers trained if it is better than the head."""
        images = [sample.image for sample in samples]
        try:
            tuned = train_all_layers(
                FineTuning(bench.lane, head, samples, hyperparameters, self._checkpoint, progress),
                mode=self._recipe.training.mode,
                more_epochs=more_epochs,
                prepare=lambda backbone: bench.embed_ahead(backbone, images, progress),
            )
        except NotBetter as error:
            shutil.rmtree(self._folder / FULL, ignore_errors=True)  # of an earlier interruption
            say(f"{error}; keeping the model with only the last layer trained")
        else:
            save_model(tuned, samples, self._folder / FULL)


def is_unfinished(folder: Path) -> bool:
    """Whether the folder has a training run that `train --resume` would continue."""
    try:
        return not _State.model_validate_json((folder / STATE_FILE).read_bytes()).finished
    except (OSError, ValueError):  # none, or a damaged one, which can't be resumed
        return False


def _differences(begun: dict[str, Any], now: dict[str, Any]) -> str:
    """How two experiments differ, in words."""
    before, after = ({**s["recipe"]["network"], **s["recipe"]["training"]} for s in (begun, now))
    said = [
        f"{name} was {before.get(name)!r} and is now {after[name]!r}"
        for name in after
        if before.get(name) != after[name]
    ]
    if begun["images"] != now["images"]:
        said.append("the images or their classes have changed (restore them to resume)")
    return ", ".join(said)
