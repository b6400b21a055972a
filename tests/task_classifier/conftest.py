"""Digits, and versions that have learned them."""

from pathlib import Path

import pytest
import torch

from image_classifier.training import update
from tests.task_classifier.digit_tasks import Digits, Json, fit, labeled

torch.set_num_threads(1)  # on a busy machine, threads that wait for each other cost more than they bring


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_SIZE", "64")


@pytest.fixture(scope="session")
def shown(digits: Digits) -> Digits:
    """Zeros, ones and twos in turn."""
    by_label = [[path for path, name in digits if name == label] for label in "012"]
    return [(path, label) for paths in zip(*by_label, strict=False) for path, label in zip(paths, "012", strict=True)]


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    """Versions that many tests look at, and none changes."""
    return {"folder": {"path": str(tmp_path_factory.mktemp("versions"))}}


@pytest.fixture
def trained(shown: Digits, kept: dict[str, Json]) -> Json:
    """What `fit` returned for thirty digits."""
    if "trained" not in kept:
        kept["trained"] = fit(labeled(shown[:30]), Path(kept["folder"]["path"]) / "trained")
    return kept["trained"]


@pytest.fixture
def unsure(shown: Digits, kept: dict[str, Json]) -> Json:
    """The same for labels of which many are wrong, so that hardly anything is certain."""
    wrong = {"0": "1", "1": "2", "2": "0"}
    pairs = [(path, wrong[label] if number % 7 < 3 else label) for number, (path, label) in enumerate(shown[:57])]
    if "unsure" not in kept:
        kept["unsure"] = fit(labeled(pairs), Path(kept["folder"]["path"]) / "unsure")
    return kept["unsure"]


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty labels are already many, and two of them few."""
    monkeypatch.setattr(update, "FEWEST_LABELS", 30)
    monkeypatch.setattr(update, "CHANGED_SHARE", 0.1)
