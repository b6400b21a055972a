"""Weights on disk are used as before, take no memory while they aren't, and leave no file."""

import copy
import gc
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from weakref import WeakSet

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from image_classifier.data.dataset import Sample
from image_classifier.embedding import lane
from image_classifier.nets import on_disk
from image_classifier.nets.architectures import build
from image_classifier.nets.classifier import Classifier, Head
from image_classifier.nets.on_disk import forget_what_was_read, keep_on_disk
from image_classifier.settings import ClassifierSettings
from image_classifier.shared_networks import SharedNetworks
from image_classifier.training.hyperparameters import Hyperparameters
from testing.waiting import eventually

SIZE = 64


def on_disk_in(folder: Path) -> list[int]:
    """For each deleted file of the folder that is mapped, its kilobytes in memory."""
    maps = Path("/proc/self/smaps").read_text(encoding="utf-8")
    return [
        int(kb) for kb in re.findall(rf"{re.escape(str(folder))}/[^/\n]*\(deleted\)\nSize:[^R]*Rss: +(\d+) kB", maps)
    ]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A file larger than this can't be written, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_network_on_disk_has_the_same_embeddings_copies_and_weights(tmp_path: Path) -> None:
    folder, saved = tmp_path / "cache", tmp_path / "saved.safetensors"
    module = build("resnet18", SIZE).module.eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    image = torch.linspace(-2, 2, 3 * SIZE * SIZE).view(1, 3, SIZE, SIZE)
    wanted = module(image)
    keep_on_disk(module, folder)
    assert torch.equal(module(image), wanted)
    assert on_disk_in(folder)[0] > 40_000
    copied = copy.deepcopy(module).train().requires_grad_(True)
    copied(image).sum().backward()
    torch.optim.SGD(copied.parameters(), 0.1).step()
    save_file(module.state_dict(), saved)
    forget_what_was_read()
    assert on_disk_in(folder) == [0]
    assert all(torch.equal(before[name], tensor) for name, tensor in load_file(saved).items())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert list(folder.iterdir()) == []


def test_all_kinds_of_tensors_are_kept(tmp_path: Path) -> None:
    module = nn.Module()
    tensors = {
        "coarse": torch.tensor([[1.5, -2], [0, 3]], dtype=torch.bfloat16),
        "flags": torch.tensor([True, False, True]),
        "number": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "last": torch.arange(12.0).view(3, 4).T,
    }
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor.clone(memory_format=torch.preserve_format))
    module.register_parameter("shared", nn.Parameter(torch.ones(3)))
    module.register_parameter("again", module.get_parameter("shared"))
    keep_on_disk(module, tmp_path)
    assert len(on_disk_in(tmp_path)) == 1
    for name, tensor in tensors.items():
        assert torch.equal(module.get_buffer(name), tensor), name
    assert module.get_parameter("shared") is module.get_parameter("again")
    assert torch.equal(module.get_parameter("shared"), torch.ones(3))


def test_file_ends_with_the_module(tmp_path: Path) -> None:
    module = nn.Linear(100, 100)
    keep_on_disk(module, tmp_path)
    assert len(on_disk_in(tmp_path)) == 1
    del module
    gc.collect()
    assert on_disk_in(tmp_path) == []
    forget_what_was_read()


def test_network_can_be_loaded_while_memory_is_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error would end the lane's thread, and all predictions would wait forever."""
    first, second = nn.Linear(10, 10), nn.Linear(10, 10)
    loading = Thread(target=keep_on_disk, args=(second, tmp_path))

    class Slow(WeakSet[Any]):
        def __iter__(self) -> Iterator[Any]:
            for one in super().__iter__():
                yield one
                loading.start()
                loading.join(0.5)  # it ends now, or waits for this thread

    monkeypatch.setattr(on_disk, "_mapped", Slow())
    keep_on_disk(first, tmp_path)
    forget_what_was_read()
    loading.join()
    assert len(on_disk_in(tmp_path)) == 2


@pytest.mark.parametrize("problem", ["folder", "full"])
def test_weights_stay_in_memory_if_the_file_cannot_be_written(
    problem: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    if problem == "folder":
        folder.write_bytes(b"")
    module = nn.Linear(100, 100)
    wanted = module.weight.clone()
    with largest_file(4096), caplog.at_level("INFO"):
        keep_on_disk(module, folder)
    assert f"because {folder} can't take them: " in caplog.text
    assert on_disk_in(folder) == []
    assert torch.equal(module.weight, wanted)


def test_module_without_weights_is_left_alone(tmp_path: Path) -> None:
    module = nn.Flatten()
    keep_on_disk(module, tmp_path)
    assert module(torch.ones(2, 1, 3)).shape == (2, 3)


def test_server_keeps_only_the_form_for_inference_in_memory(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "IDLE_SECONDS", 0.01)
    cache, saved = tmp_path / "cache", tmp_path / "saved"
    networks = SharedNetworks(ClassifierSettings(weights="none", image_size=SIZE, cache_dir=cache))
    try:
        base = networks.base
        networks.lane.embed(base, [samples[0].image])
        assert eventually(lambda: on_disk_in(cache) == [0])
        head = Head(torch.zeros(2, base.size), torch.zeros(2))
        record = {"figures": {}, "labels": {}, "sources": {}, "settings": Hyperparameters().record()}
        Classifier(base, head, head, ("a", "b"), record).save(saved)
        assert networks.load(saved).backbone is base
        assert on_disk_in(cache) == [0]
    finally:
        networks.close()
    other = SharedNetworks(ClassifierSettings(cache_dir=cache))
    loaded = other.load(saved)
    assert on_disk_in(cache) == [0, 0]
    assert load_file(saved / "backbone.safetensors").keys() == loaded.backbone.module.state_dict().keys()
