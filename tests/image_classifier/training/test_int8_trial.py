"""8-bit integers are used if a trial on the project's own images shows the same answers, and not otherwise."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from image_classifier.data.dataset import Sample
from image_classifier.data.preprocessing import Preprocessing
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.lane import InferenceLane
from image_classifier.embedding.precisions import Precisions
from image_classifier.nets import int8
from image_classifier.nets.classifier import FINE_TUNED, Backbone
from image_classifier.nets.int8 import Int8Network, is_supported
from image_classifier.nets.optimize import half_precisions
from image_classifier.nets.stages import add_stages
from image_classifier.progress import Record
from image_classifier.training import int8_trial
from image_classifier.training.half_precision import Trial, settle_precision, try_precision
from image_classifier.training.int8_trial import Int8Trial, try_int8
from tests.broken_disk import failing

CPU = torch.device("cpu")
computes = pytest.mark.skipif(not is_supported(CPU), reason="needs OpenVINO and a processor with VNNI or AMX")


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[InferenceLane]:
    cache = EmbeddingCache(tmp_path / "embeddings")
    lane = InferenceLane(cache, CPU, Precisions(tmp_path / "precisions"))
    yield lane
    lane.close()
    cache.close()


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    """A network of two layers; the mean of the first one is in its embeddings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten()).eval()
    add_stages(module, ["1"])
    return Backbone(module, Preprocessing(32, 32), "random", "1" * 32, "tiny", {"1": 8})


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, samples: list[Sample]) -> list[Sample]:
    """As many images as a trial needs, with limits that this number can prove."""
    monkeypatch.setattr(int8_trial, "FEWEST_IMAGES", len(samples))
    monkeypatch.setattr(int8_trial, "MOST_CHANGED", 0.05)
    monkeypatch.setattr(int8_trial, "SURELY_MOST_CHANGED", 0.2)
    monkeypatch.setattr(int8_trial, "MOST_LOST", 0.05)
    return samples


@pytest.mark.parametrize(
    ("changed", "images", "passed"),
    [(0, 298, False), (0, 299, True), (1, 472, False), (1, 473, True), (5, 1049, True), (6, 1199, False)],
)
def test_half_a_percent_of_answers_may_change_and_surely_not_more_than_one(
    changed: int, images: int, passed: bool
) -> None:
    assert Int8Trial(images, changed, 0.9, 0.9).passed is passed


@pytest.mark.parametrize(("accuracy", "passed"), [(0.95, True), (0.8971, True), (0.8969, False)])
def test_accuracy_may_fall_by_0_003(accuracy: float, passed: bool) -> None:
    assert Int8Trial(2000, 0, 0.9, accuracy).passed is passed


@computes
def test_form_is_chosen_if_answers_stay_and_embeds_under_its_own_name(
    lane: InferenceLane, tiny: Backbone, few: list[Sample]
) -> None:
    found = try_int8(lane, tiny, few, lambda record: None)

    assert found
    exact, rounded = (lane.known(each, [few[0].image.digest])[0] for each in (tiny, found))
    assert exact.shape == rounded.shape == (16 * 4 * 4 + 8,)
    assert exact.tolist() != rounded.tolist()
    assert rounded == pytest.approx(exact, abs=0.05 * float(abs(exact).max()))
    assert try_int8(lane, found, few, lambda record: pytest.fail("it is in int8 already")) is None
    settle_precision(lane, found, few)
    assert lane.precisions
    assert lane.precisions.candidates(found, CPU) == half_precisions(CPU), "nothing was chosen for it"


@computes
def test_harmed_network_is_refused_until_there_are_twice_as_many_images(
    lane: InferenceLane, tiny: Backbone, few: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Harmed(Int8Network):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).roll(1, 1)

    monkeypatch.setattr(int8_trial, "FEWEST_IMAGES", 20)
    monkeypatch.setattr(int8, "Int8Network", Harmed)
    tried: list[Record] = []

    assert try_int8(lane, tiny, few[:20], tried.append) is None
    assert {record["phase"] for record in tried} == {"trying int8"}
    assert try_int8(lane, tiny, few[:39], lambda record: pytest.fail("it was tried again")) is None
    others = [replace(sample, label=f"not {sample.label}") for sample in few[:20]]
    for samples in (few[:40], others):
        tried.clear()
        try_int8(lane, tiny, samples, tried.append)
        assert tried


@computes
def test_too_few_images_leave_it_open(lane: InferenceLane, tiny: Backbone, few: list[Sample]) -> None:
    for backbone, samples in ((tiny, few[:-1]), (replace(tiny, origin=FINE_TUNED), few)):
        assert try_int8(lane, backbone, samples, lambda record: pytest.fail("a trial was made")) is None

    assert try_int8(lane, tiny, few, lambda record: None)


@computes
def test_trial_is_made_on_images_of_all_classes_whatever_their_order(
    lane: InferenceLane, tiny: Backbone, few: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If two classes take turns, every second image is of the same class."""
    one, other = ([sample for sample in few if sample.label == label] for label in sorted({s.label for s in few})[:2])
    in_turn = [sample for pair in zip(one, other, strict=False) for sample in pair][:-1]
    compared: list[Sample] = []

    def note(samples: list[Sample], *embeddings: Tensor) -> Trial:
        compared.extend(samples)
        return try_precision(samples, *embeddings)

    monkeypatch.setattr(int8_trial, "FEWEST_IMAGES", len(in_turn) // 2)
    monkeypatch.setattr(int8_trial, "MOST_IMAGES", len(in_turn) // 2 + 1)
    monkeypatch.setattr(int8_trial, "try_precision", note)
    try_int8(lane, tiny, in_turn, lambda record: None)
    assert len(compared) == len(in_turn) // 2 + 1
    assert {sample.label for sample in compared} == {one[0].label, other[0].label}


@computes
def test_network_that_openvino_cannot_convert_stays_as_it_is(
    lane: InferenceLane, tiny: Backbone, few: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no conversion rule")

    monkeypatch.setattr(int8_trial, "quantize", fail)

    assert try_int8(lane, tiny, few, lambda record: None) is None
    assert try_int8(lane, tiny, few, lambda record: pytest.fail("it was tried again")) is None


@computes
@pytest.mark.parametrize("where", ["folder", "files"])
def test_full_disk_leaves_it_open(
    lane: InferenceLane, tiny: Backbone, few: list[Sample], where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # OpenVINO can't write below a file, either, and raises the same kind of error.
        (tmp_path / "file").touch()
        no_folder = nullcontext(str(tmp_path / "file"))
        patch.setattr(int8, "TemporaryDirectory", failing() if where == "folder" else lambda prefix: no_folder)
        assert try_int8(lane, tiny, few, lambda record: None) is None

    assert "the next training run tries again" in caplog.text
    assert try_int8(lane, tiny, few, lambda record: None)
