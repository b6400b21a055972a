"""The learning-rate range test: it finds a rate that learns, and runs away from none."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from image_classifier.data.dataset import Sample
from image_classifier.data.image_file import ImageFile
from image_classifier.nets.classifier import Backbone, Head
from image_classifier.training import lr_finder
from image_classifier.training.head import train_head
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.lr_finder import (
    HIGHEST,
    LOWEST,
    STEPS,
    range_of_all_layers,
    range_of_head,
    rate_of_all_layers,
    rate_of_head,
)

FEW_STEPS = 16  # each takes a tenth of a second with all layers
TOLD = Hyperparameters(epochs=4, batch_size=8)


def ignore(record: dict[str, Any]) -> None:
    """Progress that nobody looks at."""


def clusters(images: int = 60) -> tuple[torch.Tensor, list[Sample]]:
    """Embeddings of three classes that are easily told apart."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 64, generator=generator)
    rows = centres[torch.arange(images) % 3] + 0.3 * torch.randn(images, 64, generator=generator)
    samples = [Sample(ImageFile.__new__(ImageFile), "abc"[number % 3]) for number in range(images)]
    return rows, samples


def test_rate_that_is_found_for_the_head_learns() -> None:
    embeddings, samples = clusters()
    found = range_of_head(embeddings, samples, "abc", TOLD, ignore)
    targets = torch.arange(len(samples)) % 3
    hyperparameters = Hyperparameters(epochs=4, batch_size=8, learning_rate=found.chosen)
    head = train_head(embeddings, targets, 3, hyperparameters, ignore)
    assert (head(embeddings).argmax(1) == targets).float().mean() > 0.95
    assert LOWEST < found.chosen < HIGHEST
    assert found == range_of_head(embeddings, samples, "abc", TOLD, ignore)


@pytest.mark.parametrize("images", [60, 1400])
def test_rate_found_for_the_head_is_as_good_as_the_default_rate(images: int) -> None:
    digits = load_digits()
    some = np.random.default_rng(0).permutation(len(digits.target))
    embeddings = torch.tensor(digits.data[some], dtype=torch.float32)
    targets = torch.tensor(digits.target[some])
    samples = [Sample(ImageFile.__new__(ImageFile), str(target)) for target in targets.tolist()[:images]]
    found = range_of_head(embeddings[:images], samples, "0123456789", Hyperparameters(), ignore)

    def accuracy(hyperparameters: Hyperparameters) -> float:
        head = train_head(embeddings[:images].clone(), targets[:images], 10, hyperparameters, ignore)
        return float((head(embeddings[images:]).argmax(1) == targets[images:]).float().mean())

    assert accuracy(Hyperparameters(learning_rate=found.chosen)) > accuracy(Hyperparameters()) - 0.003


def test_rates_rise_and_all_layers_are_told_of_none(
    backbone: Backbone, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lr_finder, "STEPS", FEW_STEPS)
    records: list[dict[str, Any]] = []
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    head = Head(torch.zeros(3, 960), torch.zeros(3))
    torch.manual_seed(3)
    found = range_of_all_layers(backbone, head, samples[:24], "012", TOLD, records.append)
    again = range_of_all_layers(backbone, head, samples[:24], "012", TOLD, ignore)
    assert found == again
    assert found.rates == sorted(found.rates)
    assert found.rates[0] == pytest.approx(LOWEST)
    assert len(found.rates) == len(found.losses)
    assert LOWEST <= found.chosen <= 0.1
    assert {record["images"] for record in records} == {FEW_STEPS}
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.module.state_dict().items())


def test_of_a_curve_with_a_fall_the_rate_is_before_its_bottom() -> None:
    rates = np.geomspace(LOWEST, HIGHEST, STEPS).tolist()
    losses = [1.0] * 40 + np.linspace(1.0, 0.2, 20).tolist() + np.linspace(0.2, 3, 20).tolist()
    chosen = rate_of_all_layers(rates, losses)
    assert rates[30] < chosen <= rates[59] / 10


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, 2.0, 3.0, 4.0]])
def test_where_the_loss_never_falls_the_usual_rate_is_taken(losses: list[float]) -> None:
    rates = [1e-6, 1e-5, 1e-4, 1e-3][: len(losses)]
    assert rate_of_all_layers(rates, losses) == rate_of_head(rates, losses) == Hyperparameters().learning_rate


def test_loss_that_runs_away_ends_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lr_finder, "HIGHEST", 1e9)
    embeddings, samples = clusters()
    apart = torch.randperm(len(samples), generator=torch.Generator().manual_seed(1))  # nothing is to be learned
    found = range_of_head(embeddings[apart], samples, "abc", TOLD, ignore)
    assert len(found.rates) < STEPS
