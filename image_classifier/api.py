"""The commands `train` and `predict` as functions, for scripts and notebooks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from image_classifier.cli.console import show_progress
from image_classifier.cli.environment import read_settings
from image_classifier.cli.experiment import STATE_FILE, Experiment
from image_classifier.cli.predictions import Prediction, predict
from image_classifier.cli.recipe import read_recipe
from image_classifier.cli.sources import training_samples
from image_classifier.cli.workbench import open_bench
from image_classifier.data.folders import shown
from image_classifier.errors import UsersError
from image_classifier.nets import folder as saved_models
from image_classifier.nets.classifier import load_backbone
from image_classifier.nets.folder import SavedModel
from image_classifier.settings import TrainMode


class Model:
    """A trained classifier, as `train` and `load_model` return it."""

    def __init__(self, saved: SavedModel) -> None:
        self._saved = saved

    @property
    def folder(self) -> Path:
        """The folder that contains the model."""
        return self._saved.folder

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that it can predict."""
        return self._saved.classifier.classes

    @property
    def metrics(self) -> dict[str, Any]:
        """Its metrics on images that it wasn't trained on, as `evaluate --json` shows them: `accuracy` and others.

        `accuracy` and others are missing if at least half of the images are the only one of their class.
        """
        return dict(self._saved.classifier.record["figures"])

    def predict(self, images: Sequence[str | Path], *, top: int = 1) -> list[Prediction]:
        """For each image file, in order, its most likely class.

        A prediction has `label`, `confidence` (0 to 1), and in `scores` the `top` most likely classes with their
        probabilities. If the image can't be read, it has only an `error`. Embeddings are cached in CACHE_DIR, which
        one thread of a process can use at a time. Raises UsersError if CACHE_DIR can't be used.
        """
        with open_bench(read_settings()) as bench:
            return list(predict(bench.lane, self._saved.classifier, map(Path, images), top))


def load_model(folder: str | Path) -> Model:
    """The model in a folder that `train` wrote, or in a version's folder; raises UsersError or WeightsError."""
    return Model(saved_models.load_model(Path(folder)))


def train(
    source: str | Path,
    output: str | Path,
    *,
    mode: TrainMode | None = None,
    network: str | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    **hyperparameters: Any,
) -> Model:
    """Trains a model like `image-classifier train`, and returns it.

    `source` is a folder with a subfolder of images for each class, or a JSON export of Label Studio; the model is
    written to the folder `output`, which must not exist. The other arguments have the names of the command's options
    (`epochs`, `batch_size`, `learning_rate`, …) and override the settings in the environment. Progress goes to
    standard error. Raises UsersError or WeightsError.
    """
    settings = read_settings()
    given: dict[str, dict[str, Any]] = {
        "data": {"path": Path(source)},
        "network": {"name": network, "weights": weights, "image_size": image_size},
        "training": {"mode": mode, **hyperparameters},
    }
    recipe = read_recipe(None, given, settings)
    folder = Path(output)
    if (folder / STATE_FILE).exists():  # only the command can resume it
        raise UsersError(f"{shown(folder)} already contains a training run: choose another output folder")
    experiment = Experiment(folder, recipe, training_samples(recipe, folder, settings), resume=False)
    with experiment.claimed():
        backbone = load_backbone(recipe.network.weights, recipe.network.image_size, recipe.network.name)
        with open_bench(settings) as bench, show_progress() as progress:
            experiment.run(bench, backbone, progress)
    return load_model(folder)
