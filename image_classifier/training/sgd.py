"""SGD with StepLR and explicit arguments: trains the head on embeddings, or all layers on images."""

import copy
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

from image_classifier.data.dataset import ImageClassifierDataset, Sample
from image_classifier.data.preprocessing import Preprocessing, Source, open_image, to_tensor
from image_classifier.evaluation.metrics import THRESHOLD, hits, loss_of
from image_classifier.nets.architectures import Bare, UnknownNetwork, check_size
from image_classifier.nets.classifier import FINE_TUNED, RANDOM, Backbone, Head, choose_device, make_backbone
from image_classifier.nets.optimize import mixed_precision
from image_classifier.progress import Progress

log = logging.getLogger(__name__)

# For n labels, standard deviations get at least min(STD_FLOOR / n, MAX_STD_FLOOR) of their mean added: a feature that
# hardly varies in a few images may vary in others.
STD_FLOOR, MAX_STD_FLOOR = 30, 0.3
# Weight decay for n labels: min(n × FEW_LABELS_DECAY, HEAD_DECAY / n). More labels need less of it; but with very few
# labels, more of it would make all answers the most common class.
HEAD_DECAY, FEW_LABELS_DECAY = 10, 0.001
HEAD_STEPS = 12  # minimum per epoch of the head: 300 in 25 epochs, however few labels there are
PATIENCE = 8  # epochs without improvement: by then StepLR has lowered the learning rate once
SMALL_IMAGE = 160  # pixels; for larger images, all layers are trained on a smaller square
TRAINING_SHARE = 0.79  # size of that square, relative to the square used for predictions
HEAD_RATE = 10  # the head starts from scratch, so its learning rate is ten times the backbone's


@dataclass(frozen=True)
class Hyperparameters:
    """The hyperparameters of training: SGD's, StepLR's, the number of epochs, the batch size and the random seed."""

    epochs: int = 25
    batch_size: int = 32
    learning_rate: float = 0.001
    momentum: float = 0.9
    lr_step_size: int = 7
    lr_gamma: float = 0.1
    seed: int = 0
    freeze_epochs: int = 0  # the first epochs of training all layers that only train the head

    def record(self) -> dict[str, Any]:
        return asdict(self)


def train_head(
    embeddings: Tensor,
    targets: Tensor,
    classes: int,
    hyperparameters: Hyperparameters,
    progress: Progress,
    *,
    repeats: Tensor | None = None,
) -> Head:
    """Trains a linear layer on embeddings [n, size] and targets: class indices [n], or 0 and 1 [n, classes].

    The embeddings are standardized, and this is folded into the layer, so that it takes them as they are. The layer
    starts from the class frequencies only, without random noise that a few labels couldn't remove. If one class per
    image is right, images are weighted by 1/√ of their class's frequency. An epoch is one pass over the images, or
    several if there are few; `repeats` [n] says how often each image is in a pass. The same arguments give the same
    head. `progress` gets a record for each epoch and may raise to stop.
    """
    rows = torch.arange(len(embeddings))
    return train_heads(embeddings, targets, classes, hyperparameters, progress, [rows], repeats=repeats)[0]


def train_heads(
    embeddings: Tensor,
    targets: Tensor,
    classes: int,
    hyperparameters: Hyperparameters,
    progress: Progress,
    parts: Sequence[Tensor],
    *,
    repeats: Tensor | None = None,
) -> list[Head]:
    """For each part, the numbers of some rows, the head that `train_head` trains on these rows alone.

    All at once: a step is so small that one for several heads takes little longer. All take as many steps as the
    largest part needs. `progress` gets the first head's records.
    """
    multiple = targets.is_floating_point()
    wanted = targets if multiple else one_hot(targets, classes).float()
    mean, std = (torch.stack(each)[:, None] for each in zip(*(_scale(embeddings[rows]) for rows in parts), strict=True))
    layers = _start(embeddings.shape[1], [wanted[rows] for rows in parts], multiple)
    counts = torch.zeros(len(parts), len(embeddings))
    for count, rows in zip(counts, parts, strict=True):
        count[rows] = torch.ones(len(rows)) if multiple else _counts(wanted[rows])
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
    clock = _Clock(hyperparameters.epochs)
    first = embeddings[parts[0]], targets[parts[0]]
    for epoch in range(hyperparameters.epochs):
        with _one_thread():
            batches = [_batches(rows, size, steps, each) for rows, each in zip(passes, generators, strict=True)]
            order, share = (torch.stack(each) for each in zip(*batches, strict=True))  # [heads, steps, size]
            weights = counts.gather(1, order.flatten(1)).reshape(share.shape) * share
            for batch, weight in zip(order.unbind(1), weights[..., None].unbind(1), strict=True):
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


def _scale(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [size] that standardize embeddings [n, size]."""
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


@contextmanager
def _one_thread() -> Iterator[None]:
    """Uses one thread for steps so small that sharing them costs more than it saves, ten times more on a busy CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _set_gradient(
    layers: _Layers, inputs: Tensor, wanted: Tensor, weights: Tensor, decay: Tensor, multiple: bool
) -> None:
    """That of `loss_of` for a batch of each layer: inputs [heads, b, size], wanted 0 and 1 [heads, b, classes].

    Each image has its weight [heads, b, 1], each layer its weight decay [heads]. A correction waits for thousands of
    these, and autograd would take three times as long: of both losses the gradient at the logits is what is answered
    less what is wanted.
    """
    logits = torch.baddbmm(layers.bias[:, None], inputs, layers.weight.mT)
    gradient = ((logits.sigmoid() if multiple else logits.softmax(2)) - wanted) * weights
    layers.weight.grad = torch.baddbmm(layers.weight * decay[:, None, None], gradient.mT, inputs)
    layers.bias.grad = gradient.sum(1)


def _new_layer(size: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer, initialized as in torch but from the given generator."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, size, classes)  # type: ignore[no-untyped-call]
    bound = size**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


class _Clock:
    """Estimates how long training will take."""

    def __init__(self, epochs: int, done: int = 0) -> None:
        self._epochs, self._done = epochs, done
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def after(self, epoch: int) -> dict[str, Any]:
        left = self._epochs - epoch - 1
        each = self.seconds / max(1, epoch + 1 - self._done)
        return {"epoch": epoch + 1, "epochs": self._epochs, "seconds_left": round(each * left, 1)}


class Augmentation:
    """Turns a source into uint8 [3, size, size]: a random part of the image, mirrored half of the time.

    The part depends only on the seed and the image's name, not on threads or their order.
    """

    SHARE = (0.35, 1.0)  # of the image's area
    LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))  # of its sides

    def __init__(self, size: int, seed: str) -> None:
        self._size, self._seed = size, seed

    def __call__(self, source: Source) -> Tensor:
        name = source.name.encode() if isinstance(source, Path) else source
        choose = np.random.default_rng(crc32(name, crc32(self._seed.encode())))
        image = open_image(source, self._size)
        size = (self._size, self._size)
        part = image.resize(size, Image.Resampling.BILINEAR, box=self._box(image.size, choose), reducing_gap=3.0)
        mirrored = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if choose.random() < 0.5 else part
        return to_tensor(mirrored)

    def _box(self, size: tuple[int, int], choose: np.random.Generator) -> tuple[float, float, float, float]:
        """A random box as in torchvision's RandomResizedCrop, which doesn't accept a generator."""
        width, height = size
        area = width * height * choose.uniform(*self.SHARE)
        ratio = math.exp(choose.uniform(*self.LOG_RATIO))
        across, down = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
        left, top = choose.uniform(0, width - across), choose.uniform(0, height - down)
        return (left, top, left + across, top + down)


@dataclass(frozen=True)
class FineTuned:
    """The backbone of the best epoch, and that epoch's accuracy on the held-out images (0 to 1)."""

    backbone: Backbone
    accuracy: float
    epoch: int


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
) -> FineTuned:
    """Trains all layers from a backbone and its trained head; keeps the epoch that is best on the held-out images.

    Ends early if the epochs stop improving, or after `seconds`.

    After each epoch the whole state is saved to `checkpoint`, a safetensors file; if it already exists, training
    resumes from it and ends with the same weights as without the interruption. `progress` gets a record for each epoch
    and may raise to stop.
    """
    device = choose_device()
    module = copy.deepcopy(backbone.module)
    layer = _new_layer(head.weight.shape[1], len(classes), torch.Generator().manual_seed(hyperparameters.seed))
    # Batch normalization of random layers has no statistics yet: in training, embeddings differ a lot from those that
    # the head has seen.
    if backbone.origin != RANDOM:
        with torch.no_grad():
            layer.weight.copy_(head.weight)
            layer.bias.copy_(head.bias)
    module.set_submodule(backbone.last_layer, layer)
    module.requires_grad_(True).to(device).to(memory_format=torch.channels_last)
    last = {id(parameter) for parameter in layer.parameters()}
    body = [parameter for parameter in module.parameters() if id(parameter) not in last]
    rate = hyperparameters.learning_rate
    optimizer = SGD(
        [{"params": body, "lr": rate}, {"params": list(layer.parameters()), "lr": HEAD_RATE * rate}],
        momentum=hyperparameters.momentum,
    )
    scheduler = StepLR(optimizer, hyperparameters.lr_step_size, hyperparameters.lr_gamma)
    state = _TrainingState(module, optimizer, scheduler, classes)
    done = state.resume(checkpoint)
    plain = _dataset(held_out, classes, backbone.preprocessing)
    size = _training_size(backbone)
    clock = _Clock(hyperparameters.epochs, done)
    for epoch in range(done, hyperparameters.epochs):
        if epoch - 1 - max(state.best_epoch, hyperparameters.freeze_epochs - 1) >= PATIENCE:
            # Checked here, since an interruption may come just before.
            break
        frozen = epoch < hyperparameters.freeze_epochs
        for parameter in body:
            parameter.requires_grad_(not frozen)
        # Frozen layers keep their batch statistics too.
        module.train(not frozen)
        # Each epoch's shuffling and augmentation depend only on the seed and its number.
        augmentation = Augmentation(size, f"{hyperparameters.seed} {epoch}")
        augmented = _dataset(training, classes, augmentation)
        with torch.random.fork_rng():
            torch.manual_seed(hyperparameters.seed * 1_000_003 + epoch)
            loss = _train_one_epoch(module, optimizer, augmented, backbone.preprocessing, hyperparameters.batch_size)
        scheduler.step()
        accuracy = _accuracy(module, plain, backbone.preprocessing, hyperparameters.batch_size)
        state.finish_epoch(epoch, accuracy)
        state.save(checkpoint)
        progress({"phase": "training all layers", "loss": loss, "accuracy": accuracy, **clock.after(epoch)})
        if clock.seconds > seconds:
            break
    module.load_state_dict(state.best)
    module.set_submodule(backbone.last_layer, nn.Identity())
    bare = Bare(module.cpu().to(memory_format=torch.contiguous_format), backbone.last_layer)
    tuned = make_backbone(bare, backbone.network, backbone.preprocessing, FINE_TUNED, warning=backbone.warning)
    return FineTuned(tuned, state.best_accuracy, state.best_epoch + 1)


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
        check_size(Bare(backbone.module, backbone.last_layer), backbone.network, smaller)
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
    preprocessing: Preprocessing,
    batch_size: int,
) -> float:
    """Trains for an epoch in the module's current mode; returns the mean loss."""
    device = next(module.parameters()).device
    total, images = 0.0, 0
    # Batch normalization can't be trained on a batch of one.
    loader = DataLoader(dataset, batch_size, shuffle=True, drop_last=len(dataset) % batch_size == 1)
    for pixels, targets in loader:
        with mixed_precision(device):
            logits = module(_inputs(pixels, preprocessing, device))
        loss = loss_of(logits.float(), targets.to(device))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        total += float(loss.detach()) * len(targets)
        images += len(targets)
    return total / images


@torch.inference_mode()
def _accuracy(
    module: nn.Module, dataset: ImageClassifierDataset, preprocessing: Preprocessing, batch_size: int
) -> float:
    module.eval()
    device = next(module.parameters()).device
    right = 0
    for pixels, targets in DataLoader(dataset, batch_size):
        with mixed_precision(device):
            logits = module(_inputs(pixels, preprocessing, device)).float().cpu()
        thresholds = (THRESHOLD,) * logits.shape[1] if targets.is_floating_point() else ()
        right += int(hits(logits, targets, thresholds).sum())
    return right / len(dataset)


def _inputs(pixels: Tensor, preprocessing: Preprocessing, device: torch.device) -> Tensor:
    return preprocessing.normalize(pixels.to(device)).contiguous(memory_format=torch.channels_last)


class _TrainingState:
    """Everything that training needs to resume: weights, momentum, learning rate, epoch, and the best epoch so far."""

    def __init__(self, module: nn.Module, optimizer: SGD, scheduler: StepLR, classes: Sequence[str]) -> None:
        self._module, self._optimizer, self._scheduler = module, optimizer, scheduler
        self._classes = list(classes)
        self._epochs_done = 0
        self.best = copy.deepcopy(module.state_dict())
        self.best_accuracy, self.best_epoch = -1.0, -1

    def finish_epoch(self, epoch: int, accuracy: float) -> None:
        self._epochs_done = epoch + 1
        if accuracy > self.best_accuracy:
            self.best = copy.deepcopy(self._module.state_dict())
            self.best_accuracy, self.best_epoch = accuracy, epoch

    def save(self, path: Path) -> None:
        optimizer = self._optimizer.state_dict()
        tensors = {f"module.{name}": tensor for name, tensor in self._module.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= {
            f"momentum.{number}": state["momentum_buffer"]
            for number, state in optimizer["state"].items()
            if state.get("momentum_buffer") is not None
        }
        facts = {
            "classes": self._classes,
            "epochs_done": self._epochs_done,
            "best_accuracy": self.best_accuracy,
            "best_epoch": self.best_epoch,
            "groups": optimizer["param_groups"],
            "scheduler": self._scheduler.state_dict(),
        }
        part = path.with_suffix(".part")
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            part,
            metadata={"state": json.dumps(facts)},
        )
        os.replace(part, path)

    def resume(self, path: Path) -> int:
        """Loads the checkpoint if there is one; returns how many epochs are already done."""
        if not path.is_file():
            return 0
        try:
            return self._resume(path)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            log.warning("starting over: %s is damaged (%s)", path.name, error)
            return 0

    def _resume(self, path: Path) -> int:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})["state"])
            if facts["classes"] != self._classes:
                log.info("starting over: the classes have changed since %s", path.name)
                return 0
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it isn't a dict
        done, best = (
            facts["epochs_done"],
            (facts["best_accuracy"], facts["best_epoch"]),
        )  # read everything before changing anything
        groups, scheduler = facts["groups"], facts["scheduler"]
        self._module.load_state_dict(_of("module.", tensors))
        self.best = _of("best.", tensors)
        momentum = {int(name): {"momentum_buffer": tensor} for name, tensor in _of("momentum.", tensors).items()}
        self._optimizer.load_state_dict({"state": momentum, "param_groups": groups})
        self._scheduler.load_state_dict(scheduler)
        (self.best_accuracy, self.best_epoch), self._epochs_done = best, done
        log.info("resuming after epoch %d from %s", self._epochs_done, path.name)
        return self._epochs_done


def _of(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
