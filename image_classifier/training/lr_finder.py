"""The learning-rate range test: the rate rises with every step, and the loss shows where learning is fastest.

After L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (2017).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD

from image_classifier.data.dataset import ImageClassifierDataset, Sample, targets_of
from image_classifier.evaluation.metrics import loss_of
from image_classifier.nets.classifier import Backbone, Head, choose_device
from image_classifier.progress import Progress
from image_classifier.training.finetune import learns_statistics, shuffled_batches, trainable
from image_classifier.training.head import scale_of
from image_classifier.training.hyperparameters import HEAD_RATE, Hyperparameters

LOWEST, HIGHEST = 1e-6, 1.0  # learning rates of the backbone
STEPS = 80
MEMORY = 0.85  # share of the earlier losses in the smoothed loss
DIVERGED = 3.0  # times the best loss: above this, training has diverged
LEFT = 0.05  # share of a head's fall in loss that is still to come at the chosen rate


@dataclass(frozen=True)
class RateRange:
    """The backbone's learning rate and the smoothed loss for each step, and the rate to train with."""

    rates: list[float]
    losses: list[float]
    chosen: float


def range_of_all_layers(
    backbone: Backbone,
    head: Head,
    samples: Sequence[Sample],
    classes: Sequence[str],
    hyperparameters: Hyperparameters,
    progress: Progress,
) -> RateRange:
    """Runs the range test for all layers on a copy of the network with its trained head.

    The hyperparameters' rate is ignored.
    """
    device = choose_device()
    module, body, last = trainable(backbone, head, hyperparameters.seed)
    module.to(device).train(learns_statistics(backbone))
    preprocessing = backbone.preprocessing
    paths, labels = [sample.image.path for sample in samples], [sample.label for sample in samples]
    dataset = ImageClassifierDataset(paths, labels, classes, preprocessing)
    batches = _forever(dataset, hyperparameters)

    def loss() -> Tensor:
        pixels, targets = next(batches)
        return loss_of(module(preprocessing.normalize(pixels.to(device))), targets.to(device))

    rates, losses = _sweep(body, last, loss, hyperparameters, progress)
    return RateRange(rates, losses, rate_of_all_layers(rates, losses))


def range_of_head(
    embeddings: Tensor,
    samples: Sequence[Sample],
    classes: Sequence[str],
    hyperparameters: Hyperparameters,
    progress: Progress,
    *,
    scales: Tensor | None = None,
) -> RateRange:
    """Runs the range test for a new last layer on embeddings [n, size]; ignores the hyperparameters' rate.

    `scales` [size] is as for `train_head`.
    """
    targets = targets_of([sample.label for sample in samples], classes)
    mean, std = scale_of(embeddings)
    inputs = (embeddings - mean) / (std if scales is None else std / scales)
    generator = torch.Generator().manual_seed(hyperparameters.seed)
    layer = nn.Linear(inputs.shape[1], len(classes))
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)  # a head starts without random noise

    def loss() -> Tensor:
        some = torch.randint(len(inputs), (hyperparameters.batch_size,), generator=generator)
        return loss_of(layer(inputs[some]), targets[some])

    rates, losses = _sweep([], list(layer.parameters()), loss, hyperparameters, progress)
    return RateRange(rates, losses, rate_of_head(rates, losses))


def _forever(dataset: ImageClassifierDataset, hyperparameters: Hyperparameters) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(hyperparameters.seed)
    while True:
        yield from shuffled_batches(dataset, hyperparameters.batch_size, generator)


def _sweep(
    body: list[nn.Parameter],
    last: list[nn.Parameter],
    loss: Callable[[], Tensor],
    hyperparameters: Hyperparameters,
    progress: Progress,
) -> tuple[list[float], list[float]]:
    """Does one step of SGD at each rate, until the loss diverges; returns the rates and the smoothed losses."""
    groups = [{"params": body, "factor": 1}] if body else []
    optimizer = SGD([*groups, {"params": last, "factor": HEAD_RATE}], lr=LOWEST, momentum=hyperparameters.momentum)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    for step, rate in enumerate(np.geomspace(LOWEST, HIGHEST, STEPS).tolist()):
        progress({"phase": "finding the learning rate", "image": step, "images": STEPS})
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * rate
        found = loss()
        if not torch.isfinite(found):
            break
        mean = MEMORY * mean + (1 - MEMORY) * float(found.detach())
        rates.append(rate)
        losses.append(mean / (1 - MEMORY ** (step + 1)))
        if losses[-1] > DIVERGED * min(losses):
            break
        optimizer.zero_grad()
        torch.autograd.backward(found)
        optimizer.step()
    return rates, losses


def rate_of_all_layers(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate where the loss falls fastest, but at most a tenth of the rate where it is lowest.

    If the loss never falls, the default rate.
    """
    lowest = _lowest(losses)
    if lowest is None:
        return Hyperparameters().learning_rate
    steepest = int(np.argmin(np.gradient(losses[: lowest + 1])))
    return _rounded(min(rates[_before(steepest)], rates[lowest] / 10))


def rate_of_head(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate at which the loss has done nearly all of its fall; if it never falls, the default rate.

    A head learns in a few steps at any rate that is high enough, so its loss falls fastest long before the best rate.
    Nor does the lowest loss show that rate: with few images, the loss hardly rises again up to the highest rate.
    """
    lowest = _lowest(losses)
    if lowest is None:
        return Hyperparameters().learning_rate
    low = losses[lowest] + LEFT * (losses[0] - losses[lowest])
    return _rounded(rates[_before(next(step for step, loss in enumerate(losses) if loss <= low))])


def _lowest(losses: Sequence[float]) -> int | None:
    """The step with the lowest loss; None if the loss never falls."""
    lowest = int(np.argmin(losses)) if losses else 0
    return lowest if lowest >= 3 else None


def _before(step: int) -> int:
    """The step whose effect shows at this one, since smoothing delays the fall."""
    return max(0, step - round(MEMORY / (1 - MEMORY)))


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")
