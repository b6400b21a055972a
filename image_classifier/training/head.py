"""Trains the head on embeddings: SGD with StepLR and explicit arguments."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from image_classifier.evaluation.metrics import loss_of
from image_classifier.nets.classifier import Head
from image_classifier.progress import Clock, Progress
from image_classifier.threads import one_thread
from image_classifier.training.hyperparameters import HEAD_RATE, Hyperparameters

# For n labels, standard deviations get at least min(STD_FLOOR / n, MAX_STD_FLOOR) of their mean added: a feature that
# hardly varies in a few images may vary in others.
STD_FLOOR, MAX_STD_FLOOR = 30, 0.3
# Weight decay for n labels: min(n × FEW_LABELS_DECAY, HEAD_DECAY / n). More labels need less of it; but with very few
# labels, more of it would make all answers the most common class.
HEAD_DECAY, FEW_LABELS_DECAY = 10, 0.001
HEAD_STEPS = 12  # minimum per epoch of the head: 300 in 25 epochs, however few labels there are


def train_head(
    embeddings: Tensor,
    targets: Tensor,
    classes: int,
    hyperparameters: Hyperparameters,
    progress: Progress,
    *,
    repeats: Tensor | None = None,
    weights: Tensor | None = None,
    scales: Tensor | None = None,
) -> Head:
    """Trains a linear layer on embeddings [n, size] and targets: class indices [n], or 0 and 1 [n, classes].

    The embeddings are standardized, and this is folded into the layer, so that it takes them as they are. `scales`
    [size] says how large the standardized numbers are, 1 if not given: smaller ones count less. The layer starts from
    the class frequencies only, without random noise that a few labels couldn't remove. If each image has exactly
    one class, images are weighted by the inverse square root of their class's frequency. An epoch is one pass over the
    images, or several if there are few; `repeats` [n] says how often each image is in a pass, and `weights` [n] how
    much it counts there, 1 if not given. The same arguments give the same head. `progress` gets a record for each epoch
    and may raise to stop.
    """
    rows = torch.arange(len(embeddings))
    return train_heads(
        embeddings, targets, classes, hyperparameters, progress, [rows], repeats=repeats, weights=weights, scales=scales
    )[0]


def train_heads(
    embeddings: Tensor,
    targets: Tensor,
    classes: int,
    hyperparameters: Hyperparameters,
    progress: Progress,
    parts: Sequence[Tensor],
    *,
    repeats: Tensor | None = None,
    weights: Tensor | None = None,
    scales: Tensor | None = None,
) -> list[Head]:
    """One head for each part (row numbers): the one that `train_head` would train on these rows alone.

    All at once: a step is so small that one for several heads takes little longer. All take as many steps as the
    largest part needs. `progress` gets the first head's records.
    """
    multiple = targets.is_floating_point()
    wanted = targets if multiple else one_hot(targets, classes).float()
    each_scale = [scale_of(embeddings[rows]) for rows in parts]
    mean, std = (torch.stack(each)[:, None] for each in zip(*each_scale, strict=True))
    if scales is not None:
        std = std / scales
    layers = _start(embeddings.shape[1], [wanted[rows] for rows in parts], multiple)
    counts = torch.zeros(len(parts), len(embeddings))
    for count, rows in zip(counts, parts, strict=True):
        count[rows] = torch.ones(len(rows)) if multiple else _counts(wanted[rows])
    if weights is not None:
        counts *= weights
    decay = torch.tensor([min(FEW_LABELS_DECAY * len(rows), HEAD_DECAY / len(rows)) for rows in parts])
    passes = parts if repeats is None else [rows.repeat_interleave(repeats[rows]) for rows in parts]
    size = min(hyperparameters.batch_size, max(map(len, passes)))
    steps = max(HEAD_STEPS, *(math.ceil(len(rows) / size) for rows in passes))
    generators = [torch.Generator().manual_seed(hyperparameters.seed) for _ in parts]
    optimizer = SGD(
        [{"params": [layers.weight]}, {"params": [layers.bias]}],
        lr=HEAD_RATE * hyperparameters.learning_rate,
        momentum=hyperparameters.momentum,
        foreach=False,  # joining just two tensors takes longer than it saves
    )
    scheduler = StepLR(optimizer, hyperparameters.lr_step_size, hyperparameters.lr_gamma)
    clock = Clock(hyperparameters.epochs)
    first = embeddings[parts[0]], targets[parts[0]]
    for epoch in range(hyperparameters.epochs):
        with one_thread():
            batches = [_batches(rows, size, steps, each) for rows, each in zip(passes, generators, strict=True)]
            order, share = (torch.stack(each) for each in zip(*batches, strict=True))  # [heads, steps, size]
            counted = counts.gather(1, order.flatten(1)).reshape(share.shape) * share
            for batch, weight in zip(order.unbind(1), counted[..., None].unbind(1), strict=True):
                inputs = embeddings[batch].sub_(mean).div_(std)
                _set_gradient(layers, inputs, wanted[batch], weight, decay, multiple)
                optimizer.step()
        scheduler.step()
        loss = float(loss_of(layers.head(0, mean, std)(first[0]), first[1]))
        progress({"phase": "training the head", "loss": loss, **clock.after(epoch)})
    return [layers.head(number, mean, std) for number in range(len(parts))]


@dataclass(frozen=True)
class _Layers:
    """Several linear layers on standardized embeddings: weight [heads, classes, size], bias [heads, classes]."""

    weight: Tensor
    bias: Tensor

    def head(self, number: int, mean: Tensor, std: Tensor) -> Head:
        """One of them on embeddings as they are; `mean` and `std` are [heads, 1, size]."""
        weight = self.weight[number] / std[number]
        return Head(weight, self.bias[number] - weight @ mean[number, 0])


def scale_of(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [size] that standardize embeddings [n, size]."""
    std = embeddings.std(0, unbiased=False)
    return embeddings.mean(0), std + 1e-6 + min(MAX_STD_FLOOR, STD_FLOOR / len(embeddings)) * std.mean()


def _start(size: int, wanted: Sequence[Tensor], multiple: bool) -> _Layers:
    """Each answers every embedding with the class frequencies of its `wanted`, 0 and 1 [n, classes]."""
    # As if half an image more were there: no class is impossible, and none certain.
    frequencies = torch.stack([(one.sum(0) + 0.5) / (len(one) + 1) for one in wanted])
    weight = torch.zeros(len(wanted), frequencies.shape[1], size)
    return _Layers(weight, frequencies.logit() if multiple else frequencies.log())


def _counts(wanted: Tensor) -> Tensor:
    """How much each image counts [n], 1 on average: less the more there are of its class, but not that much less."""
    counts = (wanted @ wanted.sum(0)).rsqrt()
    return counts / counts.mean()


def _batches(rows: Tensor, size: int, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The batches of an epoch, in random order [steps, size], and the share of each row in its batch.

    The last batch of a pass may have fewer rows than others: the share of what fills it up is 0.
    """
    batches = math.ceil(len(rows) / size)
    share = torch.zeros(batches * size)
    share[: len(rows)] = 1
    share = share.reshape(batches, size)
    share /= share.sum(1, keepdim=True)
    padding = torch.full((batches * size - len(rows),), int(rows[0]))
    passes = math.ceil(steps / batches)
    shuffled = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(passes)]
    order = torch.cat([torch.cat([one, padding]) for one in shuffled]).reshape(-1, size)
    return order[:steps], share.repeat(passes, 1)[:steps]


def _set_gradient(
    layers: _Layers, inputs: Tensor, wanted: Tensor, weights: Tensor, decay: Tensor, multiple: bool
) -> None:
    """The gradient of `loss_of` for a batch of each layer: inputs [heads, b, size], wanted 0 and 1 [heads, b, classes].

    Each image has its weight [heads, b, 1], each layer its weight decay [heads]. A correction waits for thousands of
    these, and autograd would take three times as long. For both losses, the gradient at the logits is the answer minus
    what is wanted.
    """
    logits = torch.baddbmm(layers.bias[:, None], inputs, layers.weight.mT)
    gradient = ((logits.sigmoid() if multiple else logits.softmax(2)) - wanted) * weights
    layers.weight.grad = torch.baddbmm(layers.weight * decay[:, None, None], gradient.mT, inputs)
    layers.bias.grad = gradient.sum(1)
