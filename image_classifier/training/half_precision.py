"""Decides whether a network may compute in half precision on this machine, by comparing it with float32."""

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from image_classifier.nets.classifier import Backbone
from image_classifier.nets.optimize import accelerate, half_precisions
from image_classifier.training.head import train_head
from image_classifier.training.hyperparameters import Hyperparameters

log = logging.getLogger(__name__)

MIN_AGREEMENT = 0.995  # share of images with the same top choice, or one whose probability is within MAX_DIFFERENCE
MAX_DIFFERENCE = 0.05  # of the scores, 99th percentile

CLASSES = 8
IMAGES_OF_A_CLASS = 8  # half of them train a head, the other half evaluates it
BATCH_SIZE = 8


@dataclass(frozen=True)
class Trial:
    """How answers in a half precision compare with those in float32, on images that the head hasn't seen."""

    agreement: float
    difference: float

    @property
    def passed(self) -> bool:
        return self.agreement >= MIN_AGREEMENT and self.difference <= MAX_DIFFERENCE


class Precisions:
    """Chooses the precision for each network, and stores it on disk with the results of the trials."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, backbone: Backbone, device: torch.device) -> torch.dtype:
        """The precision for a network on a device; the first time, the trial takes a second or two."""
        candidates = {str(precision).removeprefix("torch."): precision for precision in half_precisions(device)}
        if not candidates:
            return torch.float32
        path = self._folder / f"{backbone.fingerprint}-{device.type}-torch{torch.__version__}.json"
        try:
            chosen = json.loads(path.read_text(encoding="utf-8"))["chosen"]
        except (OSError, ValueError, KeyError, TypeError):
            trials = {name: try_precision(backbone, device, precision) for name, precision in candidates.items()}
            chosen = next((name for name, trial in trials.items() if trial.passed), "float32")
            log.info("network %s computes in %s: %s", backbone.fingerprint[:8], chosen, trials)
            _keep(path, {"chosen": chosen, "trials": {name: asdict(trial) for name, trial in trials.items()}})
        return candidates.get(chosen, torch.float32)


def _keep(path: Path, record: object) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:  # the file only saves the next process some seconds
        log.warning("can't write %s: %s", path, error)


@torch.inference_mode()
def try_precision(backbone: Backbone, device: torch.device, precision: torch.dtype) -> Trial:
    """Compares a precision with float32 on generated images of the network's input size."""
    size = backbone.preprocessing.crop_size
    exact = accelerate(backbone.module, device, size)
    fast = accelerate(backbone.module, device, size, precision)
    pixels, targets = _draw(size)
    inputs = backbone.preprocessing.normalize(pixels).to(device).contiguous(memory_format=torch.channels_last)
    embeddings = _embed(exact, inputs)
    learned, judged = slice(0, None, 2), slice(1, None, 2)
    head = train_head(embeddings[learned], targets[learned], CLASSES, Hyperparameters(), lambda record: None)
    wanted = head(embeddings[judged]).softmax(1)
    found = head(_embed(fast, inputs[judged].to(precision))).softmax(1)
    # If two choices are about equally probable, rounding decides which one comes first; that isn't an error.
    behind = wanted.max(1).values - wanted.gather(1, found.argmax(1, keepdim=True))[:, 0]
    agreement = float((behind <= MAX_DIFFERENCE).float().mean())
    difference = float((wanted - found).abs().max(1).values.quantile(0.99))
    return Trial(agreement, difference)


def _embed(module: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([module(batch).float().cpu() for batch in torch.split(inputs, BATCH_SIZE)])


def _draw(size: int) -> tuple[Tensor, Tensor]:
    """Generates gratings with noise: uint8 [n, 3, size, size] and their classes [n].

    Each class has its approximate direction, width and colors. Pairs of neighbors have the same class, so that every
    second image covers all classes.
    """
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(CLASSES).repeat_interleave(2).repeat(IMAGES_OF_A_CLASS // 2)
    colors = torch.rand(CLASSES, 2, 3, 1, 1, generator=generator)
    down, across = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    images = []
    for target in targets.tolist():
        turn, stretch, phase = torch.rand(3, generator=generator)
        angle = (target % 4 + 0.3 * turn) * torch.pi / 4
        waves = (4 if target < 4 else 12) * (1 + 0.3 * stretch)
        wave = torch.sin(2 * torch.pi * (waves * (across * angle.cos() + down * angle.sin()) + phase))[None]
        low, high = colors[target] + 0.1 * torch.randn(2, 3, 1, 1, generator=generator)
        noise = 0.1 * torch.randn(3, size, size, generator=generator)
        images.append(low + (high - low) * (wave + 1) / 2 + noise)
    return (torch.stack(images).clamp(0, 1) * 255).to(torch.uint8), targets
