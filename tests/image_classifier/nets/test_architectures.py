"""Networks by name: without their last layer, trained, saved, loaded, and the same afterwards."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from image_classifier.data.dataset import Sample
from image_classifier.nets.architectures import Bare, UnknownNetwork, build, check_size, preprocessing_of
from image_classifier.nets.classifier import load_backbone
from image_classifier.nets.networks import load_file
from image_classifier.nets.weights import WeightsError
from tests.image_classifier.nets.trained import check_training_and_saving

# A small network of each of torchvision's families.
QUICK = [
    *("resnet34", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny"),
    *("regnet_y_400mf", "shufflenet_v2_x0_5"),
]
SLOW = ["vit_b_16", "swin_t", "densenet121", "vgg11_bn", "alexnet", "maxvit_t", "efficientnet_v2_s", "regnet_x_400mf"]
# timm's own small ones for tests, and the one that many will choose; they are quick.
TIMM = ["timm:test_vit", "timm:test_efficientnet", "timm:test_convnext", "timm:vit_small_patch14_dinov2"]
SIZES = {"maxvit_t": 224, "timm:vit_small_patch14_dinov2": 56}  # others take images of 64 pixels
needs_timm = pytest.mark.skipif(not find_spec("timm") and "CI" not in os.environ, reason="timm isn't installed")


def family(name: str) -> str:
    """The module in which a library has the network."""
    return str(torchvision.models.get_model_builder(name).__module__)


def is_offered(name: str) -> bool:
    try:
        preprocessing_of(name, 64)
    except UnknownNetwork:
        return False
    return True


def test_every_family_of_torchvision_is_tried() -> None:
    offered = filter(is_offered, torchvision.models.list_models(module=torchvision.models))
    assert {family(name) for name in offered} == {family(name) for name in (*QUICK, *SLOW)}


@pytest.mark.parametrize(
    "name",
    [
        *QUICK,
        *(pytest.param(name, marks=needs_timm) for name in TIMM),
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    ],
)
def test_trained_network_is_saved_and_loaded_with_the_same_answers(
    name: str, samples: list[Sample], tmp_path: Path
) -> None:
    check_training_and_saving(name, SIZES.get(name, 64), samples[:18], tmp_path)


def test_networks_of_the_same_weights_have_fingerprints_of_their_own() -> None:
    assert load_backbone("none", 64).fingerprint != load_backbone("none", 64, "resnet34").fingerprint
    assert load_backbone("none", 64).fingerprint == load_backbone("none", 64, "resnet18").fingerprint


@pytest.mark.parametrize(
    ("name", "side", "interpolation"),
    [("resnet18", 224, "bilinear"), ("efficientnet_b3", 300, "bicubic"), ("efficientnet_v2_l", 480, "bicubic")],
)
def test_network_sees_images_as_its_own_weights_did(name: str, side: int, interpolation: str) -> None:
    own = preprocessing_of(name, None)

    assert (own.crop_size, own.interpolation) == (side, interpolation)
    assert own.mean == ((0.5, 0.5, 0.5) if name == "efficientnet_v2_l" else (0.485, 0.456, 0.406))
    assert preprocessing_of(name, 96).crop_size == 96
    assert type(own).from_record(own.record()) == own


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("resnet-50", 64, "resnet50"),
        ("", 64, "resnet50"),
        ("squeezenet1_0", 64, "does not end in a linear layer"),
        ("mnasnet0_5", 64, "safetensors"),
        ("inception_v3", 299, "auxiliary outputs"),
        ("fcn_resnet50", 64, "torchvision has no network fcn_resnet50"),
        ("alexnet", 16, "can't take images of 16×16 pixels"),
        ("maxvit_t", 100, "can't take images of 100×100 pixels"),
    ],
)
def test_network_that_cannot_be_had_is_named_with_the_fix(name: str, size: int, said: str) -> None:
    with pytest.raises(WeightsError, match="NETWORK=") as refused:
        load_backbone("none", size, name)
    assert said in str(refused.value)


def test_network_that_gives_more_than_one_embedding_is_refused() -> None:
    with pytest.raises(UnknownNetwork, match="a network doesn't produce one embedding per image: choose another"):
        check_size(Bare(nn.Conv2d(3, 8, 3), "head"), "a network", 16)


def test_size_that_a_network_refuses_without_a_word_is_named() -> None:
    class Silent(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            raise AssertionError("")

    with pytest.raises(UnknownNetwork, match=r"can't take images of 16×16 pixels: .* \(AssertionError\)"):
        check_size(Bare(Silent(), "head"), "a network", 16)


def test_model_of_a_network_that_this_torchvision_has_not_is_refused() -> None:
    with pytest.raises(UnknownNetwork, match="resnet999"):
        build("resnet999", 64)


def whole(name: str, **sizes: int) -> dict[str, Tensor]:
    """The weights of a network with its last layer."""
    torch.manual_seed(0)
    return dict(torchvision.models.get_model(name, weights=None, **sizes).state_dict())


def assert_same(bare: Bare, name: str, state: dict[str, Tensor], **sizes: int) -> None:
    """`bare` embeds as the whole network of these weights does before its last layer."""
    module = torchvision.models.get_model(name, weights=None, **sizes).eval()
    module.load_state_dict(state)
    module.set_submodule(bare.last_layer, nn.Identity())
    pixels = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(bare.module.eval()(pixels), module(pixels))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "densenet121"])
def test_weights_of_a_whole_network_are_loaded_without_its_last_layer(name: str, tmp_path: Path) -> None:
    state = whole(name)
    bare = build(name, 64)
    # As torchvision's files of DenseNet have it.
    old = {
        key.replace("norm1.", "norm.1.").replace("conv1.", "conv.1.") if "denselayer" in key else key: tensor
        for key, tensor in state.items()
    }

    torch.save(old, tmp_path / "weights.pth")
    load_file(bare, name, tmp_path / "weights.pth")

    assert_same(bare, name, state)


@pytest.mark.slow
def test_vision_transformer_takes_images_of_another_size_than_its_weights(tmp_path: Path) -> None:
    state = whole("vit_b_32", image_size=224)
    bare = build("vit_b_32", 64)

    torch.save(state, tmp_path / "weights.pth")
    load_file(bare, "vit_b_32", tmp_path / "weights.pth")

    assert bare.module.get_parameter("encoder.pos_embedding").shape[1] == (64 // 32) ** 2 + 1
    assert bare.module(torch.rand(2, 3, 64, 64)).shape == (2, 768)
    kept = bare.module.state_dict()["encoder.layers.encoder_layer_0.mlp.0.weight"]
    assert torch.equal(kept, state["encoder.layers.encoder_layer_0.mlp.0.weight"])
