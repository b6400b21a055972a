"""The network that `make demo` chooses."""

from pathlib import Path

import pytest

from demo import network
from image_classifier.nets.weights_packages import LITE0


@pytest.mark.parametrize(
    ("installed", "environment", "expected"),
    [
        (True, {}, {"NETWORK": LITE0}),
        (True, {"NETWORK": "", "WEIGHTS": ""}, {"NETWORK": LITE0}),
        (True, {"NETWORK": "resnet50"}, {}),
        (True, {"WEIGHTS": "none"}, {}),
        (False, {}, {}),
    ],
)
def test_demo_uses_installed_weights_unless_told_otherwise(
    installed: bool, environment: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEIGHTS")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(network, "find_spec", lambda name: name if installed else None)
    monkeypatch.setattr(network, "installed_weights", lambda name: Path("weights.pth"))

    assert network.pretrained_network() == expected
