"""timm's networks: found, named, preprocessed, and loaded from files; timm itself may be missing."""

import os
import socket
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from image_classifier.cli.export import export
from image_classifier.data.preprocessing import Preprocessing
from image_classifier.nets.classifier import Classifier, Head, load_backbone
from image_classifier.nets.networks import build
from image_classifier.nets.optimize import accelerate
from image_classifier.nets.weights import WeightsError
from tests.image_classifier.conftest import same_weights

needs_timm = pytest.mark.skipif(not find_spec("timm") and "CI" not in os.environ, reason="timm isn't installed")
DINO = "timm:vit_small_patch14_dinov2"


def test_missing_timm_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)

    with pytest.raises(
        WeightsError, match=r"^NETWORK=timm:test_vit: timm isn't installed .* -m pip install timm` \(for Docker, .*\)$"
    ):
        load_backbone("none", None, "timm:test_vit")


@needs_timm
@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("timm:vit_small_patch14_dino2", None, "did you mean vit_small_patch14_dinov2"),
        ("timm:", None, "timm has no network "),
        ("timm:hf-hub:someone/network", None, "timm has no network hf-hub:someone/network"),
        ("timm:local-dir:/tmp", None, "timm has no network local-dir:/tmp"),
        ("timm:test_vit.mine", None, "Invalid pretrained tag"),
        ("timm:test_vit", 70, "can't take images of 70×70 pixels: set another IMAGE_SIZE"),
    ],
)
def test_network_that_timm_cannot_provide_is_named_with_the_fix(name: str, size: int | None, said: str) -> None:
    with pytest.raises(WeightsError, match="NETWORK=timm:") as refused:
        load_backbone("none", size, name)
    assert said in str(refused.value)


@needs_timm
def test_network_sees_images_as_timm_describes_it() -> None:
    half = (0.5, 0.5, 0.5)
    lite0 = load_backbone("none", None, "timm:tf_efficientnet_lite0").preprocessing
    assert lite0 == Preprocessing(224, 224, half, half, "bicubic")
    assert load_backbone("none", 96, "timm:resnet18.tv_in1k").preprocessing == Preprocessing(96, 96)
    assert load_backbone("none", 96, "timm:resnet18.a1_in1k").preprocessing.interpolation == "bicubic"


@needs_timm
def test_dinov2_takes_its_own_image_size_or_another() -> None:
    own = load_backbone("none", None, DINO)
    smaller = load_backbone("none", 56, DINO)

    assert (own.preprocessing.crop_size, smaller.preprocessing.crop_size) == (518, 56)
    assert smaller.module(torch.zeros(2, 3, 56, 56)).shape == (2, 384)


def network_of(name: str, size: int) -> nn.Module:
    """A network as timm builds it, with other weights than WEIGHTS=none's."""
    torch.manual_seed(1)
    return build(name, size).module.get_submodule("network")


@needs_timm
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "network."])
def test_weights_file_of_a_timm_network_is_loaded_without_its_classifier(prefix: str, tmp_path: Path) -> None:
    state = network_of("timm:test_vit", 64).state_dict()
    classifier = {"head.weight": torch.ones(7, 64), "head.bias": torch.ones(7)}
    written = {f"{prefix}{key}": tensor for key, tensor in {**state, **classifier}.items()}
    torch.save({"model": written}, tmp_path / "weights.pth")

    loaded = load_backbone(str(tmp_path / "weights.pth"), 64, "timm:test_vit")

    assert same_weights(loaded.module.get_submodule("network"), state)


@needs_timm
def test_timms_layer_for_imagenets_classes_is_kept_aside(tmp_path: Path) -> None:
    state = network_of("timm:test_vit", 64).state_dict()
    torch.save({**state, "head.weight": torch.rand(1000, 64), "head.bias": torch.rand(1000)}, tmp_path / "weights.pth")

    layer = load_backbone(str(tmp_path / "weights.pth"), 64, "timm:test_vit").imagenet

    assert layer is not None
    assert torch.equal(layer.weight, torch.load(tmp_path / "weights.pth")["head.weight"])


@needs_timm
def test_vision_transformer_takes_images_of_another_size_than_its_weights(tmp_path: Path) -> None:
    state = network_of("timm:test_vit", 160).state_dict()
    torch.save({**state, "mask_token": torch.zeros(1, 64)}, tmp_path / "weights.pth")  # which DINOv2's file has

    network = load_backbone(str(tmp_path / "weights.pth"), 64, "timm:test_vit").module.get_submodule("network")

    loaded = network.state_dict()
    assert loaded["pos_embed"].shape != state["pos_embed"].shape
    assert torch.equal(loaded["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])


@needs_timm
def test_other_names_are_not_taken_in_their_order_from_a_safetensors_file(tmp_path: Path) -> None:
    """Such a file has its own order, which may exchange layers of the same shape."""
    state = network_of("timm:test_convnext", 64).state_dict()
    renamed = {f"layer_{n:03}.{key.rpartition('.')[2]}": tensor for n, (key, tensor) in enumerate(state.items())}
    save_file(renamed, tmp_path / "weights.safetensors")

    with pytest.raises(WeightsError, match="has no weights for timm:test_convnext"):
        load_backbone(str(tmp_path / "weights.safetensors"), 64, "timm:test_convnext")


@needs_timm
def test_weights_of_another_timm_network_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(network_of("timm:test_vit", 64).state_dict(), tmp_path / "weights.pth")

    with pytest.raises(WeightsError, match=r"has no weights for timm:test_convnext \(missing: stem.0.weight, .*unexpe"):
        load_backbone(str(tmp_path / "weights.pth"), 64, "timm:test_convnext")


@needs_timm
@pytest.mark.parametrize("name", ["timm:tf_efficientnet_lite0", "timm:test_resnet"])
def test_batch_normalization_with_an_activation_is_folded(name: str) -> None:
    module = load_backbone("none", 64, name).module
    images = torch.rand(2, 3, 64, 64)

    fast = accelerate(module, torch.device("cpu"), 64)

    wanted = module(images)
    assert not any(isinstance(one, nn.BatchNorm2d) for one in fast.modules())
    assert (fast(images) - wanted).abs().max() < 1e-4 * wanted.abs().max()


@needs_timm
@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:test_vit", "timm:tf_efficientnet_lite0"])
def test_timm_network_is_exported(name: str, tmp_path: Path) -> None:
    backbone = load_backbone("none", 64, name)
    size = backbone.module(torch.zeros(1, 3, 64, 64)).shape[1]
    generator = torch.Generator().manual_seed(0)
    heads = (Head(torch.randn(3, size, generator=generator), torch.zeros(3)) for _ in range(2))

    export(Classifier(backbone, *heads, ("a", "b", "c"), {}), "onnx", tmp_path / "model")  # compares the answers

    assert (tmp_path / "model").stat().st_size > 100_000


def load_pretrained(environment: dict[str, str]) -> str:
    """The origin and warning of a network, in a process of its own: huggingface_hub reads its settings at import."""
    code = (
        "from image_classifier.nets.classifier import load_backbone\n"
        "loaded = load_backbone('imagenet', 64, 'timm:test_vit')\n"
        "print(loaded.origin, loaded.warning)"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | environment
    ).stdout


@needs_timm
def test_weights_that_cannot_be_downloaded_leave_random_ones_and_the_fix() -> None:
    printed = load_pretrained({"HF_ENDPOINT": "http://127.0.0.1:9"})

    assert printed.startswith("random Can't load the pretrained weights (the download failed: ")
    assert "Connection refused" in printed
    assert "set NETWORK=timm:tf_efficientnet_lite0" in printed
    assert "download https://huggingface.co/timm/test_vit.r160_in1k and set WEIGHTS to the file" in printed


@needs_timm
def test_server_that_never_answers_is_given_up_within_seconds() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        printed = load_pretrained({"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"})
        asked = 0
        silent.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                asked += 1

    assert printed.startswith("random Can't load the pretrained weights (the download failed: ")
    assert asked == 1  # huggingface_hub alone would have tried six times for each of several files


@needs_timm
def test_downloaded_weights_are_loaded_without_asking_the_server(tmp_path: Path) -> None:
    folder = tmp_path / "hub/models--timm--test_vit.r160_in1k"
    (folder / "snapshots/abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("abc")
    save_file(network_of("timm:test_vit", 160).state_dict(), folder / "snapshots/abc/model.safetensors")

    printed = load_pretrained({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)})

    assert printed.strip() == "imagenet"
