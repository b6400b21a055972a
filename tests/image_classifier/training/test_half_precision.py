"""Half precision is used where a trial says that the answers stay, and nowhere else."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from image_classifier.nets.classifier import Backbone
from image_classifier.nets.optimize import accelerate
from image_classifier.training import half_precision
from image_classifier.training.half_precision import Precisions, Trial, try_precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever processor the tests run on."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": True})


@pytest.mark.parametrize(("agreement", "difference", "passed"), [(1, 0.05, True), (0.99, 0, False), (1, 0.051, False)])
def test_trial_is_passed_where_answers_and_scores_stay(agreement: float, difference: float, passed: bool) -> None:
    assert Trial(agreement, difference).passed is passed


def test_bfloat16_is_tried_on_a_network_and_passes(backbone: Backbone) -> None:
    trial = try_precision(backbone, CPU, torch.bfloat16)

    assert trial.passed, trial
    assert trial.difference > 0


def test_network_that_rounding_upsets_is_found_out(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def upset(module: nn.Module, device: torch.device, size: int, dtype: torch.dtype = torch.float32) -> nn.Module:
        exact = accelerate(module, device, size, dtype)
        return exact if dtype == torch.float32 else nn.Sequential(exact, nn.Dropout(0.9).train())

    monkeypatch.setattr(half_precision, "accelerate", upset)
    torch.manual_seed(0)

    assert not try_precision(backbone, CPU, torch.bfloat16).passed


def test_head_tells_the_drawn_images_apart(backbone: Backbone) -> None:
    """Else any two precisions would disagree, or agree, by chance."""
    pixels, targets = half_precision._draw(backbone.preprocessing.crop_size)
    with torch.inference_mode():
        embeddings = backbone.module(backbone.preprocessing.normalize(pixels))
    told = half_precision.Hyperparameters()
    head = half_precision.train_head(embeddings[::2], targets[::2], half_precision.CLASSES, told, lambda record: None)

    right = head(embeddings[1::2]).argmax(1) == targets[1::2]

    assert float(right.float().mean()) > 3 / half_precision.CLASSES
    assert targets[::2].bincount().tolist() == targets[1::2].bincount().tolist()


def test_choice_is_kept_with_its_figures(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def attempt(backbone: Backbone, device: torch.device, precision: torch.dtype) -> Trial:
        tried.append(precision)
        return Trial(1.0, 0.01)

    monkeypatch.setattr(half_precision, "try_precision", attempt)
    assert Precisions(tmp_path)(backbone, CPU) == torch.bfloat16
    assert Precisions(tmp_path)(backbone, CPU) == torch.bfloat16
    assert tried == [torch.bfloat16]
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text()) == {
        "chosen": "bfloat16",
        "trials": {"bfloat16": {"agreement": 1.0, "difference": 0.01}},
    }

    path.write_text("damaged")
    assert Precisions(tmp_path)(backbone, CPU) == torch.bfloat16
    assert len(tried) == 2


def test_what_fails_the_trial_is_not_used(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_precision, "try_precision", lambda backbone, device, precision: Trial(0.9, 0.0))

    assert Precisions(tmp_path)(backbone, CPU) == torch.float32


def test_processor_that_cannot_is_not_asked(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Precisions(tmp_path)(backbone, CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})

    assert Precisions(tmp_path)(backbone, CPU) == torch.float32


def test_folder_that_cannot_be_written_costs_only_time(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")

    assert Precisions(tmp_path / "file")(backbone, CPU) == torch.bfloat16
    assert "can't write" in caplog.text
