"""Trains the head on embeddings: SGD with StepLR and explicit arguments."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad
from torch.optim import SGD

from image_classifier.errors import UsersError
from image_classifier.evaluation.metrics import loss_of
from image_classifier.nets.classifier import Head
from image_classifier.progress import Clock, Progress
from image_classifier.threads import one_thread
from image_classifier.training.hyperparameters import HEAD_RATE, Hyperparameters

# For n labels, standard deviations get at least min(STD_FLOOR / n, MAX_STD_FLOOR) of their mean added: a feature that
# hardly varies in a few images may vary in others.
STD_FLOOR, MAX_STD_FLOOR = 30, 0.3
# Weight decay for n labels: the larger of n × FEW_LABELS_DECAY and imbalance × IMBALANCE_DECAY, up to MAX_DECAY and
# HEAD_DECAY / n. More labels need less of it. With very few labels, more of it would make all answers the most common
# class. That is wrong unless the classes are uneven: then a few images of the rare ones tell little about them.
FEW_LABELS_DECAY, IMBALANCE_DECAY, MAX_DECAY, HEAD_DECAY = 0.001, 0.25, 0.1, 30
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
    and may raise to stop. Raises UsersError if the learning rate is much too high.
    """
    rows = torch.arange(len(embeddings))
    return train_heads(
        embeddings, targets, classes, hyperparameters, progress, [rows], repeats=repeats, weights=weights, scales=scales
    )[0]


@one_thread()  # throughout: after each shared operation, torch's other thread would keep its processor busy for a while
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
    """One head for each part (row numbers). A head learns nothing from rows outside its part.

    All take the same steps: a batch comes from the rows of all parts, and each head learns those of its own. So a head
    for part of the rows costs a fraction of one that is trained alone, and differs from one trained on all rows only by
    these. The largest part has `batch_size` rows in a batch on average. Parts should be about equally large, since a
    small one has few rows in each batch. The other arguments are as for `train_head`; `progress` gets the first head's
    records.
    """
    own = torch.zeros(len(parts), len(embeddings), dtype=torch.bool)
    for members, part in zip(own, parts, strict=True):
        members[part] = True
    rows = own.any(0).nonzero().flatten()
    own = own[:, rows]  # [heads, n]
    multiple = targets.is_floating_point()
    inputs, targets = embeddings[rows], targets[rows]
    center = inputs.mean(0)
    inputs -= center  # for precision: each head's own mean is close to it
    wanted = targets if multiple else one_hot(targets, classes).float()
    layers = _Layers(inputs, wanted, own, scales, multiple=multiple)
    counts = torch.zeros(own.shape)
    for count, members in zip(counts, own, strict=True):
        count[members] = 1.0 if multiple else _counts(wanted[members])
    if weights is not None:
        counts *= weights[rows]
    times = torch.ones(len(rows), dtype=torch.long) if repeats is None else repeats[rows]
    a_pass = torch.arange(len(rows)).repeat_interleave(times)
    in_a_pass = (own * times).sum(1)
    counts *= (len(a_pass) / in_a_pass)[:, None]  # a batch has that many fewer rows of the part
    size = math.ceil(hyperparameters.batch_size * len(a_pass) / int(in_a_pass.max()))
    steps = max(HEAD_STEPS, math.ceil(len(a_pass) / size))
    generator = torch.Generator().manual_seed(hyperparameters.seed)
    optimizer = SGD(
        [layers.weight], lr=HEAD_RATE * hyperparameters.learning_rate, momentum=hyperparameters.momentum, fused=True
    )
    scheduler = hyperparameters.scheduler(optimizer)
    clock = Clock(hyperparameters.epochs)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    for epoch in range(hyperparameters.epochs):
        batches = _batches(a_pass, size, steps, generator)
        lengths, order = torch.tensor([len(batch) for batch in batches]), torch.cat(batches)
        shares = counts[:, order] / lengths.repeat_interleave(lengths)
        # Selected for the whole epoch, since each small operation in a step takes about as long as a large one.
        small = (torch.split(each, lengths.tolist(), -1) for each in (wanted[order].T, shares[:, None]))
        for batch, answers, share in zip(batches, *small, strict=True):
            layers.set_gradient(inputs.index_select(0, batch), answers, share)
            optimizer.step()
        scheduler.step()
        loss = float(loss_of(layers(inputs, slice(1))[0].T[own[0]], targets[own[0]]))
        if not math.isfinite(loss):
            raise UsersError(
                f"the loss of the last layer became {loss}: set a lower learning rate (LEARNING_RATE or --lr) than "
                f"{hyperparameters.learning_rate:g}"
            )
        progress({"phase": "training the head", "loss": loss, **clock.after(epoch)})
    return layers.heads(center)


class _Layers:
    """One linear layer for each head. All have the same inputs, and each standardizes them for its own part.

    Inputs [n, size + 1] end with a one, so that `weight` [heads, classes, size + 1] ends with the bias: the answer at
    the part's mean. The standardization is folded into the weights.
    """

    def __init__(self, inputs: Tensor, wanted: Tensor, own: Tensor, scales: Tensor | None, *, multiple: bool) -> None:
        """Each answers every input [n, size] with the class frequencies of its own rows [heads, n] of `wanted`."""
        each_scale = [scale_of(inputs if part.all() else inputs[part]) for part in own]
        mean, std = (torch.stack(each)[:, None] for each in zip(*each_scale, strict=True))
        variance = (std if scales is None else std / scales).square()
        self._mean, self._variance = pad(mean, (0, 1)), pad(variance, (0, 1), value=1.0)  # not of the bias
        rows, images = own.sum(1), own.float() @ wanted  # [heads], [heads, classes]
        imbalances = [0.0 if multiple else imbalance(each) for each in images]
        decay = torch.tensor([weight_decay(n, each) for n, each in zip(rows.tolist(), imbalances, strict=True)])
        self._decay = pad(decay[:, None, None].expand(mean.shape), (0, 1))
        self._multiple = multiple
        # As if half an image more were there: no class is impossible, and none certain.
        frequencies = (images + 0.5) / (rows[:, None] + 1)
        bias = frequencies.logit() if multiple else frequencies.log()
        self.weight = pad(bias[..., None], (inputs.shape[1], 0))

    def __call__(self, inputs: Tensor, heads: slice = slice(None)) -> Tensor:
        """The logits of these heads [heads, classes, n]."""
        weight = self.weight[heads]
        at_zero = weight @ self._mean[heads].mT
        return (weight.flatten(0, 1) @ inputs.T).view(*weight.shape[:2], -1) - at_zero

    def set_gradient(self, inputs: Tensor, wanted: Tensor, shares: Tensor) -> None:
        """The gradient of `loss_of` for a batch [b, size + 1] and its `wanted` 0 and 1 [classes, b].

        Each image has its share [heads, 1, b] of each head's loss. A correction waits for thousands of these, and
        autograd would take three times as long. For both losses, the gradient at the logits is the answer minus what
        is wanted. It is that for standardized inputs, so the weight's is divided by the standard deviation twice.
        """
        logits = self(inputs)
        answers = logits.sigmoid() if self._multiple else logits.softmax(1)
        gradient = (answers - wanted) * shares
        total = (gradient.flatten(0, 1) @ inputs).view_as(self.weight)
        total.addcmul_(total[..., -1:].clone(), self._mean, value=-1).div_(self._variance)
        self.weight.grad = total.addcmul_(self.weight, self._decay)

    def heads(self, center: Tensor) -> list[Head]:
        """The heads for embeddings from which `center` [size] wasn't subtracted."""
        weight = self.weight[..., :-1].clone()
        biases = self.weight[..., -1] - weight @ center - (self.weight @ self._mean.mT)[..., 0]
        return [Head(each, bias.clone()) for each, bias in zip(weight, biases, strict=True)]


def scale_of(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [size] that standardize embeddings [n, size]."""
    std = embeddings.std(0, unbiased=False)
    return embeddings.mean(0), std + 1e-6 + min(MAX_STD_FLOOR, STD_FLOOR / len(embeddings)) * std.mean()


def imbalance(images: Tensor) -> float:
    """How uneven classes with so many images [classes] are: 0 if they are as even as chance allows, at most 1.

    It is the share by which the effective number of classes, the inverse of Simpson's index, is below the number of
    classes that have an image. The index is the share of all pairs of images that are of the same class.
    """
    images = images[images > 0]
    pairs = float((images * (images - 1)).sum())
    if pairs == 0:
        return 0.0
    total = float(images.sum())
    return max(0.0, 1 - total * (total - 1) / pairs / len(images))


def weight_decay(labels: int, imbalance: float = 0.0) -> float:
    """The weight decay of a head that learns so many labels. From 300 on, the imbalance doesn't matter."""
    return min(_decay_of_few(labels, imbalance), HEAD_DECAY / labels)


def usual_temperature(labels: int, imbalance: float = 0.0) -> float:
    """The temperature that such a head usually needs: the less its weights decay, the more overconfident it is."""
    return float((MAX_DECAY / _decay_of_few(labels, imbalance)) ** 0.4)


def _decay_of_few(labels: int, imbalance: float) -> float:
    return min(max(FEW_LABELS_DECAY * labels, IMBALANCE_DECAY * imbalance), MAX_DECAY)


def _counts(wanted: Tensor) -> Tensor:
    """How much each image counts [n], 1 on average: less the more there are of its class, but not that much less."""
    counts = (wanted @ wanted.sum(0)).rsqrt()
    return counts / counts.mean()


def _batches(rows: Tensor, size: int, steps: int, generator: torch.Generator) -> list[Tensor]:
    """The batches of an epoch: the rows in random order, several times if they make too few batches."""
    batches: list[Tensor] = []
    while len(batches) < steps:
        batches += torch.split(rows[torch.randperm(len(rows), generator=generator)], size)
    return batches[:steps]
