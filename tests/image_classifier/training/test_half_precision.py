"""Half precision is used if a trial on the project's own images shows the same answers, and not otherwise."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from image_classifier.data.dataset import Sample
from image_classifier.data.image_file import ImageFile
from image_classifier.embedding import lane as lanes
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.lane import InferenceLane
from image_classifier.embedding.precisions import Precisions, fingerprint_of
from image_classifier.nets.classifier import Backbone
from image_classifier.nets.optimize import accelerate
from image_classifier.training import half_precision
from image_classifier.training.half_precision import (
    FEWEST_IMAGES,
    MOST_IMAGES,
    Trial,
    draw,
    settle_precision,
    try_precision,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever processor the tests run on."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": True})


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[InferenceLane]:
    cache = EmbeddingCache(tmp_path / "embeddings")
    lane = InferenceLane(cache, CPU, Precisions(tmp_path / "precisions"))
    yield lane
    lane.close()
    cache.close()


def precision(lane: InferenceLane, backbone: Backbone) -> torch.dtype:
    assert lane.precisions
    return lane.precisions(backbone, CPU)


def test_bfloat16_is_chosen_if_answers_about_the_images_stay(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample]
) -> None:
    settle_precision(lane, backbone, samples)

    assert precision(lane, backbone) == torch.bfloat16


def test_network_that_rounding_harms_stays_in_float32(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def harm(module: nn.Module, device: torch.device, size: int, dtype: torch.dtype = torch.float32) -> nn.Module:
        exact = accelerate(module, device, size, dtype)
        return exact if dtype == torch.float32 else nn.Sequential(exact, nn.Dropout(0.9).train())

    monkeypatch.setattr(lanes, "accelerate", harm)
    settle_precision(lane, backbone, samples)

    assert lane.precisions
    assert lane.precisions.candidates(backbone, CPU) == ()  # chosen, not just still open
    assert precision(lane, backbone) == torch.float32


def test_too_few_images_leave_the_choice_open(lane: InferenceLane, backbone: Backbone, samples: list[Sample]) -> None:
    settle_precision(lane, backbone, samples[: FEWEST_IMAGES - 1] * 2)

    assert lane.precisions
    assert lane.precisions.candidates(backbone, CPU) == (torch.bfloat16,)
    assert precision(lane, backbone) == torch.float32


def test_choice_is_made_once(lane: InferenceLane, backbone: Backbone, samples: list[Sample]) -> None:
    assert lane.precisions
    lane.precisions.choose(backbone, CPU, torch.float32, {}, 200)

    settle_precision(lane, backbone, samples)

    assert precision(lane, backbone) == torch.float32


@pytest.mark.parametrize(
    ("labeled", "broken", "agreements", "images"),
    [
        (50, 0, [1], [20]),
        (50, 0, [0.95, 0.99], [20, 40]),
        (30, 0, [1], [20]),
        (21, 0, [0.95, 0.99], [20, 21]),
        (20, 0, [1], [20]),
        (30, 1, [1, 1], [19, 29]),  # fewer images without a change say less
    ],
)
def test_second_half_is_embedded_only_if_an_answer_changes_in_the_first(
    labeled: int,
    broken: int,
    agreements: list[float],
    images: list[int],
    lane: InferenceLane,
    backbone: Backbone,
    samples: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(half_precision, "FEWEST_IMAGES", 10)
    monkeypatch.setattr(half_precision, "MOST_IMAGES", 40)
    trials = [Trial(n, agreement, agreement, 0.01) for n, agreement in zip(images, agreements, strict=True)]
    compared: list[int] = []

    def answer(some: Sequence[Sample], *_: object) -> Trial:
        compared.append(len(some))
        return trials[len(compared) - 1]

    monkeypatch.setattr(half_precision, "try_precision", answer)
    samples = samples[:labeled]
    for sample in draw(samples, MOST_IMAGES)[:broken]:
        samples[samples.index(sample)] = replace(sample, image=ImageFile(tmp_path / "gone.png", "00"))
    settle_precision(lane, backbone, [*samples, *samples[:5]])  # some images are there twice

    assert compared == images
    assert precision(lane, backbone) == torch.bfloat16
    digests = [sample.image.digest for sample in samples]
    assert len(lane._cache.get(fingerprint_of(backbone, torch.float32), digests)) == images[-1]


def test_images_of_a_trial_are_of_all_classes_whatever_their_order() -> None:
    in_turn = [image % 10 for image in range(1000)]

    assert set(draw(in_turn, MOST_IMAGES)[:50]) == set(range(10))


def around(samples: list[Sample]) -> Tensor:
    """Embeddings near a center for each class."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(3, 64, generator=generator)
    rows = torch.stack([centers[int(str(sample.label))] for sample in samples])
    return rows + 0.05 * torch.randn(len(samples), 64, generator=generator)


@pytest.mark.parametrize("multiple", [False, True])
def test_answers_that_change_on_a_few_images_fail_the_trial(samples: list[Sample], multiple: bool) -> None:
    if multiple:
        samples = [Sample(s.image, frozenset("012") - {str(s.label)}, s.name) for s in samples]
        exact = around([Sample(s.image, next(iter(frozenset("012") - frozenset(s.label)))) for s in samples])
    else:
        exact = around(samples)
    same = try_precision(samples, exact, exact + 1e-4)
    swapped = exact.clone()
    swapped[:3] = exact[1:4]  # images of other classes
    changed = try_precision(samples, exact, swapped)

    assert (same.agreement, same.same) == (1, 1)
    assert same.passed
    assert changed.same == changed.agreement == pytest.approx(1 - 3 / len(samples))
    assert changed.passed is (changed.agreement >= 0.99)
    assert changed.difference > same.difference


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rows", [[0], [0, 3, 6]])
def test_embedding_that_is_not_finite_fails_the_trial(samples: list[Sample], number: float, rows: list[int]) -> None:
    exact = around(samples)
    rounded = exact.clone()
    rounded[rows, 5] = number
    found = try_precision(samples, exact, rounded)
    assert (found.images, found.agreement, found.passed) == (len(samples), 0, False)


def test_network_that_overflows_for_an_image_stays_in_float32(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = torch.tensor(lane.embed(backbone, [samples[0].image])[0])

    class Overflow(nn.Module):
        def forward(self, embeddings: Tensor) -> Tensor:
            is_it = (embeddings - one).abs().max(1).values < 0.05 * one.abs().max()
            return embeddings.masked_fill(is_it[:, None], torch.nan)

    def harm(module: nn.Module, device: torch.device, size: int, dtype: torch.dtype = torch.float32) -> nn.Module:
        exact = accelerate(module, device, size, dtype)
        return exact if dtype == torch.float32 else nn.Sequential(exact, Overflow())

    monkeypatch.setattr(lanes, "accelerate", harm)
    settle_precision(lane, backbone, samples)

    assert lane.precisions
    assert lane.precisions.candidates(backbone, CPU) == ()
    assert precision(lane, backbone) == torch.float32


@pytest.mark.parametrize(("agreement", "passed"), [(1, True), (0.99, True), (0.989, False)])
def test_99_percent_of_the_answers_must_stay(agreement: float, passed: bool) -> None:
    assert Trial(200, agreement, agreement, 0.01).passed is passed
