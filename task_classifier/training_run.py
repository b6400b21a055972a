"""One training run: annotated tasks → a version, and perhaps better ones after it."""

import json
import logging
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp

import torch

from image_classifier.data.dataset import Label, Sample, targets_of
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.errors import TooFewLabels
from image_classifier.evaluation.metrics import hits
from image_classifier.first_guess.guess import is_guess
from image_classifier.nets.classifier import FINE_TUNED, Backbone, Classifier, choose_device
from image_classifier.nets.int8 import is_supported
from image_classifier.progress import Progress, Stages, TimeLeft
from image_classifier.settings import ClassifierSettings
from image_classifier.training import update
from image_classifier.training.all_layers import FineTuning, NotBetter, train_all_layers, trains_all_layers
from image_classifier.training.classifier_head import embed, learn_head
from image_classifier.training.correction import correct
from image_classifier.training.half_precision import settle_precision
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.int8_trial import try_int8
from image_classifier.training.labels import check_enough, order_classes
from image_classifier.training.update import Updated, learn_changes
from label_studio_format.labeling_config import ImageChoices, Json
from label_studio_format.training_report import Usage
from my_backend.errors import TrainingError
from my_backend.projects.packed_tasks import PackedTasks
from task_classifier import shared
from task_classifier.labeled_images import LabeledImages, LabelReader, reading_digest
from task_classifier.task_images import TaskImages
from task_classifier.version_files import LiveVersion, VersionWriter

log = logging.getLogger(__name__)

CHECKPOINT_FILE = "checkpoint.safetensors"
FASTER = "The network now computes in 8-bit integers (int8), which is faster; a trial showed the same predictions."


class TrainingRun:
    """Trains the head on annotated tasks and publishes it; a full run may then publish a better or faster version."""

    def __init__(
        self,
        tasks: PackedTasks,
        images: TaskImages,
        live: LiveVersion,
        label_config: str,
        tag: ImageChoices,
        *,
        kind: str,
        given: str,
        attempt: int,
        random_sample: Container[int],
        progress: Progress,
        publish: Callable[[Json], None] | None,
        workdir: Path | None,
    ) -> None:
        """For `kind`, `given`, `attempt`, `random_sample`, `progress` and `publish`, see `ImageClassifierAPI.fit`.

        `workdir` is the folder for the versions; None for a temporary one.
        """
        settings = shared.settings()
        self._tasks, self._images, self._live, self._tag = tasks, images, live, tag
        self._kind, self._given, self._random_sample = kind, given, random_sample
        self._publish_to, self._workdir = publish, workdir
        self._read_with = reading_digest(label_config)
        self._learned = live.read_samples()
        self._hyperparameters = _hyperparameters(settings, attempt)
        self._backbone = self._starting_backbone()
        self._mode = settings.train_mode
        all_layers = kind == "full" and trains_all_layers(self._mode, self._backbone, len(tasks))
        self._report = Stages(TimeLeft(progress), all_layers=all_layers)

    def run(self) -> Json | None:
        """The resources of the last version; None if a full run has the same input as the one whose digest is `given`.

        Raises TrainingError if there are too few labels.
        """
        lane, live = shared.networks().lane, self._live.classifier
        labeled, updated = self._read_labels()
        try:
            if updated is None:
                check_enough(labeled.samples)
            embedded = updated or embed(lane, self._backbone, labeled.samples, self._report)
        except TooFewLabels as error:
            raise TrainingError(f"{error} {labeled.used.left_out()}".strip()) from None
        if isinstance(embedded, Updated):
            told = self._annotation_record(labeled.used, embedded, embedded.classifier.classes)
            return self._publish(self._writer(labeled).save_updated(embedded, told))
        classes = order_classes(embedded.samples, live.classes if live else (), self._tag.choices)
        told = self._annotation_record(labeled.used, embedded, classes)
        if self._kind == "full":
            told["given"] = self._digest_of_given(embedded.samples, labeled.corrected)
            if told["given"] == self._given and self._backbone.origin != FINE_TUNED:
                return None
        writer = self._writer(labeled)
        checkpoint = writer.folder / CHECKPOINT_FILE
        # A correction must be learned.
        guess = live if is_guess(live) and not labeled.corrected else None
        first = learn_head(self._backbone, embedded, classes, self._hyperparameters, self._report, live, guess)
        if is_guess(first):
            return self._publish(writer.save_guess(first, told))
        first = _with_corrections(first, embedded, labeled.corrected)
        output = writer.save(first, None if is_guess(live) else live, embedded.samples, told)
        if not checkpoint.exists():  # otherwise it was published before the process died
            self._publish(output)
        settle_precision(lane, self._backbone, embedded.samples)  # if the trial wasn't made before
        if self._kind == "full":
            output = self._improve(first, output, embedded.samples, labeled.corrected, told, writer, checkpoint)
        return output

    def _starting_backbone(self) -> Backbone:
        """The live version's backbone if it was fine-tuned, or for a quick training run; otherwise the settings' one.

        This way, a correction loads nothing, and changed settings take effect with the next full training run.
        """
        classifier, today = self._live.classifier, shared.settings()
        live = classifier.backbone if classifier else None
        if live is None or live.network != today.network:
            return shared.networks().base
        same_size = live.preprocessing.crop_size == (today.image_size or live.preprocessing.crop_size)
        if live.origin == FINE_TUNED or (self._kind == "head" and same_size and not live.warning):
            return live
        base = shared.networks().base
        return live if live.original == base.fingerprint else base  # the live one may compute in int8

    def _read_labels(self) -> tuple[LabeledImages, Updated | None]:
        """The labeled images; if only a few have changed, also the live classifier after learning just these."""
        may_update = self._may_update()
        known = self._live.read_pages(self._read_with, len(self._learned)) if may_update else {}
        reader = LabelReader(self._images, self._tag, self._backbone, self._learned, self._random_sample, self._report)
        labeled = reader.read(self._tasks, known)
        updated = self._update(labeled) if may_update else None
        if updated is None and labeled.kept:
            labeled = reader.read(self._tasks, {})
            updated = self._update(labeled)  # now that the images of all embeddings are there
        return labeled, updated

    def _may_update(self) -> bool:
        """Whether the live classifier may learn only the changed labels."""
        live = self._live.classifier
        if self._kind != "head" or live is None or is_guess(live) or live.backbone is not self._backbone:
            return False
        enough = len(self._tasks) >= update.FEWEST_LABELS
        return enough and bool(live.record["settings"] == self._hyperparameters.record())

    def _update(self, labeled: LabeledImages) -> Updated | None:
        """The live classifier after learning only the changed labels; None if the head must learn all of them."""
        live, lane = self._live, shared.networks().lane
        assert live.classifier
        images = {sample.image.digest: sample.image for sample in labeled.samples}
        return learn_changes(lane, live.classifier, self._learned, labeled.records(), images, labeled.corrected)

    def _annotation_record(self, used: Usage, embedded: EmbeddedSamples | Updated, classes: Sequence[str]) -> Json:
        """What a version says about its annotations; also logs this, and the images that can't be read."""
        for sample, broken in embedded.broken.items():
            log.warning("task %s: %s", sample.name, broken)
        used.counts["image broken"] = len(embedded.broken)
        used.counts["used"] = len(embedded.samples)
        before = self._live.classifier.classes if self._live.classifier else ()
        told = {**used.record(), "summary": used.summary(before, classes, self._tag.choices)}
        log.info("%s", told["summary"])
        return told

    def _digest_of_given(self, samples: Sequence[Sample], corrected: Iterable[str]) -> str:
        """A digest of what a full training run depends on: the images' content, the labels, the network and the
        settings.

        The tasks' ids count, too, because the mistakes name them.
        """
        labels = sorted(
            json.dumps(
                [one.image.digest, _as_json(one.label), one.source, one.ground_truth, one.at_random, one.part, one.name]
            )
            for one in samples
        )
        program = [version("image-classifier-backend"), torch.__version__, is_supported(choose_device())]
        how = [self._backbone.original, self._hyperparameters.record(), self._mode, program]
        return sha256(json.dumps([labels, sorted(corrected), list(self._tag.choices), how]).encode()).hexdigest()

    def _writer(self, labeled: LabeledImages) -> VersionWriter:
        folder = self._workdir or Path(mkdtemp(prefix="image-classifier-"))
        folder.mkdir(parents=True, exist_ok=True)
        return VersionWriter(self._live, self._learned, labeled, self._read_with, folder)

    def _publish(self, output: Json) -> Json:
        if self._publish_to:
            self._publish_to(output)
        return output

    def _improve(
        self,
        first: Classifier,
        output: Json,
        samples: Sequence[Sample],
        corrected: frozenset[str],
        told: Json,
        writer: VersionWriter,
        checkpoint: Path,
    ) -> Json:
        """Trains all layers and tries int8 if that may pay; returns the resources of the best version."""
        looked_at = sum(sample.evaluates for sample in samples)
        tunes = trains_all_layers(self._mode, self._backbone, looked_at)
        if not (tunes or is_supported(choose_device())):
            return output
        best = first
        with self._images.holding(samples) as held:
            second = self._with_all_layers(first, held, corrected, checkpoint) if tunes else None
            if second:
                # Don't compare with a held-back version: all layers may have learned the same wrong labels.
                compared = self._live.classifier if output["held_back"] else first
                output = self._publish(writer.save(second, compared, held, told))
                best = second
            # Last, so that nobody waits for it.
            faster = None if output["held_back"] else self._in_int8(best, held, corrected)
            if faster:
                told = {**told, "summary": f"{told['summary']} {FASTER}".strip()}
                output = self._publish(writer.save(faster, best, held, told))
        return output

    def _with_all_layers(
        self, first: Classifier, samples: Sequence[Sample], corrected: frozenset[str], checkpoint: Path
    ) -> Classifier | None:
        """The classifier after training all layers; None if a trial or the result isn't better than the head."""
        lane, report = shared.networks().lane, self._report
        try:
            tuning = FineTuning(lane, first, samples, self._hyperparameters, checkpoint, report)
            second = train_all_layers(tuning, mode=self._mode)
        except NotBetter as error:
            log.info("%s", error)
            return None
        second = replace(second, backbone=shared.networks().share(second.backbone))
        if not corrected:
            return second
        return _with_corrections(second, embed(lane, second.backbone, samples, report), corrected)

    def _in_int8(self, best: Classifier, samples: Sequence[Sample], corrected: frozenset[str]) -> Classifier | None:
        """The classifier with a network that computes in 8-bit integers; None if a trial rejects it or is skipped."""
        networks = shared.networks()
        backbone = try_int8(networks.lane, best.backbone, samples, self._report)
        if backbone is None:
            return None
        backbone = networks.share(backbone)
        embedded = embed(networks.lane, backbone, samples, self._report)
        learned = learn_head(backbone, embedded, best.classes, self._hyperparameters, self._report, best)
        return _with_corrections(learned, embedded, corrected)


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


def _as_json(label: Label) -> str | list[str]:
    """The label as JSON; a set of one class differs from the class itself, because it is learned differently."""
    return label if isinstance(label, str) else sorted(label)


def _with_corrections(classifier: Classifier, embedded: EmbeddedSamples, corrected: frozenset[str]) -> Classifier:
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
