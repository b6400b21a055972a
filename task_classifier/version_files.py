"""Saves classifiers as versions and loads them; makes first guesses, and decides whether a version is held back."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from image_classifier.data.dataset import Record, Sample, read_records, record_of, sample_of, write_records
from image_classifier.evaluation.comparison import compare
from image_classifier.nets.classifier import BACKBONE_FILE, Backbone, Classifier, Mistake
from image_classifier.nets.folder import load_model
from image_classifier.training.update import Updated
from label_studio_format.labeling_config import ImageChoices, Json, parse_label_config
from task_classifier import shared
from task_classifier.labeled_images import LabeledImages
from task_classifier.learned_pages import LearnedPage, read_learned_pages, write_learned_pages

log = logging.getLogger(__name__)

MODEL_FOLDER = "model"
SAMPLES_FILE = "samples.json"
PAGES_FILE = "pages.json"
MISTAKES_FILE = "mistakes.json"
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)  # a damaged file of a version


def load_version(resources: Json, label_config: str) -> Classifier | None:
    """The version's classifier; None if there is no version, or if it is a first guess that this config doesn't allow.

    Raises WeightsError if it can't be loaded.
    """
    if calibration := resources.get("first_guess"):
        tag = parse_label_config(label_config, shared.settings().choices).image_choices
        return make_guess(tag, calibration) if tag else None
    folder = resources.get("model_dir")
    return shared.networks().load(Path(folder)) if folder else None


def make_guess(tag: ImageChoices, calibration: Json | None = None) -> Classifier | None:
    """What the network predicts from the names of the choices.

    `calibration` is from an earlier run; it is ignored if it belongs to another network.
    """
    if tag.multiple:
        return None
    networks, known = shared.networks(), calibration or {}
    is_its_own = known.get("network", networks.base.original) == networks.base.original  # older ones don't say
    return networks.first_guess(tag.spellings, known.get("temperature") if is_its_own else None)


@dataclass(frozen=True)
class LiveVersion:
    """The version that predicts now, if there is one."""

    classifier: Classifier | None
    resources: Json

    def read_samples(self) -> list[Record]:
        """What it was trained on; nothing if the list can't be read."""
        folder = self.resources.get("model_dir")
        if self.classifier is None or not folder:
            return []
        try:
            return read_records(Path(folder) / SAMPLES_FILE)
        except UNREADABLE as error:
            log.warning("can't read the images of the live version (%s); near-duplicates are grouped again", error)
            return []

    def read_pages(self, read_with: str, samples: int) -> Mapping[str, LearnedPage]:
        """The pages of tasks that it has learned, by digest; `samples` is the number of its samples."""
        return read_learned_pages(Path(self.resources["model_dir"]) / PAGES_FILE, read_with, samples)

    def read_mistakes(self) -> list[Mistake]:
        """Its disagreements with labels; none if they can't be read."""
        try:
            records = json.loads(Path(self.resources["mistakes"]).read_text(encoding="utf-8"))
            return [Mistake(**record) for record in records]
        except UNREADABLE:
            return []

    def backbone_file(self, backbone: Backbone) -> Path | None:
        """The file of this network, if the version has it."""
        folder = self.resources.get("model_dir")
        if not folder or self.classifier is None or self.classifier.backbone is not backbone:
            return None
        return Path(folder) / BACKBONE_FILE


@dataclass(frozen=True)
class VersionWriter:
    """Saves the versions of one training run in its folder."""

    live: LiveVersion
    learned: Sequence[Record]  # the live version's samples
    labeled: LabeledImages
    read_with: str  # see `reading_digest`
    folder: Path

    def save(self, classifier: Classifier, before: Classifier | None, samples: Sequence[Sample], told: Json) -> Json:
        """Saves a version and returns its resources, `told` included; held back if it is clearly worse than before."""
        learned_before = map(sample_of, self.learned) if before is self.live.classifier else samples
        lane = shared.networks().lane
        comparison = compare(lane, before, classifier, samples, list(learned_before)) if before else None
        held_back = ""
        if comparison and comparison.clearly_worse:
            held_back = (
                f"its accuracy on {comparison.images} held-out images is {comparison.after:.1%}, while the live "
                f"version's is {comparison.before:.1%}; look for labels that were changed by mistake, or activate it "
                "manually"
            )
        return self._write(classifier, [record_of(sample) for sample in samples], {**told, "held_back": held_back})

    def save_updated(self, updated: Updated, told: Json) -> Json:
        """Saves a version that has learned only what changed, and returns its resources.

        It isn't compared with the live version: the heads that are compared are the same.
        """
        changed = {sample.name for sample in updated.changed}
        mistakes = tuple(one for one in self.live.read_mistakes() if one.name not in changed)
        count = updated.classifier.record["figures"]["labels_since"]
        since = "label was" if count == 1 else f"{count} labels were"
        summary = (
            "The previous version was updated with the new labels; its metrics were measured before the last "
            f"{since} added. A training run on all labels follows once no more labels arrive."
        )
        told = {**told, "summary": f"{told['summary']} {summary}", "updated": True, "held_back": ""}
        return self._write(replace(updated.classifier, mistakes=mistakes), updated.samples, told)

    def save_guess(self, guess: Classifier, told: Json) -> Json:
        """The resources of a version that is a first guess: its calibration, but no model."""
        calibration = {"temperature": guess.head.temperature, "network": guess.backbone.original}
        kept = {"classes": list(guess.classes), **calibration}
        summary = (
            "The first guess from the names of the choices still beats a model trained on the labels. "
            f"{told['summary']}"
        )
        return {"first_guess": kept, **_write_mistakes_and_describe(guess, self.folder), **told, "summary": summary}

    def _write(self, classifier: Classifier, records: Sequence[Record], told: Json) -> Json:
        """Writes a version's files, with the records of its samples, and returns its resources."""
        folder = self.folder / MODEL_FOLDER
        # Publishing has moved an earlier model away; without publishing, the last one counts.
        shutil.rmtree(folder, ignore_errors=True)
        classifier.save(folder, backbone_file=self.live.backbone_file(classifier.backbone))
        write_records(folder / SAMPLES_FILE, records)
        write_learned_pages(folder / PAGES_FILE, self.read_with, len(records), self.labeled.learned_pages(records))
        return {"model_dir": str(folder), **_write_mistakes_and_describe(classifier, folder), **told}


def adopt(folder: Path, workdir: Path) -> Json:
    """The resources of a model that `python -m image_classifier` trained, copied to `workdir`.

    Raises UsersError or WeightsError, with a message of one sentence, if the folder has no such model.
    """
    saved = load_model(folder)
    output = shutil.copytree(saved.folder, workdir / MODEL_FOLDER)
    record = saved.classifier.record
    warning = saved.classifier.backbone.warning
    network, next_one = saved.classifier.backbone.network, shared.settings().network
    if network != next_one:
        also = f"The model is a {network}, but the next training run starts from {next_one}: "
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


def _write_mistakes_and_describe(classifier: Classifier, folder: Path) -> Json:
    """Writes the mistakes to the folder; the resources that trained versions and first guesses have in common."""
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
