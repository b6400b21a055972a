"""Trains a network's layers on images: SGD with StepLR, resumable after each epoch."""

import copy
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader

from image_classifier.data.dataset import ImageClassifierDataset, Sample
from image_classifier.data.preprocessing import Source, decoding_threads
from image_classifier.evaluation.metrics import THRESHOLD, hits, loss_of
from image_classifier.nets.architectures import Bare, UnknownNetwork, check_size
from image_classifier.nets.classifier import FINE_TUNED, RANDOM, Backbone, Head, choose_device, make_backbone
from image_classifier.nets.optimize import mixed_precision
from image_classifier.progress import Clock, Progress
from image_classifier.training.augmentation import Augmentation
from image_classifier.training.checkpoint import TrainingState
from image_classifier.training.hyperparameters import HEAD_RATE, Hyperparameters

PATIENCE = 8  # epochs without improvement: by then StepLR has lowered the learning rate once
SMALL_IMAGE = 160  # pixels; for larger images, all layers are trained on a smaller square
TRAINING_SHARE = 0.79  # size of that square, relative to the square used for predictions
# Share of a pretrained network's parameters that are trained: the upper layers, such as ResNet18's last stage. Those
# below see edges and textures, which a few hundred images can't improve.
UPPER_SHARE = 0.75
FUTILE_SECONDS = 900.0  # a training run that hasn't reached the head's accuracy by then ends
GPU_BATCHES_AHEAD = 3  # decoded while the GPU computes; a CPU has no core left for that
KEPT_IMAGES = 512  # held-out images that stay decoded, about 75 MB: they are evaluated after each epoch


@dataclass(frozen=True)
class FineTuned:
    """The backbone of the best epoch, and that epoch's accuracy on the held-out images (0 to 1)."""

    backbone: Backbone
    accuracy: float
    epoch: int


class Diverged(Exception):
    """The loss has become infinite or NaN; the message says what to change."""


def fine_tune(
    backbone: Backbone,
    head: Head,
    training: Sequence[Sample],
    held_out: Sequence[Sample],
    classes: Sequence[str],
    hyperparameters: Hyperparameters,
    checkpoint: Path,
    progress: Progress,
    *,
    seconds: float = float("inf"),
    to_reach: float = 0.0,
) -> FineTuned:
    """Trains layers from a backbone and its trained head; keeps the epoch that is best on the held-out images.

    If the backbone has random weights, it trains all layers; if it is pretrained, the upper ones. Ends early if the
    accuracy stops improving, if `seconds` have passed, or if no epoch has reached the accuracy `to_reach` after
    FUTILE_SECONDS.

    After each epoch the whole state is saved to `checkpoint`, a safetensors file; if it already exists, training
    resumes from it and ends with the same weights as without the interruption. `progress` gets a record for each epoch
    and may raise to stop. Raises Diverged if the learning rate is much too high.
    """
    device = choose_device()
    module, body, last = trainable(backbone, head, hyperparameters.seed)
    memory_format = _memory_format(module, device)
    module.to(device).to(memory_format=memory_format)

    def inputs(pixels: Tensor) -> Tensor:
        return backbone.preprocessing.normalize(pixels.to(device)).contiguous(memory_format=memory_format)

    rate = hyperparameters.learning_rate
    optimizer = SGD(
        [{"params": body, "lr": rate}, {"params": last, "lr": HEAD_RATE * rate}],
        momentum=hyperparameters.momentum,
    )
    scheduler = hyperparameters.scheduler(optimizer)
    state = TrainingState(module, optimizer, scheduler, classes)
    done = state.resume(checkpoint)
    plain = _dataset(held_out, classes, lru_cache(KEPT_IMAGES)(backbone.preprocessing))
    size = _training_size(backbone)
    clock = Clock(hyperparameters.epochs, done)
    for epoch in range(done, hyperparameters.epochs):
        if epoch - 1 - max(state.best_epoch, hyperparameters.freeze_epochs - 1) >= PATIENCE:
            # Checked here, since an interruption may come just before.
            break
        frozen = epoch < hyperparameters.freeze_epochs
        for parameter in body:
            parameter.requires_grad_(not frozen)
        # Frozen layers keep their batch statistics too.
        module.train(not frozen and learns_statistics(backbone))
        # Each epoch's shuffling and augmentation depend only on the seed and its number.
        augmentation = Augmentation(size, f"{hyperparameters.seed} {epoch}")
        augmented = _dataset(training, classes, augmentation)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(hyperparameters.seed * 1_000_003 + epoch)
            loss = _train_one_epoch(module, optimizer, augmented, inputs, hyperparameters.batch_size)
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} at the learning rate {rate:g}: set a lower one")
        scheduler.step()
        accuracy = _accuracy(module, plain, inputs, hyperparameters.batch_size)
        state.finish_epoch(epoch, accuracy)
        state.save(checkpoint)
        progress({"phase": "training all layers", "loss": loss, "accuracy": accuracy, **clock.after(epoch)})
        futile = state.best_accuracy < to_reach and clock.seconds > FUTILE_SECONDS
        if futile or clock.seconds > seconds:
            break
    module.load_state_dict(state.best)
    network = module.network.cpu().to(memory_format=torch.contiguous_format)
    bare = Bare(network, stages=backbone.stages)
    tuned = make_backbone(bare, backbone.network, backbone.preprocessing, FINE_TUNED, warning=backbone.warning)
    return FineTuned(tuned, state.best_accuracy, state.best_epoch + 1)


def _memory_format(module: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels last, which is faster, unless oneDNN would compute wrong gradients.

    With channels last, oneDNN writes past its memory for strided 1x1 convolutions with fewer than 16 channels: their
    gradients are wrong, or the process crashes (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """
    unsafe = device.type == "cpu" and any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.in_channels // layer.groups < 16
        for layer in module.modules()
    )
    return torch.contiguous_format if unsafe else torch.channels_last


class WithHead(nn.Module):
    """A network and its last layer: images [n, 3, h, w] → logits [n, classes]."""

    def __init__(self, network: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.network(images))
        return logits


def trainable(backbone: Backbone, head: Head, seed: int) -> tuple[WithHead, list[nn.Parameter], list[nn.Parameter]]:
    """A copy of the network with its head, and the parameters to train: the backbone's and the head's.

    All layers of a random network are trained, and the upper layers of a pretrained one.
    """
    network = copy.deepcopy(backbone.module)
    classes, size = head.weight.shape
    layer = _new_layer(size, classes, torch.Generator().manual_seed(seed))
    # Batch normalization of random layers has no statistics yet: in training, embeddings differ a lot from those that
    # the head has seen.
    if backbone.origin != RANDOM:
        with torch.no_grad():
            layer.weight.copy_(head.weight)
            layer.bias.copy_(head.bias)
    module = WithHead(network, layer)
    last, body = list(layer.parameters()), list(network.parameters())
    if backbone.origin != RANDOM:
        body = _upper(body)
    module.requires_grad_(False)
    for parameter in (*body, *last):
        parameter.requires_grad_(True)
    return module, body, last


def learns_statistics(backbone: Backbone) -> bool:
    """Whether batch normalization learns from the training batches.

    A pretrained network has better statistics than those of a few small batches.
    """
    return backbone.origin == RANDOM


def _new_layer(size: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer, initialized as in torch but from the given generator."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, size, classes)  # type: ignore[no-untyped-call]
    bound = size**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def _upper(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """The last of a network's parameters, in their order, that are together UPPER_SHARE of all."""
    left = UPPER_SHARE * sum(parameter.numel() for parameter in parameters)
    upper: list[nn.Parameter] = []
    for parameter in reversed(parameters):
        if left <= 0:
            break
        upper.insert(0, parameter)
        left -= parameter.numel()
    return upper


def _training_size(backbone: Backbone) -> int:
    """The side of the square that all layers are trained on, in pixels.

    A random crop shows objects larger than in the whole image. If crops are a fifth smaller, objects have the same size
    in training as later, and training takes two thirds of the time (Touvron et al., 2019, used for torchvision's own
    weights: 176 for 224). Small images, and networks that take only one size, keep their size.
    """
    full = backbone.preprocessing.crop_size
    if full < SMALL_IMAGE:
        return full
    smaller = round(full * TRAINING_SHARE / 16) * 16
    try:
        check_size(Bare(backbone.module), backbone.network, smaller)
    except UnknownNetwork:
        return full
    return smaller


def _dataset(
    samples: Sequence[Sample], classes: Sequence[str], transform: Callable[[Source], Tensor]
) -> ImageClassifierDataset:
    return ImageClassifierDataset(
        [sample.image.path for sample in samples], [sample.label for sample in samples], classes, transform
    )


def _train_one_epoch(
    module: nn.Module,
    optimizer: SGD,
    dataset: ImageClassifierDataset,
    inputs: Callable[[Tensor], Tensor],
    batch_size: int,
) -> float:
    """Trains for an epoch in the module's current mode; returns the mean loss."""
    device = next(module.parameters()).device
    total, images = 0.0, 0
    for pixels, targets in _batches(shuffled_batches(dataset, batch_size), device):
        with mixed_precision(device):
            logits = module(inputs(pixels))
        loss = loss_of(logits.float(), targets.to(device))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        total += float(loss.detach()) * len(targets)
        images += len(targets)
    return total / images


def shuffled_batches(
    dataset: ImageClassifierDataset, batch_size: int, generator: torch.Generator | None = None
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of at least two images, unless there is only one: batch normalization can't be trained on one."""
    size = max(2, batch_size)
    drop_last = len(dataset) % size == 1 and len(dataset) > 1
    return DataLoader(dataset, size, shuffle=True, drop_last=drop_last, generator=generator)


@torch.inference_mode()
def _accuracy(
    module: nn.Module, dataset: ImageClassifierDataset, inputs: Callable[[Tensor], Tensor], batch_size: int
) -> float:
    module.eval()
    device = next(module.parameters()).device
    right = 0
    for pixels, targets in _batches(DataLoader(dataset, batch_size), device):
        with mixed_precision(device):
            logits = module(inputs(pixels)).float().cpu()
        thresholds = (THRESHOLD,) * logits.shape[1] if targets.is_floating_point() else ()
        right += int(hits(logits, targets, thresholds).sum())
    return right / len(dataset)


def _batches(loader: DataLoader[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's batches, in its order; for a GPU, the next ones are decoded while it computes."""
    if device.type == "cpu":
        yield from loader
        return

    ahead: deque[list[Future[tuple[Tensor, Tensor]]]] = deque()
    with ThreadPoolExecutor(decoding_threads(), thread_name_prefix="decode") as pool:
        for positions in loader.batch_sampler or ():
            ahead.append([pool.submit(loader.dataset.__getitem__, position) for position in positions])
            if len(ahead) > GPU_BATCHES_AHEAD:
                yield _stacked(ahead.popleft())
        while ahead:
            yield _stacked(ahead.popleft())


def _stacked(images: Sequence[Future[tuple[Tensor, Tensor]]]) -> tuple[Tensor, Tensor]:
    pixels, targets = zip(*(image.result() for image in images), strict=True)
    return torch.stack(pixels), torch.stack(targets)
