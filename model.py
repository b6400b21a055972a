"""ImageClassifierAPI: the model class, which predicts Label Studio's tasks and learns from their annotations."""

import os
import shutil
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from image_classifier.data.image_file import ImageFile
from image_classifier.data.jpeg import as_jpeg
from image_classifier.data.preprocessing import ImageError, open_image
from image_classifier.embedding.cache import Embedding
from image_classifier.embedding.shards import write_shard
from image_classifier.errors import UsersError
from image_classifier.nets.classifier import Backbone, choose_device
from image_classifier.nets.onnx_module import EXAMPLE, missing_packages, write_onnx
from image_classifier.pool.order import labeling_order
from image_classifier.progress import ignore
from image_classifier.settings import ClassifierSettings
from label_studio_format.labeling_config import ImageChoices, Json, parse_label_config
from my_backend.errors import BadRequest, TrainingError
from my_backend.label_studio.media import Media
from my_backend.projects.packed_tasks import PackedTasks
from task_classifier import shared
from task_classifier.answers import choice_probabilities, classified, doubt, predictions
from task_classifier.task_images import TaskImages, reason_code
from task_classifier.task_pool import TaskPool
from task_classifier.training_run import TrainingRun
from task_classifier.version_files import LiveVersion, adopt, load_version, make_guess

try:
    from label_studio_ml.model import LabelStudioMLBase
except ModuleNotFoundError:  # only the `label-studio-ml` command needs its base class
    from my_backend.serving.model_api import ModelAPI as LabelStudioMLBase

# label-studio-ml 1.0.9 treats a missing variable as true in some places and as false in others, so that its own /train
# fails after /setup; an empty one is false everywhere. Our server doesn't read it.
os.environ.setdefault("LABEL_STUDIO_ML_BACKEND_V2", "")

THUMBNAIL, PICTURE = 256, 1280  # pixels of the longer side
ORDER_SECONDS = 30.0  # time limit for reading images to order: the next version will find more in the cache
FIRST_GUESS = "first guess from the names of the choices, before any label"

Failed = Callable[[int, str, str], None]  # a task's position, why it has no prediction, and the reason code


@contextmanager
def _with_errors_for_labelers() -> Iterator[None]:
    """Raises TrainingError instead of UsersError, so that the log doesn't show a traceback."""
    try:
        yield
    except UsersError as error:
        raise TrainingError(str(error)) from None


class ImageClassifierAPI(LabelStudioMLBase):  # type: ignore[misc]  # the base class has no types
    """An image classifier that learns the choices of a project's images, one or several for each image.

    Instances are cheap: they share network weights in memory.
    """

    def __init__(
        self,
        label_config: str | None = None,
        train_output: Json | None = None,
        *,
        media: Media | None = None,
        embeddings: Path | None = None,
        **kwargs: Any,
    ) -> None:
        """`train_output` is the result of `fit`; `media` fetches images, by default with the environment's settings.

        `embeddings` is the folder with the embeddings that all hosts share.

        Raises WeightsError if the model in `train_output` can't be loaded.
        """
        # The base class parses the labeling config with asserts; ours never raises.
        super().__init__(label_config=None, train_output=train_output, **kwargs)
        self.label_config = label_config or ""
        self._images = TaskImages(media or shared.default_media())
        if embeddings:
            shared.networks().shards.watch(embeddings)
        self.classifier = load_version(self.train_output, self.label_config)

    @classmethod
    def untrained(cls, label_config: str) -> tuple[str, Json] | None:
        """A first guess, if the network can predict some choices from their names."""
        tag = parse_label_config(label_config, shared.settings().choices).image_choices
        # Loading the network may take minutes; the warm-up does it.
        guess = make_guess(tag) if tag and shared.networks().has_base else None
        if tag is None or guess is None:
            return None
        others = [name for name in tag.choices if name not in guess.classes]
        without = f" It can't guess {', '.join(others)}." if others else ""
        summary = f"A first guess from the names of the choices, made without labels.{without}"
        return FIRST_GUESS, {"first_guess": {"classes": list(guess.classes)}, "summary": summary}

    @property
    def backbone(self) -> Backbone:
        """The network of the version, or, before the first one, the one that it will start from."""
        return self.classifier.backbone if self.classifier else shared.networks().base

    @property
    def _live(self) -> LiveVersion:
        return LiveVersion(self.classifier, self.train_output)

    def _tag(self, label_config: str | None = None) -> ImageChoices | None:
        return parse_label_config(label_config or self.label_config, shared.settings().choices).image_choices

    # --- predict ------------------------------------------------------------

    def predict(
        self,
        tasks: Sequence[Json],
        *,
        label_config: str | None = None,
        deadline: float = float("inf"),
        failed: Failed = lambda position, why, reason: None,
        **kwargs: Any,
    ) -> list[Json | list[Any]]:
        """For each task, in order, a prediction, or `[]` if there is none.

        `label_config` is the project's current one, in case it has changed. By `deadline` (monotonic seconds) the
        predictions are returned, with `[]` for unfinished tasks. `failed` is called for each image that can't be read,
        with the task's position, and the reason as a sentence and as a code.
        """
        tag = self._tag(label_config)
        classifier = self.classifier
        results: list[Json | list[Any]] = [[] for _ in tasks]
        if tag is None or classifier is None:
            return results
        vectors = self._images.embeddings(tasks, tag, classifier.backbone, deadline)
        for position, vector in enumerate(vectors):
            if isinstance(vector, Exception):
                failed(position, str(vector), reason_code(vector))
        embedded = {position: vector for position, vector in enumerate(vectors) if not isinstance(vector, Exception)}
        if not embedded:
            return results
        readable, embeddings = [tasks[position] for position in embedded], _stacked(embedded.values())
        found = predictions(classifier, tag, readable, embeddings, shared.settings().score)
        for position, prediction in zip(embedded, found, strict=True):
            results[position] = prediction
        return results

    def classify(
        self,
        tasks: Sequence[Json],
        *,
        label_config: str | None = None,
        deadline: float = float("inf"),
    ) -> list[Json]:
        """For each task, in order, `prediction`, `confidence` and `scores` by choice; or `error`, as a sentence.

        Scores are calibrated probabilities, the highest first; `prediction` is a list if the labeling config allows
        several choices. The other arguments are the same as for `predict`.
        """
        tag = self._tag(label_config)
        classifier = self.classifier
        if tag is None or classifier is None:
            return [{"error": "there is no trained model yet"} for _ in tasks]
        vectors = self._images.embeddings(tasks, tag, classifier.backbone, deadline)
        return [
            {"error": str(vector)}
            if isinstance(vector, Exception)
            else classified(choice_probabilities(classifier, tag.for_task(task["data"]), torch.tensor(vector)[None]))
            for task, vector in zip(tasks, vectors, strict=True)
        ]

    @staticmethod
    def thumbnail(path: Path) -> bytes:
        """A small JPEG of an image file, decoded and encoded again; raises ImageError."""
        return as_jpeg(path, THUMBNAIL)

    @staticmethod
    def picture(path: Path) -> bytes:
        """Like `thumbnail`, but large enough for labeling."""
        return as_jpeg(path, PICTURE)

    @classmethod
    def cache_lookups(cls) -> dict[str, int]:
        """How many embeddings this process found in its cache (`hit`), and how many it didn't (`miss`)."""
        return shared.cache_lookups()

    @classmethod
    def settings(cls) -> ClassifierSettings:
        """The classifier's settings; raises BackendError if one is invalid."""
        return shared.settings()

    @classmethod
    def warm_up(cls) -> str:
        """Loads the network that first versions start from; returns a warning for the user, or ""."""
        backbone = shared.networks().base
        shared.networks().lane.warm_up(backbone)
        return backbone.warning

    @classmethod
    def describe(cls) -> Json:
        """The network and device that compute predictions; `cuda` is the CUDA version that torch was built for."""
        backbone = shared.networks().base
        device, cuda = choose_device().type, torch.version.cuda or ""
        return {"network": backbone.network, "weights": backbone.origin, "device": device, "cuda": cuda}

    def prepare(self, tasks: Sequence[Json]) -> None:
        """Embeds the tasks' images in advance, so that later predictions are fast."""
        tag = self._tag()
        if tag is None:
            return
        for _ in self._images.read(tasks, tag, self.backbone):
            pass  # the embeddings are cached

    def embedding_space(self) -> str:
        """The fingerprint of the network in this machine's precision."""
        return shared.networks().lane.fingerprint(self.backbone)

    def embed(self, pages: Iterable[Sequence[Json]], file: Path, check: Callable[[], None]) -> int:
        """Writes a shard with the embeddings of tasks' images; returns how many tasks' images could be read."""
        tag = self._tag()
        if tag is None:
            raise BadRequest("there are no images to embed: the labeling config has no choices for an image")
        embeddings: dict[str, Embedding] = {}
        readable = 0
        for tasks in pages:
            with closing(self._images.read(tasks, tag, self.backbone)) as pieces:
                for piece in pieces:
                    check()
                    for image, vector in piece:
                        if isinstance(image, ImageFile) and not isinstance(vector, Exception):
                            embeddings[image.digest] = vector
                            readable += 1
        write_shard(file, embeddings)
        return readable

    def order(
        self,
        tasks: Sequence[Json],
        *,
        label_config: str | None = None,
        check: Callable[[], None] = lambda: None,
        **kwargs: Any,
    ) -> list[int] | None:
        """Positions of unlabeled tasks in the order in which to label them; None if SCORE isn't `order`.

        Tasks whose images can't be read are left out; those that aren't read within ORDER_SECONDS come last, at random.
        `check` is called regularly and may raise to stop.
        """
        tag = self._tag(label_config)
        if tag is None or shared.settings().score != "order":
            return None
        vectors, late = self._images.read_within(ORDER_SECONDS, tasks, tag, self.backbone, check)
        if not vectors:
            return late
        positions, embeddings = list(vectors), _stacked(vectors.values())
        labeled, doubts = embeddings[:0], None
        if self.classifier:
            digests = [record["digest"] for record in self._live.read_samples()]
            if known := shared.networks().lane.known(self.backbone, digests):
                labeled = _stacked(known)
            doubts = doubt(self.classifier, tag, [tasks[position] for position in positions], embeddings)
        check()
        return [*(positions[row] for row in labeling_order(embeddings, labeled, doubts).tolist()), *late]

    def open_pool(self) -> TaskPool | None:
        """A pool for the project's images, compared by their embeddings; None if the labeling config has no choices."""
        tag = self._tag()
        return TaskPool(self._images, self.backbone, tag) if tag else None

    @classmethod
    def export_problem(cls) -> str:
        """The packages that `export_onnx` lacks, and how to install them; "" if it lacks none."""
        return missing_packages()

    def export_onnx(self, folder: Path, tasks: Sequence[Json]) -> Json:
        """Writes `model.onnx`, `labels.txt` and a script that uses the module, and compares the module with the
        model on the tasks' images.

        Raises BadRequest if a package is missing or the probabilities differ.
        """
        tag, classifier = self._tag(), self.classifier
        if tag is None or classifier is None:
            raise BadRequest("there is no model to export, or the labeling config has no choices")
        fetched = self._images.fetch(tasks, tag)
        paths = [file.path for file in fetched if isinstance(file, ImageFile) and _is_readable(file.path)]
        try:
            compared = write_onnx(classifier, folder / "model.onnx", paths)
        except UsersError as error:
            raise BadRequest(str(error)) from None
        (folder / "labels.txt").write_text("".join(f"{name}\n" for name in classifier.classes), encoding="utf-8")
        shutil.copyfile(EXAMPLE, folder / "example.py")
        return asdict(compared)

    # --- fit ----------------------------------------------------------------

    @_with_errors_for_labelers()
    def fit(
        self,
        completions: Iterable[Json],
        workdir: str | None = None,
        *,
        kind: str = "full",
        given: str = "",
        attempt: int = 1,
        random_sample: Container[int] = (),
        progress: Callable[[Json], None] | None = None,
        publish: Callable[[Json], None] | None = None,
        **kwargs: Any,
    ) -> Json | None:
        """Trains on annotated tasks; returns the resources of the new model, and passes them to `publish`.

        `kind` is `head` to train only the last layer, quickly, or `full` for everything that TRAIN_MODE requests; a
        full run publishes the head first. If `given` equals that of the last full training run, returns None: all seeds
        are fixed, so training would produce the same model. Layers that were fine-tuned before are always trained
        further. `attempt` is more than 1 if the process died before it completed an epoch. The accuracy on the tasks of
        `random_sample` is reported, too. `progress` gets records with `phase`, `epoch`, `epochs`, `loss`, `accuracy`,
        `seconds_left`, and may raise to stop. Raises TrainingError, with a message for labelers, if there are too few
        labels, or if the learning rate is much too high.
        """
        config = parse_label_config(self.label_config, shared.settings().choices)
        if config.image_choices is None:
            raise TrainingError(config.problem)
        run = TrainingRun(
            completions if isinstance(completions, PackedTasks) else PackedTasks(completions),
            self._images,
            self._live,
            self.label_config,
            config.image_choices,
            kind=kind,
            given=given,
            attempt=attempt,
            random_sample=random_sample,
            progress=progress or ignore,
            publish=publish,
            workdir=Path(workdir) if workdir else None,
        )
        return run.run()

    @classmethod
    def adopt(cls, folder: Path, workdir: Path) -> Json:
        """The resources of a model that `python -m image_classifier` trained, copied to `workdir`.

        Raises UsersError or WeightsError, with a message of one sentence, if the folder has no such model.
        """
        return adopt(folder, workdir)


def _stacked(embeddings: Iterable[Embedding]) -> Tensor:
    return torch.from_numpy(np.stack(list(embeddings)))


def _is_readable(path: Path) -> bool:
    try:
        open_image(path, THUMBNAIL)
    except ImageError:
        return False
    return True
