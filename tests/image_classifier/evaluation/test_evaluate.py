"""Which head evaluates which image."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from image_classifier.cli.workbench import Workbench, workbench
from image_classifier.data.dataset import Sample, held_out
from image_classifier.errors import UsersError
from image_classifier.evaluation.evaluate import examine_model
from image_classifier.nets.classifier import Backbone, Classifier, Head
from image_classifier.nets.folder import SavedModel


def ignore(record: dict[str, Any]) -> None:
    pass


def always(number: int, thresholds: tuple[float, ...] = ()) -> Head:
    """Says one class, whatever it sees."""
    bias = torch.full((3,), -5.0)
    bias[number] = 5.0
    return Head(torch.zeros(3, 960), bias, thresholds=thresholds)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    with workbench(tmp_path / "cache") as bench:
        yield bench


def saved(backbone: Backbone, samples: list[Sample], record: dict[str, Any], several: bool = False) -> SavedModel:
    thresholds = (0.5,) * 3 if several else ()
    classifier = Classifier(backbone, always(1, thresholds), always(2, thresholds), ("0", "1", "2"), record)
    return SavedModel(Path("model"), classifier, samples)


def test_each_image_is_evaluated_by_a_head_that_has_not_seen_it(
    bench: Workbench, backbone: Backbone, samples: list[Sample]
) -> None:
    known, unseen = samples[:40], samples[40:50]
    out = [sample for sample, is_out in zip(known, held_out(known), strict=True) if is_out]
    found = examine_model(bench.lane, saved(backbone, known, {}), [*known, *unseen], ignore)
    said = {replace(answer.sample, group=""): answer.predicted for answer in found.answers}
    assert said == dict.fromkeys(unseen, "1") | dict.fromkeys(out, "2")
    assert found.trained_on == 40 - len(out)


def test_a_corrected_image_evaluates_nothing(bench: Workbench, backbone: Backbone, samples: list[Sample]) -> None:
    known = samples[:40]
    out = [sample for sample, is_out in zip(known, held_out(known), strict=True) if is_out]
    record = {"corrections": {out[0].image.digest: 1}}
    found = examine_model(bench.lane, saved(backbone, known, record), known, ignore)
    assert {replace(answer.sample, group="") for answer in found.answers} == set(out[1:])


def test_a_model_that_allows_several_classes_must_name_just_the_right_one(
    bench: Workbench, backbone: Backbone, samples: list[Sample]
) -> None:
    found = examine_model(bench.lane, saved(backbone, [], {}, several=True), samples[:6], ignore)
    assert [(answer.predicted, answer.right) for answer in found.answers] == [
        ("1", False),
        ("1", True),
        ("1", False),
    ] * 2
    assert found.evaluation.accuracy == pytest.approx(1 / 3)
    assert found.evaluation.confusion == []


def test_where_nothing_is_left_to_evaluate_on_that_is_said(
    bench: Workbench, backbone: Backbone, samples: list[Sample]
) -> None:
    known = [sample for sample, is_out in zip(samples, held_out(samples), strict=True) if not is_out][:6]
    model = saved(backbone, known, {})
    with pytest.raises(UsersError, match="of 6 images, it was trained on 6"):
        examine_model(bench.lane, model, known, ignore)
    odd = [replace(samples[0], label="7")]
    with pytest.raises(UsersError, match="has no class 7; its classes are 0, 1, 2"):
        examine_model(bench.lane, model, odd, ignore)
