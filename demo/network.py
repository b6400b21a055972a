"""The network of the demo and the screenshots."""

import os
from importlib.util import find_spec

from image_classifier.nets.weights_packages import LITE0, installed_weights


def pretrained_network() -> dict[str, str]:
    """Settings of a network whose weights are installed, so that nothing is downloaded; the user's own come first."""
    chosen = os.environ.get("NETWORK") or os.environ.get("WEIGHTS")
    return {} if chosen or not find_spec("timm") or not installed_weights(LITE0) else {"NETWORK": LITE0}
