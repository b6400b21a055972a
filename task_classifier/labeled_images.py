"""Annotated tasks → labeled images to train on."""

import json
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version

from image_classifier.data.dataset import Record, Sample, record_of
from image_classifier.data.image_file import ImageFile
from image_classifier.nets.classifier import Backbone
from image_classifier.training.half_precision import MOST_IMAGES as TRIAL_IMAGES
from image_classifier.training.half_precision import draw, is_due, settle_before_embedding
from label_studio_format.annotations import Label, annotations_of, label_of
from label_studio_format.labeling_config import ImageChoices, Json
from label_studio_format.training_report import Tally, Usage, tally_of
from my_backend.errors import MediaError
from my_backend.projects.packed_tasks import PackedTasks, digest_of, unpacked
from task_classifier import shared
from task_classifier.learned_pages import LearnedPage, find_learned_pages, joined
from task_classifier.task_images import TaskImages


@dataclass(frozen=True)
class LabeledImages:
    """The labeled images, the tasks that were used or left out, and the images corrected outside of Label Studio."""

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
        """The pages that a version with these samples has learned; `records` may lack images that can't be used."""
        names = [record["name"] for record in records[len(self.unread) :]]
        return joined(self.kept, find_learned_pages(names, self.page_of, self.pages))


@dataclass(frozen=True)
class LabelReader:
    """Reads the labels of a project's tasks, and their images, which are embedded meanwhile.

    Images that the live version has `learned` keep their group of near-duplicates.
    """

    images: TaskImages
    tag: ImageChoices
    backbone: Backbone
    learned: Sequence[Record]
    random_sample: Container[int]  # ids of tasks
    report: Callable[[Json], None]

    def read(self, tasks: PackedTasks, known: Mapping[str, LearnedPage]) -> LabeledImages:
        """The labeled images of the tasks.

        The samples of pages that are `known` aren't read again, but taken from those learned.
        """
        pages = [(digest_of(page), page) for page in tasks.pages]
        kept = {digest: known[digest] for digest, _ in pages if digest in known}
        while True:
            unknown = [(digest, page) for digest, page in pages if digest not in kept]
            labeled = self._read_pages(unknown)
            samples = {digest: self.learned[page.first : page.first + page.count] for digest, page in kept.items()}
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
        unread = [_with_current_at_random(record, self.random_sample) for digest in kept for record in samples[digest]]
        return replace(labeled, kept=list(kept.values()), unread=unread)

    def _read_pages(self, pages: Sequence[tuple[str, str]]) -> LabeledImages:
        """The labeled images of these pages, given with their digests."""
        chosen: list[tuple[Json, Label]] = []
        read: list[tuple[str, int, Tally]] = []
        for digest, page in pages:
            labels: list[Label] = []
            before = len(chosen)
            for task in unpacked(page):
                labels.append(label := label_of(task, self.tag))
                if label.outcome == "used":
                    # Of a large project, all annotations don't fit in memory.
                    chosen.append(({**_without_annotations(task), "page": len(read)}, label))
            read.append((digest, len(chosen) - before, tally_of(labels)))
        used = Usage([tally for _, _, tally in read], self.tag.from_name)
        fetched: list[ImageFile | MediaError] = []
        self.report({"phase": "fetching images", "image": 0, "images": len(chosen)})
        self._settle_precision(chosen)
        for some in self.images.read([task for task, _ in chosen], self.tag, self.backbone):
            fetched += [file for file, _ in some]
            embedded = [f for f, vector in some if isinstance(f, ImageFile) and not isinstance(vector, Exception)]
            if embedded:  # now, because the media cache may have lost them by the time all are compared
                shared.networks().lane.thumbnails(embedded)
            self.report({"phase": "fetching images", "image": len(fetched), "images": len(chosen)})
        groups = {record["digest"]: record.get("group", "") for record in self.learned}
        pairs = [
            (task, self._sample(task, label, file, groups.get(file.digest, "")))
            for (task, label), file in zip(chosen, fetched, strict=True)
            if isinstance(file, ImageFile)
        ]
        used.counts["image missing"] = len(chosen) - len(pairs)
        valid = _without_outdated_labels(pairs)
        if len(valid) < len(pairs):
            used.counts["labeled otherwise later"] = len(pairs) - len(valid)
        corrected = frozenset(sample.image.digest for task, sample in valid if task.get("corrected"))
        page_of = {sample.name: task["page"] for task, sample in valid if sample.name}
        return LabeledImages([sample for _, sample in valid], used, corrected, read, page_of)

    def _settle_precision(self, labeled: Sequence[tuple[Json, Label]]) -> None:
        """Chooses the precision by a trial on some of these tasks, before all are embedded: float32 is slower."""
        lane = shared.networks().lane
        if not is_due(lane, self.backbone, len(labeled)):
            return
        some = draw(labeled, TRIAL_IMAGES)
        files = self.images.fetch([task for task, _ in some], self.tag)
        samples = [
            self._sample(task, label, file, "")
            for (task, label), file in zip(some, files, strict=True)
            if isinstance(file, ImageFile)
        ]
        settle_before_embedding(lane, self.backbone, samples)

    def _sample(self, task: Json, label: Label, file: ImageFile, group: str) -> Sample:
        return Sample(
            file,
            label.choices if self.tag.multiple else min(label.choices),
            str(task.get("id") or ""),
            source=label.source,
            ground_truth=label.ground_truth,
            at_random=task.get("id") in self.random_sample,
            group=group,
        )


def reading_digest(label_config: str) -> str:
    """What tasks' labels depend on, apart from the tasks: the labeling config, a setting, and this program."""
    facts = [label_config, shared.settings().choices, version("image-classifier-backend")]
    return sha256(json.dumps(facts).encode()).hexdigest()


def _with_current_at_random(record: Record, random_sample: Container[int]) -> Record:
    """The record, which says whether its task belongs to the random sample now."""
    at_random = record["name"].isdecimal() and int(record["name"]) in random_sample
    if at_random == record.get("at_random", False):
        return record
    others = {name: value for name, value in record.items() if name != "at_random"}
    return {**others, "at_random": True} if at_random else others


def _without_outdated_labels(pairs: list[tuple[Json, Sample]]) -> list[tuple[Json, Sample]]:
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
