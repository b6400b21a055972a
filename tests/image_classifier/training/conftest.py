"""A watch on SGD's steps."""

from typing import Any

import pytest
from torch.optim import SGD

from image_classifier.training import finetune, head


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The learning rates of each step of SGD, for each of its groups."""
    taken: list[list[float]] = []

    class Watched(SGD):
        def step(self, closure: Any = None) -> Any:
            taken.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    for module in (head, finetune):
        monkeypatch.setattr(module, "SGD", Watched)
    return taken
