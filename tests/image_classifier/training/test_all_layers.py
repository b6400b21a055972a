"""All layers are trained if that pays, which a short trial tells."""

import re
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from image_classifier.data.dataset import Sample, held_out
from image_classifier.embedding.lane import InferenceLane
from image_classifier.evaluation.comparison import Comparison
from image_classifier.nets.classifier import FINE_TUNED, Backbone, Classifier
from image_classifier.progress import ALL_LAYERS, Stages
from image_classifier.settings import TrainMode
from image_classifier.training import all_layers
from image_classifier.training.all_layers import (
    FineTuning,
    NotBetter,
    learn_all_layers,
    train_all_layers,
    trains_all_layers,
    try_all_layers,
)
from image_classifier.training.classifier_head import embed, learn_head
from image_classifier.training.hyperparameters import Hyperparameters

QUICK = Hyperparameters(epochs=2, batch_size=8)
BETTER, WORSE = Comparison(100, 100, 0.8, 0.9, 0.01, 0.1, 0.01), Comparison(100, 100, 0.8, 0.7, 0.01, -0.1, 0.01)


class Stopped(Exception):
    pass


def ignore(record: dict[str, Any]) -> None:
    pass


@pytest.fixture(autouse=True)
def few_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tests can train on few images."""
    monkeypatch.setattr(all_layers, "FEWEST_COMPARED", 2)


@pytest.fixture
def some(samples: list[Sample]) -> list[Sample]:
    return [replace(s, part="val" if row % 3 == 0 else "train") for row, s in enumerate(samples[:30])]


@pytest.fixture
def start(lane: InferenceLane, backbone: Backbone, some: list[Sample]) -> Classifier:
    pretrained = replace(backbone, origin="imagenet")
    return learn_head(pretrained, embed(lane, pretrained, some, ignore), ("0", "1", "2"), QUICK, ignore)


def not_better(reason: str) -> AbstractContextManager[object]:
    return pytest.raises(NotBetter, match=f"^{re.escape(reason)}$")


TRIAL_REFUSED = "skipped training all layers, because a short trial of it wasn't clearly better: "
REFUSED = "training all layers wasn't clearly better: "
WITH_FIGURES = "accuracy 70.0% on 100 held-out images, and 80.0% with only the last layer trained"
NO_IMAGES = "there are no held-out images to compare on"


@pytest.mark.parametrize(
    ("comparison", "outcome"),
    [
        (BETTER, nullcontext()),
        (WORSE, not_better(TRIAL_REFUSED + WITH_FIGURES)),
        (None, not_better(TRIAL_REFUSED + NO_IMAGES)),
    ],
)
def test_trial_on_a_part_decides(
    lane: InferenceLane,
    start: Classifier,
    some: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    comparison: Comparison | None,
    outcome: AbstractContextManager[object],
) -> None:
    seen: list[tuple[Classifier, Classifier, list[Sample]]] = []

    def compare(lane: InferenceLane, *both: Any) -> Comparison | None:
        seen.append(both)
        return comparison

    monkeypatch.setattr(all_layers, "compare", compare)
    monkeypatch.setattr(all_layers, "TRIAL_IMAGES", 12)
    monkeypatch.setattr(all_layers, "TRIAL_HELD_OUT_IMAGES", 7)
    records: list[dict[str, Any]] = []

    with outcome:
        try_all_layers(FineTuning(lane, start, some, QUICK, tmp_path / "checkpoint", records.append))

    [(before, after, tried)] = seen
    assert sorted(held_out(tried)) == [False] * 12 + [True] * 7
    assert before.backbone is start.backbone
    assert after.backbone.fingerprint != before.backbone.fingerprint
    for each in (before, after):
        assert sum(each.record["labels"].values()) == len(tried), "both learn the same part"
    assert {record["phase"] for record in records} == {"trying all layers"}
    assert [record["epoch"] for record in records if "epoch" in record] == [1, 2]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_trial_is_as_short_as_it_says(
    lane: InferenceLane, start: Classifier, some: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_layers, "TRIAL_SECONDS", 0)
    records: list[dict[str, Any]] = []
    with suppress(NotBetter):
        try_all_layers(
            FineTuning(lane, start, some, replace(QUICK, epochs=25), tmp_path / "checkpoint", records.append)
        )
    assert [(r["epoch"], r["epochs"]) for r in records if "epoch" in r] == [(1, all_layers.TRIAL_EPOCHS)]


def test_interrupted_trial_resumes(lane: InferenceLane, start: Classifier, some: list[Sample], tmp_path: Path) -> None:
    def stop(record: dict[str, Any]) -> None:
        if record.get("epoch") == 1:
            raise Stopped

    with pytest.raises(Stopped):
        try_all_layers(FineTuning(lane, start, some, QUICK, tmp_path / "checkpoint", stop))
    records: list[dict[str, Any]] = []
    with suppress(NotBetter):
        try_all_layers(FineTuning(lane, start, some, QUICK, tmp_path / "checkpoint", records.append))
    assert [record["epoch"] for record in records if "epoch" in record] == [2]


def test_random_network_and_begun_training_need_no_trial(
    lane: InferenceLane, start: Classifier, some: list[Sample], tmp_path: Path
) -> None:
    def fail(record: dict[str, Any]) -> None:
        pytest.fail(f"there was a trial: {record}")

    random = replace(start, backbone=replace(start.backbone, origin="random"))
    try_all_layers(FineTuning(lane, random, some, QUICK, tmp_path / "checkpoint", fail))
    (tmp_path / "checkpoint").touch()
    try_all_layers(FineTuning(lane, start, some, QUICK, tmp_path / "checkpoint", fail))


def test_progress_of_the_trial_lies_between_the_head_and_all_layers() -> None:
    done: list[float] = []
    stages = Stages(lambda record: done.append(record["done"]), all_layers=True)
    for phase in ("evaluating", "trying all layers", "training all layers"):
        stages({"phase": phase, "epoch": 1, "epochs": 1})
    ends = dict(ALL_LAYERS)
    assert done == [0.13, ends["trying all layers"], ends["training all layers"]]


def test_all_layers_are_learned_and_the_head_on_top_of_them(
    lane: InferenceLane, start: Classifier, some: list[Sample], tmp_path: Path
) -> None:
    prepared: list[Backbone] = []

    tuned = learn_all_layers(
        FineTuning(lane, start, some, QUICK, tmp_path / "checkpoint", ignore), prepare=prepared.append
    )

    assert prepared == [tuned.backbone]
    assert tuned.backbone.origin == FINE_TUNED
    assert tuned.backbone.fingerprint != start.backbone.fingerprint
    assert not torch.equal(tuned.head.weight, start.head.weight)
    assert tuned.classes == start.classes


def test_new_head_is_trained_at_the_rate_of_the_first_one(
    lane: InferenceLane, start: Classifier, some: list[Sample], tmp_path: Path
) -> None:
    slow = replace(QUICK, learning_rate=QUICK.learning_rate / 100)

    tuned = learn_all_layers(FineTuning(lane, start, some, slow, tmp_path / "checkpoint", ignore))

    on_its_network = learn_head(tuned.backbone, embed(lane, tuned.backbone, some, ignore), start.classes, QUICK, ignore)
    assert torch.equal(tuned.head.weight, on_its_network.head.weight)
    assert tuned.record["settings"] == QUICK.record()


def test_much_too_high_learning_rate_is_named_and_leaves_the_first_model(
    lane: InferenceLane, start: Classifier, some: list[Sample], tmp_path: Path
) -> None:
    high = replace(QUICK, learning_rate=1e9)
    (tmp_path / all_layers.TRIAL_CHECKPOINT).touch()  # of an earlier epoch
    for origin in ("imagenet", "random"):  # in the trial, or later
        first = replace(start, backbone=replace(start.backbone, origin=origin))
        with pytest.raises(NotBetter, match=r"^can't train all layers, because the loss became (nan|inf) at the"):
            train_all_layers(FineTuning(lane, first, some, high, tmp_path / "checkpoint", ignore), mode="full")
    assert not (tmp_path / all_layers.TRIAL_CHECKPOINT).exists()


def test_ended_training_takes_the_best_epoch_so_far(
    lane: InferenceLane, start: Classifier, some: list[Sample], tmp_path: Path
) -> None:
    def stop(record: dict[str, Any]) -> None:
        if record.get("epoch") == 1:
            raise Stopped

    with pytest.raises(Stopped):
        learn_all_layers(FineTuning(lane, start, some, QUICK, tmp_path / "checkpoint", stop))
    records: list[dict[str, Any]] = []
    tuned = learn_all_layers(
        FineTuning(lane, start, some, QUICK, tmp_path / "checkpoint", records.append), more_epochs=False
    )
    assert [record for record in records if record["phase"] == "training all layers"] == []
    assert tuned.backbone.fingerprint != start.backbone.fingerprint


@pytest.mark.parametrize(
    ("mode", "origin", "images", "expected"),
    [
        ("auto", "imagenet", 199, False),
        ("auto", "imagenet", 200, True),
        ("auto", "random", 200, False),
        ("auto", "random", 2000, True),
        ("full", "random", 2, True),
        ("head", "imagenet", 2000, False),
    ],
)
def test_all_layers_are_trained_if_there_are_enough_labels_or_on_request(
    backbone: Backbone, mode: TrainMode, origin: str, images: int, expected: bool
) -> None:
    assert trains_all_layers(mode, replace(backbone, origin=origin), images) is expected


def accepted(samples: list[Sample], part: str, *, left: int) -> list[Sample]:
    """The samples with all labels of a part accepted without review, but for the first ones."""
    rows = [row for row, sample in enumerate(samples) if sample.part == part][left:]
    return [replace(sample, source="unseen") if row in rows else sample for row, sample in enumerate(samples)]


TOO_FEW_TRAINING_IMAGES = (
    "it needs at least 2 images that a person has looked at, in addition to the held-out ones; found 1"
)
TOO_FEW = "at least 2 held-out images are needed to show whether it is better; found"


@pytest.mark.parametrize("origin", ["imagenet", "random"])
@pytest.mark.parametrize(
    ("part", "left", "reason"),
    [
        ("train", 1, TOO_FEW_TRAINING_IMAGES),
        ("val", 1, f"{TOO_FEW} 1 (near-duplicates count as one)"),
        ("val", 0, f"{TOO_FEW} 0 (near-duplicates count as one)"),
    ],
)
def test_all_layers_are_not_tried_with_too_few_images_that_were_looked_at(
    lane: InferenceLane,
    start: Classifier,
    some: list[Sample],
    tmp_path: Path,
    origin: str,
    part: str,
    left: int,
    reason: str,
) -> None:
    def fail(record: dict[str, Any]) -> None:
        pytest.fail(f"it began: {record}")

    few = accepted(some, part, left=left)
    first = replace(start, backbone=replace(start.backbone, origin=origin))
    with not_better(f"skipped training all layers, because {reason}"):
        train_all_layers(FineTuning(lane, first, few, QUICK, tmp_path / "checkpoint", fail), mode="full")


def test_near_duplicates_are_not_enough_to_compare_on(
    lane: InferenceLane, start: Classifier, some: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_layers, "try_all_layers", lambda *given: pytest.fail("there was a trial"))
    alike = [replace(sample, group="0") if sample.part == "val" else sample for sample in some]
    with not_better(f"skipped training all layers, because {TOO_FEW} 1 (near-duplicates count as one)"):
        train_all_layers(FineTuning(lane, start, alike, QUICK, tmp_path / "checkpoint", ignore), mode="full")


def test_trial_takes_only_images_that_were_looked_at(
    lane: InferenceLane, start: Classifier, some: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[list[Sample]] = []
    monkeypatch.setattr(all_layers, "compare", lambda *given: tried.append(given[-1]))
    monkeypatch.setattr(all_layers, "TRIAL_IMAGES", 12)
    monkeypatch.setattr(all_layers, "TRIAL_HELD_OUT_IMAGES", 5)
    few = accepted(accepted(some, "train", left=12), "val", left=5)

    with suppress(NotBetter):
        try_all_layers(FineTuning(lane, start, few, QUICK, tmp_path / "checkpoint", ignore))

    assert {sample.name for sample in tried[0]} == {sample.name for sample in few if sample.evaluates}


def test_trial_without_held_out_images_fails_at_once(
    lane: InferenceLane, start: Classifier, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it has at most one training image of each class, it holds none out."""
    monkeypatch.setattr(all_layers, "TRIAL_IMAGES", 2)
    tuned = replace(start, backbone=replace(start.backbone, origin=FINE_TUNED))

    def fail(record: dict[str, Any]) -> None:
        pytest.fail(f"it began: {record}")

    many = [replace(sample, label=str(row % 14)) for row, sample in enumerate(samples[:56])]
    assert any(held_out(many))
    with not_better(f"skipped training all layers, because {TOO_FEW} 0 (near-duplicates count as one)"):
        try_all_layers(FineTuning(lane, tuned, many, QUICK, tmp_path / "checkpoint", fail))


def test_trial_without_images_of_two_classes_fails(
    lane: InferenceLane, start: Classifier, some: list[Sample], tmp_path: Path
) -> None:
    rare = [replace(s, part="val" if row % 2 else "train") for row, s in enumerate(s for s in some if s.label == "0")]
    with pytest.raises(NotBetter, match="because too few classes are frequent enough for a trial"):
        try_all_layers(FineTuning(lane, start, rare, QUICK, tmp_path / "checkpoint", ignore))


def test_layers_learn_no_image_that_is_held_out_once_there_are_more_labels(
    lane: InferenceLane, start: Classifier, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a class with two images, none is held out; of one with four, some may be."""
    learned: set[Sample] = set()

    def stop(backbone: Backbone, head: object, training: list[Sample], *rest: object, **options: object) -> None:
        learned.update(training)
        raise Stopped

    monkeypatch.setattr(all_layers, "fine_tune", stop)
    more = [replace(sample, label=str(row % 14)) for row, sample in enumerate(samples[:56])]
    with pytest.raises(Stopped):
        learn_all_layers(FineTuning(lane, start, more[:28], QUICK, tmp_path / "checkpoint", ignore))

    out = {sample for sample, is_out in zip(more, held_out(more), strict=True) if is_out}
    assert out & set(more[:28])
    assert learned
    assert not out & learned


@pytest.mark.parametrize(("mode", "epochs"), [("auto", 1), ("full", 2)])
@pytest.mark.parametrize(
    ("comparison", "outcome"),
    [
        (BETTER, nullcontext()),
        (WORSE, not_better(REFUSED + WITH_FIGURES)),
        (None, not_better(REFUSED + NO_IMAGES)),
    ],
)
def test_better_one_is_kept_and_only_auto_has_a_time_limit(
    lane: InferenceLane,
    start: Classifier,
    some: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: TrainMode,
    epochs: int,
    comparison: Comparison | None,
    outcome: AbstractContextManager[object],
) -> None:
    monkeypatch.setattr(all_layers, "AUTO_SECONDS", 0)
    monkeypatch.setattr(all_layers, "try_all_layers", lambda *given: None)
    monkeypatch.setattr(all_layers, "compare", lambda *given: comparison)
    records: list[dict[str, Any]] = []

    with outcome:
        train_all_layers(FineTuning(lane, start, some, QUICK, tmp_path / "checkpoint", records.append), mode=mode)

    trained = [record["epoch"] for record in records if record["phase"] == "training all layers"]
    assert trained == list(range(1, epochs + 1))
