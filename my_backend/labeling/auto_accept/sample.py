"""What people's labels of a plan's tasks say: whether predictions may be accepted, and which labels are missing."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Any, Literal

from label_studio_format.annotations import annotations_of, label_of, source_of
from label_studio_format.labeling_config import ImageChoices
from my_backend.labeling.auto_accept.guarantee import Decision, decide
from my_backend.labeling.auto_accept.records import PlannedImage, PlannedPredictions

EXAMPLES = 24  # accepted images that are shown before anything is written

Json = dict[str, Any]

# A task that nobody has annotated; that a person has labeled by itself; that a person has skipped; that has other
# annotations only, for example from a group; that was deleted.
LabelState = Literal["free", "labeled", "skipped", "other", "deleted"]


@dataclass(frozen=True)
class PersonLabel:
    """What Label Studio has about a task: its state, and the choice if it is labeled."""

    state: LabelState
    choice: str = ""


def person_label(task: Json, tag: ImageChoices) -> PersonLabel:
    """What a task's annotations say. Only annotations that a person made while looking at this image alone count."""
    annotations = annotations_of(task)
    if not annotations:
        return PersonLabel("free")
    alone = [one for one in annotations if source_of(one) == "person"]
    label = label_of({**task, "annotations": alone}, tag)
    if label.outcome == "used" and len(label.choices) == 1:
        return PersonLabel("labeled", *label.choices)
    return PersonLabel("skipped" if label.outcome == "skipped" else "other")


@dataclass(frozen=True)
class Sample:
    """What the first images of a plan's order show.

    An image counts as wrong if nobody can tell what it shows: its task was deleted, or a person skipped it.
    Leaving it out would favor the model, because such images are usually hard ones.
    """

    wrong: list[bool]  # of the images at the beginning of the order, up to the first one without a label
    decision: Decision
    open: list[int]  # tasks to label until the next decision
    again: list[int]  # those of them that were labeled, but not by themselves
    lost: list[int]  # tasks that count as wrong since they were deleted or skipped
    gone: list[int] = field(repr=False)  # positions of images that can no longer be accepted

    @property
    def accepted(self) -> list[int]:
        """Positions of the images whose predictions may be accepted."""
        found: list[int] = self.decision.accepted.tolist()
        return found

    @property
    def hopeless(self) -> bool:
        """Whether no further labels can show that the guarantee holds."""
        return not len(self.decision.accepted) and not self.open


def judge(predictions: PlannedPredictions, alpha: float, labels: Mapping[int, PersonLabel]) -> Sample:
    """What the labels say; a task that isn't in `labels` counts as one that nobody has labeled."""
    plan = predictions.plan(alpha)
    images = [predictions.images[number] for number in predictions.order]
    wrong: list[bool] = []
    for image in images:
        right = _is_right(image, labels)
        if right is None:
            break
        wrong.append(not right)
    # People have seen that these predictions are wrong, so they are probably wrong for near-duplicates, too.
    doubted = {image.group for image in images if _is_contradicted(image, labels)}
    gone = [
        number
        for number, image in enumerate(predictions.images)
        if _label_of(image, labels).state != "free" or image.group in doubted
    ]
    decision = decide(plan, wrong, gone)
    left = len(images) - len(wrong)
    # A decision after all images would accept none: then no labels can show that the guarantee holds.
    coming = [] if decision.more >= left else images[len(wrong) : len(wrong) + decision.more]
    asked = [image for image in coming if _is_right(image, labels) is None]
    return Sample(
        wrong,
        decision,
        [image.task for image in asked],
        [image.task for image in asked if _label_of(image, labels).state == "other"],
        [image.task for image in images[: len(wrong)] if _label_of(image, labels).state != "labeled"],
        gone,
    )


def accepted_by_choice(predictions: PlannedPredictions, sample: Sample) -> Counter[str]:
    """How many images would get each choice."""
    return Counter(predictions.images[number].answer for number in sample.accepted)


def examples(predictions: PlannedPredictions, sample: Sample) -> list[PlannedImage]:
    """Some of the images whose predictions would be accepted; the plan's order is random."""
    accepted = set(sample.accepted)
    return [predictions.images[number] for number in islice(filter(accepted.__contains__, predictions.order), EXAMPLES)]


def reach(predictions: PlannedPredictions, labels: Mapping[int, PersonLabel]) -> int:
    """How many images of the order have to be labeled for the next decision."""
    images = (predictions.images[number] for number in predictions.order)
    labeled = sum(1 for _ in takewhile(lambda image: _is_right(image, labels) is not None, images))
    return next((look.labels for look in predictions.looks if look.labels > labeled), labeled)


def _label_of(image: PlannedImage, labels: Mapping[int, PersonLabel]) -> PersonLabel:
    return labels.get(image.task, PersonLabel("free"))


def _is_contradicted(image: PlannedImage, labels: Mapping[int, PersonLabel]) -> bool:
    """Whether people looked at the image and saw something else, or nothing that they could name."""
    return _label_of(image, labels).state != "deleted" and _is_right(image, labels) is False


def _is_right(image: PlannedImage, labels: Mapping[int, PersonLabel]) -> bool | None:
    """Whether people's labels show the prediction to be right; None if the image isn't labeled yet."""
    found = _label_of(image, labels)
    match found.state:
        case "labeled":
            return found.choice == image.answer
        case "skipped" | "deleted":
            return False
    return None
