"""A process has each network once, and loading one of them doesn't delay the others."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from image_classifier import shared_networks
from image_classifier.nets.classifier import Backbone, Classifier, Head, load_backbone
from image_classifier.settings import ClassifierSettings
from image_classifier.shared_networks import SharedNetworks
from image_classifier.training.hyperparameters import Hyperparameters
from testing.waiting import SECONDS

SIZE = 64


@pytest.fixture
def networks(tmp_path: Path) -> Iterator[SharedNetworks]:
    networks = SharedNetworks(ClassifierSettings(weights="none", image_size=SIZE, cache_dir=tmp_path / "cache"))
    yield networks
    networks.close()


def saved(backbone: Backbone, folder: Path) -> Path:
    head = Head(torch.zeros(2, backbone.size), torch.zeros(2))
    record = {"figures": {}, "labels": {}, "sources": {}, "settings": Hyperparameters().record()}
    Classifier(backbone, head, head, ("a", "b"), record).save(folder)
    return folder


class Held:
    """A function of the module that hangs, as on a dead network drive, until it is released."""

    def __init__(self, function: Callable[..., Any], hangs: Callable[..., bool]) -> None:
        self._function, self._hangs = function, hangs
        self.reached, self.released = Event(), Event()
        self.calls = 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        if self._hangs(*arguments):
            self.reached.set()
            assert self.released.wait(SECONDS)
        return self._function(*arguments)


@contextmanager
def hanging(
    monkeypatch: pytest.MonkeyPatch, name: str, hangs: Callable[..., bool] = lambda *arguments: True
) -> Iterator[tuple[Held, ThreadPoolExecutor]]:
    held = Held(getattr(shared_networks, name), hangs)
    monkeypatch.setattr(shared_networks, name, held)
    with ThreadPoolExecutor() as threads:
        try:
            yield held, threads
        finally:
            held.released.set()


def finished(future: "Future[Any]") -> Any:
    return future.result(SECONDS / 2)  # before `Held` gives up


def test_base_network_that_hangs_delays_no_saved_model(
    networks: SharedNetworks, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(backbone, tmp_path / "saved")
    with hanging(monkeypatch, "load_backbone") as (held, threads):
        base = threads.submit(lambda: networks.base)
        assert held.reached.wait(SECONDS)
        classifier = finished(threads.submit(networks.load, folder))
        assert not base.done()
        held.released.set()
        assert finished(base) is classifier.backbone


def test_no_thread_gets_a_network_whose_weights_are_still_being_moved(
    networks: SharedNetworks, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Computing with them at the same time could read memory that is already freed."""
    folder, moved = saved(backbone, tmp_path / "saved"), list[object]()

    def is_first(module: object, _: Path) -> bool:
        moved.append(module)
        return len(moved) == 1

    with hanging(monkeypatch, "keep_on_disk", is_first) as (held, threads):
        classifier = threads.submit(networks.load, folder)
        assert held.reached.wait(SECONDS)
        base = finished(threads.submit(lambda: networks.base))
        assert base.module is not moved[0]
        held.released.set()
        assert finished(classifier).backbone is base


def test_saved_model_that_hangs_delays_only_those_with_the_same_network(
    networks: SharedNetworks, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = load_backbone("none", SIZE // 2)
    stuck, same = (saved(backbone, tmp_path / name) for name in ("stuck", "same"))
    folder = saved(other, tmp_path / "other")
    with hanging(monkeypatch, "load_saved_backbone", lambda folder: folder == stuck) as (held, threads):
        first = threads.submit(networks.load, stuck)
        assert held.reached.wait(SECONDS)
        second = threads.submit(networks.load, same)
        assert finished(threads.submit(networks.load, folder)).backbone.fingerprint == other.fingerprint
        assert not second.done()
        held.released.set()
        assert finished(first).backbone is finished(second).backbone
    assert held.calls == 2  # once for each network
