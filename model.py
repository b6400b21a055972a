"""ImageClassifierAPI: connects Label Studio's tasks and annotations with the classifier's images and labels."""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from contextvars import copy_context
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from tempfile import mkdtemp
from threading import Lock
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import pad

from image_classifier.data.dataset import (
    Label,
    Record,
    Sample,
    read_records,
    record_of,
    sample_of,
    targets_of,
    write_records,
)
from image_classifier.data.duplicates import group_near_duplicates
from image_classifier.data.image_file import ImageFile
from image_classifier.data.jpeg import as_jpeg
from image_classifier.data.preprocessing import FileGone, ImageError, TooLate, open_image
from image_classifier.embedding.cache import Embedding
from image_classifier.embedding.shards import write_shard
from image_classifier.errors import UsersError
from image_classifier.evaluation.comparison import compare
from image_classifier.evaluation.metrics import hits
from image_classifier.evaluation.predict import ChoiceProbabilities, choose
from image_classifier.first_guess.guess import is_guess
from image_classifier.model_registry import SharedNetworks
from image_classifier.nets.classifier import BACKBONE_FILE, FINE_TUNED, Backbone, Classifier, Mistake, choose_device
from image_classifier.nets.folder import load_model
from image_classifier.nets.int8 import is_supported
from image_classifier.nets.onnx_module import EXAMPLE, missing_packages, write_onnx
from image_classifier.pool.copies import Copies
from image_classifier.pool.groups import doubt_of
from image_classifier.pool.order import labeling_order
from image_classifier.pool.pool import Pool
from image_classifier.progress import Stages, TimeLeft, ignore
from image_classifier.settings import ClassifierSettings, Score, TrainMode
from image_classifier.training import update
from image_classifier.training.all_layers import NotBetter, train_all_layers, trains_all_layers
from image_classifier.training.correction import correct
from image_classifier.training.half_precision import MOST_IMAGES as TRIAL_IMAGES
from image_classifier.training.half_precision import draw, is_due, settle_before_embedding, settle_precision
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.int8_trial import try_int8
from image_classifier.training.pipeline import (
    Embedded,
    TooFewLabels,
    check_enough,
    embed,
    learn_head,
    order_classes,
)
from image_classifier.training.update import Updated, learn_changes
from label_studio_format.annotations import Label as TaskLabel
from label_studio_format.annotations import annotations_of, label_of
from label_studio_format.image_value import image_url
from label_studio_format.labeling_config import ImageChoices, Json, parse_label_config
from label_studio_format.training_report import Tally, Usage, tally_of
from my_backend.errors import BackendError, BadRequest, MediaError, TrainingError
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media import Media, MediaRequest, media_pool, open_media
from my_backend.projects.learned_pages import (
    LearnedPage,
    find_learned_pages,
    joined,
    read_learned_pages,
    write_learned_pages,
)
from my_backend.projects.packed_tasks import PackedTasks, digest_of, unpacked
from my_backend.serving.image_pool import ImagePool, LookAlikes
from my_backend.settings import Settings, explain
from safe_http.session import redact

try:
    from label_studio_ml.model import LabelStudioMLBase
except ModuleNotFoundError:  # only the `label-studio-ml` command needs its base class
    from my_backend.serving.model_api import ModelAPI as LabelStudioMLBase

log = logging.getLogger(__name__)

# label-studio-ml 1.0.9 treats a missing variable as true in some places and as false in others, so that its own /train
# fails after /setup; an empty one is false everywhere. Our server doesn't read it.
os.environ.setdefault("LABEL_STUDIO_ML_BACKEND_V2", "")

SAMPLES_FILE = "samples.json"
PAGES_FILE = "pages.json"
MISTAKES_FILE = "mistakes.json"
THUMBNAIL, PICTURE = 256, 1280  # pixels of the longer side
READ_AT_ONCE = 128  # tasks whose images are fetched while the previous ones are embedded
FOR_THE_NETWORK = 0.25  # of the time for reading images: slow servers must not cost other images their prediction
ORDER_SECONDS = 30.0  # time limit for reading images to order: the next version will find more in the cache
FIRST_GUESS = "first guess from the names of the choices, before any label"
FASTER = "The network now computes in 8-bit integers (int8), which is faster; a trial showed the same predictions."
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)  # a damaged file of a version


Fetched = list[ImageFile | MediaError]
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
        self._media = media or _default_media()
        if embeddings:
            _networks().shards.watch(embeddings)
        folder, guess = self.train_output.get("model_dir"), self.train_output.get("first_guess")
        self._classifier = _networks().load(Path(folder)) if folder else None
        if guess and (tag := self._tag()):
            self._classifier = _guess(tag, guess)

    @classmethod
    def untrained(cls, label_config: str) -> tuple[str, Json] | None:
        """A first guess, if the network can predict some choices from their names."""
        tag = parse_label_config(label_config, _settings().choices).image_choices
        # Loading the network may take minutes; the warm-up does it.
        guess = _guess(tag) if tag and _networks().has_base else None
        if tag is None or guess is None:
            return None
        others = [name for name in tag.choices if name not in guess.classes]
        without = f" It can't guess {', '.join(others)}." if others else ""
        summary = f"A first guess from the names of the choices, made without labels.{without}"
        return FIRST_GUESS, {"first_guess": {"classes": list(guess.classes)}, "summary": summary}

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
        classifier = self._classifier
        results: list[Json | list[Any]] = [[] for _ in tasks]
        if tag is None or classifier is None:
            return results
        vectors = self._embeddings(tasks, tag, classifier.backbone, deadline)
        for position, vector in enumerate(vectors):
            if isinstance(vector, Exception):
                failed(position, str(vector), _reason(vector))
        embedded = {position: vector for position, vector in enumerate(vectors) if not isinstance(vector, Exception)}
        if not embedded:
            return results
        positions, embeddings = list(embedded), torch.from_numpy(np.stack(list(embedded.values())))
        for task_tag, rows in _by_choices(tag, [tasks[position] for position in positions]).items():
            predictions = _predictions(task_tag, _answer(classifier, task_tag, embeddings[rows]), _settings().score)
            for row, predicted in zip(rows, predictions, strict=True):
                results[positions[row]] = predicted
        return results

    def _tag(self, label_config: str | None = None) -> ImageChoices | None:
        return parse_label_config(label_config or self.label_config, _settings().choices).image_choices

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
        classifier = self._classifier
        if tag is None or classifier is None:
            return [{"error": "there is no trained model yet"} for _ in tasks]
        vectors = self._embeddings(tasks, tag, classifier.backbone, deadline)
        return [
            {"error": str(vector)}
            if isinstance(vector, Exception)
            else _classified(_answer(classifier, tag.for_task(task["data"]), torch.tensor(vector)[None]))
            for task, vector in zip(tasks, vectors, strict=True)
        ]

    def _embeddings(
        self, tasks: Sequence[Json], tag: ImageChoices, backbone: Backbone, deadline: float
    ) -> list[Embedding | ImageError | MediaError]:
        """For each task, in order, its image's embedding, or why there is none; failures are logged."""
        read = self._read(tasks, tag, backbone, deadline, background=False)
        vectors = [vector for some in read for _, vector in some]
        for task, vector in zip(tasks, vectors, strict=True):
            if isinstance(vector, ImageError):
                log.warning("%s", _name(task, vector))
        return vectors

    def _read(
        self,
        tasks: Sequence[Json],
        tag: ImageChoices,
        backbone: Backbone,
        deadline: float = float("inf"),
        *,
        background: bool = True,
        level: int = logging.WARNING,
    ) -> Generator[list[tuple[ImageFile | MediaError, Embedding | ImageError | MediaError]], None, None]:
        """For each task, in order and in chunks, its image and the image's embedding, or why there is none.

        `level` is the log level of images that can't be fetched.
        """
        left = deadline - time.monotonic()
        latest = deadline - FOR_THE_NETWORK * left if left < float("inf") else deadline
        pieces = [tasks[start : start + READ_AT_ONCE] for start in range(0, len(tasks), READ_AT_ONCE)]
        for piece, fetched in zip(
            pieces, _ahead(lambda piece: self._fetch(piece, tag, latest, level), pieces), strict=True
        ):
            embedded = self._embed(fetched, backbone, deadline, background)
            # The cache is trimmed by any process, perhaps between the two steps.
            if gone := [position for position, (_, vector) in enumerate(embedded) if isinstance(vector, FileGone)]:
                again = self._fetch([piece[position] for position in gone], tag, latest, level)
                for position, pair in zip(gone, self._embed(again, backbone, deadline, background), strict=True):
                    embedded[position] = pair
            yield embedded

    def _embed(
        self, fetched: Sequence[ImageFile | MediaError], backbone: Backbone, deadline: float, background: bool
    ) -> list[tuple[ImageFile | MediaError, Embedding | ImageError | MediaError]]:
        """Each image with its embedding, or with why there is none."""
        readable = [file for file in fetched if isinstance(file, ImageFile)]
        embedded = iter(_networks().lane.embed(backbone, readable, background=background, deadline=deadline))
        return [(file, next(embedded)) if isinstance(file, ImageFile) else (file, file) for file in fetched]

    def _fetch(
        self, tasks: Sequence[Json], tag: ImageChoices, deadline: float, level: int
    ) -> list[ImageFile | MediaError]:
        """Each task's image; failures are logged, with the task and how to fix it."""
        urls = [image_url(data, tag.field) if isinstance(data := task.get("data"), dict) else None for task in tasks]
        wanted = [MediaRequest(url, task.get("id")) for url, task in zip(urls, tasks, strict=True) if url is not None]
        found = iter(self._media.fetch_all(wanted, deadline))
        files: list[ImageFile | MediaError] = []
        for task, url in zip(tasks, urls, strict=True):
            file = next(found) if url is not None else _no_url(task, tag)
            if isinstance(file, MediaError):
                log.log(level, "%s", file)
                files.append(file)
            else:
                files.append(ImageFile(file.path, file.digest))
        return files

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
        return _networks().lookups if _make_networks.cache_info().currsize else {}

    @classmethod
    def settings(cls) -> ClassifierSettings:
        """The classifier's settings; raises BackendError if one is invalid."""
        return _settings()

    @classmethod
    def warm_up(cls) -> str:
        """Loads the network that first versions start from; returns a warning for the user, or ""."""
        backbone = _networks().base
        _networks().lane.warm_up(backbone)
        return backbone.warning

    @classmethod
    def describe(cls) -> Json:
        """The network and device that compute predictions; `cuda` is the CUDA version that torch was built for."""
        backbone = _networks().base
        device, cuda = choose_device().type, torch.version.cuda or ""
        return {"network": backbone.network, "weights": backbone.origin, "device": device, "cuda": cuda}

    def prepare(self, tasks: Sequence[Json]) -> None:
        """Embeds the tasks' images in advance, so that later predictions are fast."""
        tag = self._tag()
        if tag is None:
            return
        for _ in self._read(tasks, tag, self._backbone):
            pass  # the embeddings are cached

    def embedding_space(self) -> str:
        """The fingerprint of the network in this machine's precision."""
        return _networks().lane.fingerprint(self._backbone)

    def embed(self, pages: Iterable[Sequence[Json]], file: Path, check: Callable[[], None]) -> int:
        """Writes a shard with the embeddings of tasks' images; returns how many tasks' images could be read."""
        tag = self._tag()
        if tag is None:
            raise BadRequest("there are no images to embed: the labeling config has no choices for an image")
        embeddings: dict[str, Embedding] = {}
        readable = 0
        for tasks in pages:
            with closing(self._read(tasks, tag, self._backbone)) as pieces:
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
        if tag is None or _settings().score != "order":
            return None
        classifier, backbone = self._classifier, self._backbone
        vectors, late = self._read_for(ORDER_SECONDS, tasks, tag, backbone, check)
        if not vectors:
            return late
        positions, embeddings = list(vectors), torch.from_numpy(np.stack(list(vectors.values())))
        labeled, doubt = embeddings[:0], None
        if classifier:
            digests = [record["digest"] for record in self._learned()]
            if known := _networks().lane.known(backbone, digests):
                labeled = torch.from_numpy(np.stack(known))
            doubt = torch.zeros(len(positions))
            for task_tag, rows in _by_choices(tag, [tasks[position] for position in positions]).items():
                answer = _answer(classifier, task_tag, embeddings[rows])
                doubt[rows] = answer.doubt() if answer.names else 1.0  # the model knows none of the task's choices
        check()
        return [*(positions[row] for row in labeling_order(embeddings, labeled, doubt).tolist()), *late]

    def open_pool(self) -> "TaskPool | None":
        """A pool for the project's images, compared by their embeddings; None if the labeling config has no choices."""
        tag = self._tag()
        return TaskPool(self, self._backbone, tag) if tag else None

    @classmethod
    def export_problem(cls) -> str:
        """The packages that `export_onnx` lacks, and how to install them; "" if it lacks none."""
        return missing_packages()

    def export_onnx(self, folder: Path, tasks: Sequence[Json]) -> Json:
        """Writes `model.onnx`, `labels.txt` and a script that uses the module, and compares the module with the
        model on the tasks' images.

        Raises BadRequest if a package is missing or the probabilities differ.
        """
        tag, classifier = self._tag(), self._classifier
        if tag is None or classifier is None:
            raise BadRequest("there is no model to export, or the labeling config has no choices")
        fetched = self._fetch(tasks, tag, float("inf"), logging.DEBUG)
        paths = [file.path for file in fetched if isinstance(file, ImageFile) and _is_readable(file.path)]
        try:
            compared = write_onnx(classifier, folder / "model.onnx", paths)
        except UsersError as error:
            raise BadRequest(str(error)) from None
        (folder / "labels.txt").write_text("".join(f"{name}\n" for name in classifier.classes), encoding="utf-8")
        shutil.copyfile(EXAMPLE, folder / "example.py")
        return asdict(compared)

    @property
    def _backbone(self) -> Backbone:
        return self._classifier.backbone if self._classifier else _networks().base

    def _read_for(
        self, seconds: float, tasks: Sequence[Json], tag: ImageChoices, backbone: Backbone, check: Callable[[], None]
    ) -> tuple[dict[int, Embedding], list[int]]:
        """The embeddings of the tasks' images, by position, as many as can be read in this time: a random choice.

        Also returns the positions of the tasks for which the time wasn't enough.
        """
        positions: list[int] = torch.randperm(len(tasks), generator=torch.Generator().manual_seed(0)).tolist()
        end, found, late = time.monotonic() + seconds, dict[int, Embedding](), list[int]()
        wanted = [tasks[position] for position in positions]
        # `predict` reports images that can't be read.
        with closing(self._read(wanted, tag, backbone, end, level=logging.DEBUG)) as pieces:
            for piece in pieces:
                check()
                is_late = time.monotonic() > end - FOR_THE_NETWORK * seconds  # then `_read` fetches nothing more
                for position, (_, vector) in zip(positions[: len(piece)], piece, strict=True):
                    if not isinstance(vector, Exception):
                        found[position] = vector
                    elif is_late:
                        late.append(position)
                del positions[: len(piece)]
                if time.monotonic() > end:
                    break
        return found, late + positions

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
        report = progress or ignore
        config = parse_label_config(self.label_config, _settings().choices)
        if config.image_choices is None:
            raise TrainingError(config.problem)
        settings = _settings()
        hyperparameters = _hyperparameters(settings, attempt)
        backbone = self._backbone_to_grow_from(kind)
        tasks = completions if isinstance(completions, PackedTasks) else PackedTasks(completions)
        mode = settings.train_mode
        report = Stages(TimeLeft(report), all_layers=kind == "full" and trains_all_layers(mode, backbone, len(tasks)))
        learned = self._learned()
        may_update = kind == "head" and self._may_update(tasks, backbone, hyperparameters)
        known = self._known_pages(learned) if may_update else {}
        read = tasks, config.image_choices, backbone, learned, random_sample, report
        labeled = self._labeled(known, *read)
        updated = self._update(labeled, learned) if may_update else None
        if updated is None and labeled.kept:
            labeled = self._labeled({}, *read)
            updated = self._update(labeled, learned)  # now that the images of all embeddings are there
        used = labeled.used
        try:
            if updated is None:
                check_enough(labeled.samples)
            embedded = updated or embed(_networks().lane, backbone, labeled.samples, report)
        except TooFewLabels as error:
            raise TrainingError(f"{error} {used.left_out()}".strip()) from None
        for sample, broken in embedded.broken.items():
            log.warning("task %s: %s", sample.name, broken)
        used.counts["image broken"] = len(embedded.broken)
        used.counts["used"] = len(embedded.samples)
        before = self._classifier.classes if self._classifier else ()
        if isinstance(embedded, Updated):
            classes = embedded.classifier.classes
        else:
            classes = order_classes(embedded.samples, before, config.choices)
        told = {**used.record(), "summary": used.summary(before, classes, config.choices)}
        log.info("%s", told["summary"])
        folder = Path(workdir or mkdtemp(prefix="image-classifier-"))
        if isinstance(embedded, Updated):
            folder.mkdir(parents=True, exist_ok=True)
            output = self._save_updated(embedded, folder / "model", told, labeled)
            if publish:
                publish(output)
            return output
        if kind == "full":
            told["given"] = _given(embedded.samples, labeled.corrected, config.choices, backbone, hyperparameters)
            if told["given"] == given and backbone.origin != FINE_TUNED:
                return None
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / "checkpoint.safetensors"
        # A correction must be learned.
        guess = self._classifier if is_guess(self._classifier) and not labeled.corrected else None
        first = learn_head(backbone, embedded, classes, hyperparameters, report, self._classifier, guess)
        if is_guess(first):
            output = self._save_guess(first, folder, told)
            if publish:
                publish(output)
            return output
        live = None if is_guess(self._classifier) else self._classifier
        first = _with_corrections(first, embedded, labeled.corrected)
        output = self._save(first, live, embedded.samples, folder / "model", told, labeled)
        if publish and not checkpoint.exists():  # published before the process died
            publish(output)
        settle_precision(_networks().lane, backbone, embedded.samples)  # if the trial wasn't made before
        looked_at = sum(sample.evaluates for sample in embedded.samples)
        tunes = trains_all_layers(mode, backbone, looked_at)
        if kind != "full" or not (tunes or is_supported(choose_device())):
            return output
        best = first
        with self._holding(embedded.samples) as held:
            if tunes:
                second = self._with_all_layers(
                    first, held, labeled.corrected, hyperparameters, checkpoint, report, mode
                )
                if second:
                    # Don't compare with a held-back version: all layers may have learned the same wrong labels.
                    compared = live if output["held_back"] else first
                    output = self._save(second, compared, held, folder / "model", told, labeled)
                    best = second
                    if publish:
                        publish(output)
            # Last, so that nobody waits for it.
            faster = None
            if not output["held_back"]:
                faster = self._in_int8(best, held, labeled.corrected, hyperparameters, report)
            if faster:
                told = {**told, "summary": f"{told['summary']} {FASTER}".strip()}
                output = self._save(faster, best, held, folder / "model", told, labeled)
                if publish:
                    publish(output)
        return output

    @staticmethod
    def _with_all_layers(
        first: Classifier,
        samples: Sequence[Sample],
        corrected: frozenset[str],
        hyperparameters: Hyperparameters,
        checkpoint: Path,
        report: Callable[[Json], None],
        mode: TrainMode,
    ) -> Classifier | None:
        """The classifier after training all layers; None if a trial or the result isn't better than the head."""
        lane = _networks().lane
        try:
            second = train_all_layers(lane, first, samples, hyperparameters, checkpoint, report, mode=mode)
        except NotBetter as error:
            log.info("%s", error)
            return None
        second = replace(second, backbone=_networks().share(second.backbone))
        return (
            _with_corrections(second, embed(lane, second.backbone, samples, report), corrected) if corrected else second
        )

    @staticmethod
    def _in_int8(
        best: Classifier,
        samples: Sequence[Sample],
        corrected: frozenset[str],
        hyperparameters: Hyperparameters,
        report: Callable[[Json], None],
    ) -> Classifier | None:
        """The classifier with a network that computes in 8-bit integers; None if a trial rejects it or is skipped."""
        backbone = try_int8(_networks().lane, best.backbone, samples, report)
        if backbone is None:
            return None
        backbone = _networks().share(backbone)
        embedded = embed(_networks().lane, backbone, samples, report)
        learned = learn_head(backbone, embedded, best.classes, hyperparameters, report, best)
        return _with_corrections(learned, embedded, corrected)

    def _may_update(self, tasks: Sized, backbone: Backbone, hyperparameters: Hyperparameters) -> bool:
        """Whether the live classifier may learn only the changed labels."""
        live = self._classifier
        if live is None or is_guess(live) or live.backbone is not backbone or len(tasks) < update.FEWEST_LABELS:
            return False
        return bool(live.record["settings"] == hyperparameters.record())

    def _update(self, labeled: "_Labeled", learned: Sequence[Record]) -> Updated | None:
        """The live classifier after learning only the changed labels; None if the head must learn all of them."""
        assert self._classifier
        images = {sample.image.digest: sample.image for sample in labeled.samples}
        return learn_changes(_networks().lane, self._classifier, learned, labeled.records(), images, labeled.corrected)

    @contextmanager
    def _holding(self, samples: Sequence[Sample]) -> Iterator[list[Sample]]:
        """The samples, whose images stay in the cache meanwhile; those whose image the cache has lost are left out."""
        with self._media.holding([sample.image.path for sample in samples]) as paths:
            held = [
                replace(sample, image=replace(sample.image, path=path))
                for sample, path in zip(samples, paths, strict=True)
                if path
            ]
            if len(held) < len(samples):
                log.warning(
                    "training further without %d of %d images: they are no longer in the cache",
                    len(samples) - len(held),
                    len(samples),
                )
            yield held

    @classmethod
    def adopt(cls, folder: Path, workdir: Path) -> Json:
        """The resources of a model that `python -m image_classifier` trained, copied to `workdir`.

        Raises UsersError or WeightsError, with a message of one sentence, if the folder has no such model.
        """
        saved = load_model(folder)
        output = shutil.copytree(saved.folder, workdir / "model")
        record = saved.classifier.record
        warning = saved.classifier.backbone.warning
        if (network := saved.classifier.backbone.network) != _settings().network:
            also = f"The model is a {network}, but the next training run starts from {_settings().network}: "
            also += f"set NETWORK={network} to keep the network."
            warning = f"{warning} {also}".strip()
        return {
            "model_dir": str(output),
            "classes": list(saved.classifier.classes),
            "figures": record["figures"],
            "labels": record["labels"],
            "sources": record.get("sources", {}),
            "settings": _made_with(saved.classifier),
            "warning": warning,
        }

    def _backbone_to_grow_from(self, kind: str) -> Backbone:
        """The live version's backbone if it was fine-tuned, or for a quick training run; otherwise the settings' one.

        This way, a correction loads nothing, and changed settings take effect with the next full training run.
        """
        live, today = self._classifier.backbone if self._classifier else None, _settings()
        if live is None or live.network != today.network:
            return _networks().base
        same_size = live.preprocessing.crop_size == (today.image_size or live.preprocessing.crop_size)
        if live.origin == FINE_TUNED or (kind == "head" and same_size and not live.warning):
            return live
        base = _networks().base
        return live if live.original == base.fingerprint else base  # the live one may compute in int8

    def _labeled(
        self,
        known: Mapping[str, LearnedPage],
        tasks: PackedTasks,
        tag: ImageChoices,
        backbone: Backbone,
        learned: Sequence[Record],
        random_sample: Container[int],
        report: Callable[[Json], None],
    ) -> "_Labeled":
        """The labeled images of the tasks, as samples; also embeds new images. Those `learned` keep their group.

        The samples of pages that are `known` aren't read again, but taken from those learned.
        """
        pages = [(digest_of(page), page) for page in tasks.pages]
        kept = {digest: known[digest] for digest, _ in pages if digest in known}
        while True:
            unknown = [(digest, page) for digest, page in pages if digest not in kept]
            labeled = self._read_labels(unknown, tag, backbone, learned, random_sample, report)
            samples = {digest: learned[page.first : page.first + page.count] for digest, page in kept.items()}
            # If an image was corrected outside of Label Studio, its other labels count only if they are newer.
            doubtful = {
                digest
                for digest, records in samples.items()
                if labeled.corrected and any(record["digest"] in labeled.corrected for record in records)
            }
            if not doubtful:
                break
            kept = {digest: page for digest, page in kept.items() if digest not in doubtful}
        for page in kept.values():
            labeled.used.include(page.tally)
        unread = [_drawn(record, random_sample) for digest in kept for record in samples[digest]]
        return replace(labeled, kept=list(kept.values()), unread=unread)

    def _read_labels(
        self,
        pages: Sequence[tuple[str, str]],
        tag: ImageChoices,
        backbone: Backbone,
        learned: Sequence[Record],
        random_sample: Container[int],
        report: Callable[[Json], None],
    ) -> "_Labeled":
        """The labeled images of these pages, given with their digests."""
        chosen: list[tuple[Json, TaskLabel]] = []
        read: list[tuple[str, int, Tally]] = []
        for digest, page in pages:
            labels: list[TaskLabel] = []
            before = len(chosen)
            for task in unpacked(page):
                labels.append(label := label_of(task, tag))
                if label.outcome == "used":
                    # Of a large project, all annotations don't fit in memory.
                    chosen.append(({**_without_annotations(task), "page": len(read)}, label))
            read.append((digest, len(chosen) - before, tally_of(labels)))
        used = Usage([tally for _, _, tally in read], tag.from_name)
        fetched: list[ImageFile | MediaError] = []
        report({"phase": "fetching images", "image": 0, "images": len(chosen)})
        self._settle_precision(chosen, tag, backbone)
        for some in self._read([task for task, _ in chosen], tag, backbone):
            fetched += [file for file, _ in some]
            embedded = [f for f, vector in some if isinstance(f, ImageFile) and not isinstance(vector, Exception)]
            if embedded:  # now, because the media cache may have lost them by the time all are compared
                _networks().lane.thumbnails(embedded)
            report({"phase": "fetching images", "image": len(fetched), "images": len(chosen)})
        groups = {record["digest"]: record.get("group", "") for record in learned}
        pairs = [
            (
                task,
                _sample(
                    task,
                    label,
                    file,
                    groups.get(file.digest, ""),
                    at_random=task.get("id") in random_sample,
                    multiple=tag.multiple,
                ),
            )
            for (task, label), file in zip(chosen, fetched, strict=True)
            if isinstance(file, ImageFile)
        ]
        used.counts["image missing"] = len(chosen) - len(pairs)
        valid = _last_words(pairs)
        if len(valid) < len(pairs):
            used.counts["labeled otherwise later"] = len(pairs) - len(valid)
        corrected = frozenset(sample.image.digest for task, sample in valid if task.get("corrected"))
        page_of = {sample.name: task["page"] for task, sample in valid if sample.name}
        return _Labeled([sample for _, sample in valid], used, corrected, read, page_of)

    def _settle_precision(
        self, labeled: Sequence[tuple[Json, TaskLabel]], tag: ImageChoices, backbone: Backbone
    ) -> None:
        """Chooses the precision by a trial on some of these tasks, before all are embedded: float32 is slower."""
        if not is_due(_networks().lane, backbone, len(labeled)):
            return
        some = draw(labeled, TRIAL_IMAGES)
        files = self._fetch([task for task, _ in some], tag, float("inf"), logging.DEBUG)
        samples = [
            _sample(task, label, file, "", at_random=False, multiple=tag.multiple)
            for (task, label), file in zip(some, files, strict=True)
            if isinstance(file, ImageFile)
        ]
        settle_before_embedding(_networks().lane, backbone, samples)

    def _learned(self) -> list[Record]:
        """What the live version was trained on; nothing if there is none or its list can't be read."""
        folder = self.train_output.get("model_dir")
        if self._classifier is None or not folder:
            return []
        try:
            return read_records(Path(folder) / SAMPLES_FILE)
        except UNREADABLE as error:
            log.warning("can't read the images of the live version (%s); near-duplicates are grouped again", error)
            return []

    def _known_pages(self, learned: Sequence[Record]) -> dict[str, LearnedPage]:
        """The pages of tasks that the live version has learned, by digest."""
        return read_learned_pages(Path(self.train_output["model_dir"]) / PAGES_FILE, self._read_with(), len(learned))

    def _read_with(self) -> str:
        """What tasks' labels depend on, apart from the tasks: the labeling config, a setting, and this program."""
        facts = [self.label_config, _settings().choices, version("image-classifier-backend")]
        return sha256(json.dumps(facts).encode()).hexdigest()

    def _save(
        self,
        classifier: Classifier,
        before: Classifier | None,
        samples: Sequence[Sample],
        folder: Path,
        told: Json,
        labeled: "_Labeled",
    ) -> Json:
        """Saves a version and returns its resources, `told` included; held back if it is clearly worse than before."""
        learned_before = map(sample_of, self._learned()) if before is self._classifier else samples
        comparison = compare(_networks().lane, before, classifier, samples, list(learned_before)) if before else None
        held_back = ""
        if comparison and comparison.clearly_worse:
            held_back = (
                f"its accuracy on {comparison.images} held-out images is {comparison.after:.1%}, while the live "
                f"version's is {comparison.before:.1%}; look for labels that were changed by mistake, or activate it "
                "manually"
            )
        return self._write(classifier, [record_of(sample) for sample in samples], folder, told, labeled, held_back)

    def _write(
        self,
        classifier: Classifier,
        records: Sequence[Record],
        folder: Path,
        told: Json,
        labeled: "_Labeled",
        held_back: str = "",
    ) -> Json:
        """Writes a version's files, with the records of its samples, and returns its resources."""
        live = self.train_output.get("model_dir")
        shared = live and self._classifier is not None and self._classifier.backbone is classifier.backbone
        backbone_file = Path(live) / BACKBONE_FILE if shared else None
        # Publishing has moved an earlier model away; without publishing, the last one counts.
        shutil.rmtree(folder, ignore_errors=True)
        classifier.save(folder, backbone_file=backbone_file)
        write_records(folder / SAMPLES_FILE, records)
        write_learned_pages(folder / PAGES_FILE, self._read_with(), len(records), labeled.learned_pages(records))
        return {"model_dir": str(folder), **_described(classifier, folder), **told, "held_back": held_back}

    def _save_updated(self, updated: Updated, folder: Path, told: Json, labeled: "_Labeled") -> Json:
        """Saves a version that has learned only what changed, and returns its resources.

        It isn't compared with the live version: the heads that are compared are the same.
        """
        changed = {sample.name for sample in updated.changed}
        mistakes = tuple(one for one in self._mistakes() if one.name not in changed)
        count = updated.classifier.record["figures"]["labels_since"]
        since = "label was" if count == 1 else f"{count} labels were"
        summary = (
            "The previous version was updated with the new labels; its metrics were measured before the last "
            f"{since} added. A training run on all labels follows once no more labels arrive."
        )
        told = {**told, "summary": f"{told['summary']} {summary}", "updated": True}
        return self._write(replace(updated.classifier, mistakes=mistakes), updated.samples, folder, told, labeled)

    def _mistakes(self) -> list[Mistake]:
        """The live version's disagreements with labels; none if they can't be read."""
        try:
            records = json.loads(Path(self.train_output["mistakes"]).read_text(encoding="utf-8"))
            return [Mistake(**record) for record in records]
        except UNREADABLE:
            return []

    @staticmethod
    def _save_guess(guess: Classifier, folder: Path, told: Json) -> Json:
        """The resources of a version that is a first guess: its calibration, but no model."""
        calibration = {"temperature": guess.head.temperature, "network": guess.backbone.original}
        kept = {"classes": list(guess.classes), **calibration}
        summary = (
            "The first guess from the names of the choices still beats a model trained on the labels. "
            f"{told['summary']}"
        )
        return {"first_guess": kept, **_described(guess, folder), **told, "summary": summary}


def _given(
    samples: Sequence[Sample],
    corrected: Iterable[str],
    choices: Sequence[str],
    backbone: Backbone,
    hyperparameters: Hyperparameters,
) -> str:
    """A digest of what a full training run depends on: the images' content, the labels, the network and the settings.

    The tasks' ids count, too, because the mistakes name them.
    """
    labels = sorted(
        json.dumps(
            [one.image.digest, _json_label(one.label), one.source, one.ground_truth, one.at_random, one.part, one.name]
        )
        for one in samples
    )
    program = [version("image-classifier-backend"), torch.__version__, is_supported(choose_device())]
    how = [backbone.original, hyperparameters.record(), _settings().train_mode, program]
    return sha256(json.dumps([labels, sorted(corrected), list(choices), how]).encode()).hexdigest()


def _json_label(label: Label) -> str | list[str]:
    """The label as JSON; a set of one class differs from the class itself, because it is learned differently."""
    return label if isinstance(label, str) else sorted(label)


def _described(classifier: Classifier, folder: Path) -> Json:
    """The resources that every trained version has; writes its mistakes to the folder."""
    mistakes = [asdict(mistake) for mistake in classifier.mistakes]
    (folder / MISTAKES_FILE).write_text(json.dumps(mistakes, ensure_ascii=False) + "\n", encoding="utf-8")
    return {
        "classes": list(classifier.classes),
        "figures": classifier.record["figures"],
        "labels": classifier.record["labels"],
        "sources": classifier.record["sources"],
        "mistakes": str(folder / MISTAKES_FILE),
        "settings": _made_with(classifier),
        "warning": classifier.backbone.warning,
    }


def _made_with(classifier: Classifier) -> Json:
    """The network and the hyperparameters, for the model card."""
    backbone = classifier.backbone
    return {
        "network": backbone.network,
        "weights": backbone.origin,
        "image_size": backbone.preprocessing.crop_size,
        **({"precision": "int8"} if backbone.int8 else {}),
        **classifier.record.get("settings", {}),
    }


class TaskPool(ImagePool):
    """The images of a project's tasks, compared by the embeddings of one network."""

    def __init__(self, model: ImageClassifierAPI, backbone: Backbone, tag: ImageChoices) -> None:
        """`model` reads the images."""
        self._model, self._backbone, self._tag = model, backbone, tag
        self._pool, self._copies = Pool(backbone.fingerprint), Copies()

    def suits(self, model: Any) -> bool:
        return bool(model._backbone.fingerprint == self._pool.fingerprint)

    def add(self, tasks: Sequence[Json], check: Callable[[], None]) -> list[str | None]:
        digests: list[str | None] = []
        vectors: list[Embedding] = []
        files: list[ImageFile] = []
        # `predict` reports images that can't be read.
        with closing(self._model._read(tasks, self._tag, self._backbone, level=logging.DEBUG)) as pieces:
            for piece in pieces:
                check()
                for file, vector in piece:
                    if isinstance(file, MediaError) or isinstance(vector, Exception):
                        digests.append(None)
                    else:
                        digests.append(file.digest)
                        vectors.append(vector)
                        files.append(file)
        are_compared = files and self._copies.has_room(len(files))
        thumbnails = _networks().lane.thumbnails(files) if are_compared else torch.empty(len(files), 0)
        self._pool.add(vectors)  # all or none: otherwise the caller would lose count after an error
        self._copies.add(thumbnails)
        return digests

    def memory(self, images: int) -> int:
        return self._pool.memory(images)

    def groups(
        self,
        model: Any,
        unlabeled: Sequence[int],
        labels: Mapping[int, str],
        past: Sequence[tuple[int, float]],
        *,
        largest: int,
        count: int,
    ) -> list[LookAlikes]:
        classifier = model._classifier
        learned = _answer(classifier, self._tag, classifier.head.weight[:0]).names if classifier else []
        others = sorted(set(labels.values()) - set(learned))  # which only labeled look-alikes propose
        names = [*learned, *others]
        columns = {name: column for column, name in enumerate(names)}

        def probabilities(embeddings: Tensor) -> Tensor:
            return pad(_answer(classifier, self._tag, embeddings).probabilities, (0, len(others)))

        found = self._pool.groups(
            unlabeled,
            [(image, columns[name]) for image, name in labels.items()],
            probabilities if learned else None,
            doubt=doubt_of(past),
            largest=largest,
            count=count,
        )
        return [
            LookAlikes(
                rows := group.rows.tolist(),
                names[group.proposal] if group.proposal is not None else self._guessed(classifier, rows),
                [None] * len(rows) if group.probabilities is None else group.probabilities.tolist(),
            )
            for group in found
        ]

    def _guessed(self, classifier: Classifier | None, images: Sequence[int]) -> str | None:
        """What a first guess says about all of these images together; None for other models.

        Others have learned that the images look like nothing they know.
        """
        if classifier is None or not is_guess(classifier):
            return None
        names, probabilities = self._answers(classifier, images)
        return names[int(probabilities.mean(0).argmax())] if names else None

    def first(self, model: Any, unlabeled: Sequence[int], known: Sequence[int], count: int) -> list[int]:
        def doubt(embeddings: Tensor) -> Tensor:
            answer = _answer(model._classifier, self._tag, embeddings)
            return answer.doubt() if answer.names else torch.ones(len(embeddings))

        return self._pool.first(unlabeled, known, doubt if model._classifier else None, count)

    def probabilities(self, model: Any, images: Sequence[int]) -> list[dict[str, float]]:
        if not (images and model._classifier):
            return [{} for _ in images]
        names, found = self._answers(model._classifier, images)
        return [dict(zip(names, row, strict=True)) for row in found.tolist()]

    def answers(self, model: Any, images: Sequence[int]) -> list[tuple[str, float]]:
        if not (images and model._classifier):
            return []
        names, best = self._answers(model._classifier, images, _best)
        if not names:
            return []
        sure, columns = best.T.tolist()
        return list(zip((names[int(column)] for column in columns), sure, strict=True))

    def _answers(
        self, classifier: Classifier, images: Sequence[int], reduced: Callable[[Tensor], Tensor] = lambda found: found
    ) -> tuple[Sequence[str], Tensor]:
        """The choices that a model knows, and their probabilities [images, choices], `reduced` to fewer columns."""
        names = _answer(classifier, self._tag, classifier.head.weight[:0]).names

        def probabilities(embeddings: Tensor) -> Tensor:
            return reduced(_answer(classifier, self._tag, embeddings).probabilities.clamp(0, 1))

        return names, self._pool.apply(probabilities, images) if names else torch.empty(len(images), 0)

    def near_duplicates(self, tasks: Iterable[Json], check: Callable[[], None]) -> list[str | None]:
        digests: list[str | None] = []
        thumbnails: list[Tensor] = []
        waiting = iter(tasks)
        while some := list(islice(waiting, READ_AT_ONCE)):
            check()
            files = self._model._fetch(some, self._tag, float("inf"), logging.DEBUG)
            readable = [file for file in files if isinstance(file, ImageFile)]
            digests += [file.digest if isinstance(file, ImageFile) else None for file in files]
            if readable:
                thumbnails.append(_networks().lane.thumbnails(readable))
        known = [digest for digest in digests if digest is not None]
        if not known:
            return digests
        groups = iter(group_near_duplicates(known, [""] * len(known), torch.cat(thumbnails)))
        return [next(groups) if digest is not None else None for digest in digests]

    def copies(self, image: int) -> Sequence[int]:
        return self._copies.of(image)

    def arrange(self, check: Callable[[], None]) -> None:
        self._pool.arrange(check)

    def positions(self, images: Sequence[int]) -> Sequence[tuple[float, float]]:
        x, y = self._pool.positions(images).T.tolist()  # many times faster than a list for each image
        return list(zip(x, y, strict=True))

    def most_alike(self, image: int, among: Sequence[int], count: int) -> list[tuple[int, float]]:
        return self._pool.most_alike(image, among, count)

    def strangeness(self, images: Sequence[int], labeled: Sequence[int]) -> list[float]:
        return self._pool.strangeness(images, labeled)


@dataclass(frozen=True)
class _Labeled:
    """The labeled images, the tasks that were used or left out, and the images that were corrected manually."""

    samples: list[Sample]  # of the pages that were read
    used: Usage
    corrected: frozenset[str]  # their digests
    pages: list[tuple[str, int, Tally]]  # that were read: digest, number of labels, tally
    page_of: dict[str, int]  # a sample's page, by its name
    kept: Sequence[LearnedPage] = ()  # that weren't read
    unread: Sequence[Record] = ()  # the samples of these

    def records(self) -> list[Record]:
        """All samples, first those of the pages that weren't read."""
        return [*self.unread, *map(record_of, self.samples)]

    def learned_pages(self, records: Sequence[Record]) -> list[LearnedPage]:
        """The pages that a version has learned whose samples these are; some of the read images may be missing."""
        names = [record["name"] for record in records[len(self.unread) :]]
        return joined(self.kept, find_learned_pages(names, self.page_of, self.pages))


def _sample(task: Json, label: TaskLabel, file: ImageFile, group: str, *, at_random: bool, multiple: bool) -> Sample:
    return Sample(
        file,
        label.choices if multiple else min(label.choices),
        str(task.get("id") or ""),
        source=label.source,
        ground_truth=label.ground_truth,
        at_random=at_random,
        group=group,
    )


def _drawn(record: Record, random_sample: Container[int]) -> Record:
    """The record, which says whether its task belongs to the random sample now."""
    at_random = record["name"].isdecimal() and int(record["name"]) in random_sample
    if at_random == record.get("at_random", False):
        return record
    others = {name: value for name, value in record.items() if name != "at_random"}
    return {**others, "at_random": True} if at_random else others


def _last_words(pairs: list[tuple[Json, Sample]]) -> list[tuple[Json, Sample]]:
    """Removes labels that contradict a later one, for images that were corrected outside of Label Studio."""
    corrected = {sample.image.digest for task, sample in pairs if task.get("corrected")}
    last = {
        sample.image.digest: sample.label
        for task, sample in sorted(pairs, key=lambda pair: str(pair[0]["annotated_at"]))
        if sample.image.digest in corrected
    }
    return [pair for pair in pairs if last.get(pair[1].image.digest, pair[1].label) == pair[1].label]


def _without_annotations(task: Json) -> Json:
    """The task's image, when its annotations last changed, and whether it was corrected outside of Label Studio."""
    annotated_at = max((str(a.get("updated_at") or "") for a in annotations_of(task)), default="")
    known: Json = {name: task[name] for name in ("id", "data", "corrected") if name in task}
    return {**known, "annotated_at": annotated_at}


def _with_corrections(classifier: Classifier, embedded: Embedded, corrected: frozenset[str]) -> Classifier:
    """Adjusts the served head to get the corrected images right if possible; metrics and comparisons don't change."""
    known = [row for row, sample in enumerate(embedded.samples) if sample.image.digest in corrected]
    if not known:
        return classifier
    targets = targets_of([embedded.samples[row].label for row in known], classifier.classes)
    record = {**classifier.record, "corrections": dict.fromkeys(corrected, 1)}
    classifier = replace(classifier, record=record)
    if hits(classifier.head(embedded.embeddings[known]), targets, classifier.head.thresholds).all():
        return classifier
    done = correct(classifier, embedded.samples, embedded.embeddings, embedded.samples[known[-1]]).classifier
    return replace(classifier, head=done.head, record=done.record)


def _is_readable(path: Path) -> bool:
    try:
        open_image(path, THUMBNAIL)
    except ImageError:
        return False
    return True


def _guess(tag: ImageChoices, calibration: Json | None = None) -> Classifier | None:
    """What the network predicts from the names of the choices.

    `calibration` is from an earlier run; it is ignored if it belongs to another network.
    """
    if tag.multiple:
        return None
    networks, known = _networks(), calibration or {}
    is_its_own = known.get("network", networks.base.original) == networks.base.original  # older ones don't say
    return networks.first_guess(tag.spellings, known.get("temperature") if is_its_own else None)


def _answer(classifier: Classifier, tag: ImageChoices, embeddings: Tensor) -> ChoiceProbabilities:
    return choose(classifier, tag.name_of, multiple=tag.multiple, embeddings=embeddings)


def _best(probabilities: Tensor) -> Tensor:
    """The highest probability of each row, and its column [rows, 2]: all of many images would take gigabytes."""
    best = probabilities.max(1)
    return torch.stack([best.values, best.indices.to(best.values.dtype)], 1)


def _by_choices(tag: ImageChoices, tasks: Sequence[Json]) -> dict[ImageChoices, list[int]]:
    """The positions of tasks by the choices that they offer; several groups only if tasks have their own choices."""
    groups: dict[ImageChoices, list[int]] = {}
    for position, task in enumerate(tasks):
        groups.setdefault(tag.for_task(task["data"]), []).append(position)
    return groups


def _predictions(tag: ImageChoices, answer: ChoiceProbabilities, score: Score) -> list[Json | list[Any]]:
    """A prediction for each image; `[]` if the predicted class isn't one of the tag's choices."""
    if not answer.names:
        return [[] for _ in answer.probabilities]
    return [tag.prediction(names, sure) if names else [] for names, sure in answer.chosen(score)]


def _classified(answer: ChoiceProbabilities) -> Json:
    """One image's prediction in the form that `classify` returns."""
    if not answer.names:
        return {"error": "the model knows none of the labeling config's choices"}
    [(chosen, confidence)] = answer.chosen("probability")
    probabilities = answer.probabilities[0].clamp(0, 1).tolist()
    scores = sorted(zip(answer.names, probabilities, strict=True), key=lambda pair: -pair[1])
    return {
        "prediction": chosen if answer.thresholds is not None else chosen[0],
        "confidence": confidence,
        "scores": {name: round(probability, 4) for name, probability in scores},
    }


def _ahead(fetch: Callable[[Sequence[Json]], Fetched], pieces: Sequence[Sequence[Json]]) -> Iterator[Fetched]:
    """The result of `fetch` for each piece; the next piece is fetched while the caller processes this one."""
    if len(pieces) < 2:
        yield from map(fetch, pieces)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="fetch-ahead") as pool:
        coming = pool.submit(copy_context().run, fetch, pieces[0])  # log lines get the same request id
        for following in pieces[1:]:
            fetched, coming = coming.result(), pool.submit(copy_context().run, fetch, following)
            yield fetched
        yield coming.result()


def _name(task: Json, problem: object) -> str:
    return str(problem) if task.get("id") is None else f"task {task['id']}: {problem}"


def _no_url(task: Json, tag: ImageChoices) -> MediaError:
    value = redact(tag.field if "$" in tag.field else f"${tag.field}")
    return MediaError(_name(task, f'its data has no image URL for value="{value}" of the Image tag'), "no_url")


def _reason(error: ImageError | MediaError) -> str:
    """The reason code under which the error is counted."""
    if isinstance(error, MediaError):
        return error.reason
    return "too_late" if isinstance(error, TooLate) else "unreadable"


def _hyperparameters(settings: ClassifierSettings, attempt: int) -> Hyperparameters:
    """The hyperparameters; each attempt halves the batch, since the process may have run out of memory."""
    return Hyperparameters(
        epochs=settings.epochs,
        batch_size=max(2, settings.batch_size >> (attempt - 1)) if attempt > 1 else settings.batch_size,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        lr_step_size=settings.lr_step_size,
        lr_gamma=settings.lr_gamma,
    )


# --- one of each per process ------------------------------------------------
# Label Studio's stock server creates instances without our arguments, so these can't be passed in.

_making = Lock()


@lru_cache(maxsize=1)
def _settings() -> ClassifierSettings:
    try:
        return ClassifierSettings()
    except ValidationError as error:
        raise BackendError(explain(error)) from None


def _networks() -> SharedNetworks:
    with _making:  # requests may be concurrent
        return _make_networks()


@lru_cache(maxsize=1)
def _make_networks() -> SharedNetworks:
    return SharedNetworks(_settings())


@lru_cache(maxsize=1)
def _default_media() -> Media:
    settings = Settings()
    return open_media(settings, Connections(settings), None, media_pool())
