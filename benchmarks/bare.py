"""Measures the bare cost of an embedding: plain loops and the best pipeline, without a server."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.transforms import v2

from image_classifier.data.preprocessing import Preprocessing
from image_classifier.nets.optimize import accelerate, half_precisions

T = TypeVar("T")

BATCH_SIZE = 32
SMALL_BATCH_SIZE = 8

TRANSFORM = v2.Compose(
    [
        v2.Resize(224),
        v2.CenterCrop(224),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


def network() -> nn.Module:
    """ResNet18 with random weights, ready to predict."""
    module: nn.Module = resnet18(weights=None).eval()
    return module


def load(path: Path) -> Tensor:
    """Decoded in full, resized, cropped, normalized."""
    with Image.open(path) as image:
        tensor: Tensor = TRANSFORM(image.convert("RGB"))
    return tensor


@torch.inference_mode()
def predict(module: nn.Module, paths: Sequence[Path]) -> None:
    """Decode, transform, forward in float32 and batches of 32."""
    for some in _batched(iter(paths), BATCH_SIZE):
        module(torch.stack([load(path) for path in some]))


def one_by_one(paths: Sequence[Path]) -> list[float]:
    """Seconds per image, each in a batch of its own."""
    module = network()
    predict(module, paths[:1])
    spent = []
    for path in paths:
        begun = time.perf_counter()
        predict(module, [path])
        spent.append(time.perf_counter() - begun)
    return spent


def in_batches(paths: Sequence[Path]) -> float:
    """Images per second."""
    module = network()
    predict(module, paths[:1])
    begun = time.perf_counter()
    predict(module, paths)
    return len(paths) / (time.perf_counter() - begun)


@torch.inference_mode()
def best(paths: Sequence[Path]) -> float:
    """Images per second: a pool decodes at reduced size, batch normalization is folded, half precision if native."""
    device = torch.device("cpu")
    precision = next(iter(half_precisions(device)), torch.float32)
    module = accelerate(network(), device, Preprocessing().crop_size, precision)
    preprocessing = Preprocessing()
    with _decoded(paths, preprocessing) as batches:
        module(preprocessing.normalize(next(batches)).to(precision, memory_format=torch.channels_last))
    begun = time.perf_counter()
    with _decoded(paths, preprocessing) as batches:
        for pixels in batches:
            module(preprocessing.normalize(pixels).to(precision, memory_format=torch.channels_last))
    return len(paths) / (time.perf_counter() - begun)


@contextmanager
def _decoded(paths: Sequence[Path], preprocessing: Preprocessing) -> Iterator[Iterator[Tensor]]:
    with ThreadPoolExecutor(2) as pool:
        decoded = pool.map(preprocessing, paths)
        yield (torch.stack(some) for some in _batched(decoded, SMALL_BATCH_SIZE))
        pool.shutdown(cancel_futures=True)


def _batched(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(items, size)):
        yield batch
